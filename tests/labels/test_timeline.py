"""Timelines of the faces of a video."""

import numpy as np
import pytest

from fer.labels import timeline
from fer.labels.tally import SampleFace
from fer.labels.timeline import Line, TimelineBuilder


def rows_of(tracks, start=0):
    """Return rows of frames, five a second, each with some tracks of probabilities."""
    return [
        {
            "frame": start + number,
            "time_seconds": (start + number) / 5,
            "track": track,
            "face": face,
            "probabilities": probs,
        }
        for number, frame in enumerate(tracks)
        for face, (track, probs) in enumerate(frame)
    ]


def test_probabilities_are_averaged_over_two_seconds():
    seconds = np.arange(0, 10, 0.5)
    happy = (seconds >= 5).astype(float)
    line = Line(0, 20, seconds, np.stack([1 - happy, happy], axis=1))
    smoothed = line.smoothed()
    # Each mean is of the five points at most a second away.
    assert smoothed[:, 1].tolist() == [*[0] * 8, 0.2, 0.4, 0.6, 0.8, *[1] * 8]
    assert smoothed.sum(axis=1) == pytest.approx(np.ones(20))
    assert line.turns() == [(0.0, 0), (5.0, 1)]


def test_a_track_is_as_long_as_its_faces_are_seen():
    builder = TimelineBuilder("/a.mp4")
    first = [[(0, [1.0, 0.0]), (1, [0.5, 0.5])]] * 10
    second = [[(0, [0.0, 1.0])]] * 5
    sample = SampleFace("d", "/a.mp4", "happy", 1.0, b"jpeg", face=1, seconds=0.4)
    builder.add(rows_of(first), [sample])
    builder.add(rows_of(second, start=10), [])
    built = builder.build()
    assert (built.video, built.num_frames, built.num_tracks) == ("/a.mp4", 15, 2)
    longest, other = built.lines
    assert (longest.track, longest.num_faces, longest.seconds[-1]) == (0, 15, 2.8)
    assert (other.track, other.num_faces, other.seconds[-1]) == (1, 10, 1.8)
    assert built.samples == {0: [], 1: [sample]}


def test_rows_without_a_face_or_a_frame_are_no_points():
    builder = TimelineBuilder("/a.mp4")
    (row,) = rows_of([[(0, [1.0, 0.0])]])
    empty = {**row, "frame": 1, "track": None, "face": None, "probabilities": None}
    problem = {**empty, "frame": None, "time_seconds": None}
    builder.add([row, empty, problem], [])
    built = builder.build()
    assert (built.num_frames, built.num_tracks) == (2, 1)
    assert TimelineBuilder("/b.mp4").build().lines == ()


def test_long_videos_keep_a_bounded_number_of_points(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_POINTS", 50)
    builder, probs = TimelineBuilder("/a.mp4"), np.random.default_rng(0).random((1000, 2))
    for start in range(0, 1000, 100):
        frames = [[(0, row.tolist())] for row in probs[start : start + 100]]
        builder.add(rows_of(frames, start), [])
    (line,) = builder.build().lines
    assert 25 <= len(line.seconds) <= 50
    assert line.num_faces == 1000
    assert (np.diff(line.seconds) > 0).all()
    # A point is the mean of its faces.
    assert line.probs[0] == pytest.approx(probs[:32].mean(axis=0))
    assert line.seconds[0] == pytest.approx(np.arange(32).mean() / 5)


def test_only_the_longest_tracks_are_shown():
    builder = TimelineBuilder("/a.mp4")
    for track in range(5):
        builder.add(rows_of([[(track, [1.0, 0.0])]] * (track + 1), start=10 * track), [])
    built = builder.build()
    assert built.num_tracks == 5
    assert [line.track for line in built.lines] == [4, 3, 2]
