"""Faces at the turns of timelines: which are kept, and which are shown."""

from itertools import pairwise

import numpy as np
import pytest

from fer.labels import timeline
from fer.labels.timeline import TimelineBuilder
from fer.labels.turns import MAX_TURN_FACES, choose_turn_faces

EMOTIONS = ("sad", "happy", "fear")


def rows_of(emotions, fps, first=0, num_faces=1, video="/a.mp4"):
    """Return rows of frames in which each face shows the same emotion, beside one another."""
    return [
        {
            "image": video,
            "frame": first + number,
            "time_seconds": (first + number) / fps,
            "track": None,
            "face": face,
            "box": {"x": 100.0 * face, "y": 0.0, "width": 40.0, "height": 40.0},
            "confidence": 0.8,
            "probabilities": [0.8 if each == emotion else 0.1 for each in range(3)],
        }
        for number, emotion in enumerate(emotions)
        for face in range(num_faces)
    ]


def built(chunks):
    """Return the timeline of a video from its label files and the faces that each keeps."""
    builder = TimelineBuilder("/a.mp4")
    for rows in chunks:
        kept = choose_turn_faces(rows, [b"jpeg"] * len(rows), EMOTIONS)
        assert len(kept) <= MAX_TURN_FACES
        assert {row["track"] for row in rows} == {None}
        # The numbers of this video's tracks are those of its faces.
        builder.add([{**row, "track": row["face"]} for row in rows], kept)
    return builder.build()


@pytest.mark.parametrize("num_files", [1, 4])
@pytest.mark.parametrize("fps", [0.2, 1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_face_is_shown_at_every_turn_that_has_room(num_files, fps, seed):
    chance = np.random.default_rng(seed)
    emotions = np.repeat(np.arange(40) % 3, chance.integers(1, 60, 40))
    cuts = [0, *sorted(chance.integers(1, len(emotions), num_files - 1).tolist()), len(emotions)]
    whole = built(rows_of(emotions[a:b].tolist(), fps, a) for a, b in pairwise(cuts))
    (line,) = whole.lines
    shown = whole.turn_faces(line, EMOTIONS)
    span = line.seconds[-1] - line.seconds[0]
    assert 1 < len(shown) <= timeline.MAX_TURNS
    for face in shown:
        assert face.sample.emotion == EMOTIONS[face.best]
        assert abs(face.sample.seconds - face.seconds) <= timeline.SMOOTHING_SECONDS
    # A file keeps fewer of its turns than it has; that may move the next face by as much again.
    room = span / timeline.MAX_TURNS * (1 if num_files == 1 else 2)
    for seconds, _ in line.turns():
        assert min(seconds - face.seconds for face in shown if face.seconds <= seconds) < room


def test_a_face_that_turns_all_the_time_fills_the_room_and_no_more():
    whole = built(rows_of([0, 1] * 250, fps=0.2, first=first) for first in (0, 500, 1000))
    (line,) = whole.lines
    assert len(line.turns()) == 1500
    assert len(whole.turn_faces(line, EMOTIONS)) in (timeline.MAX_TURNS - 1, timeline.MAX_TURNS)


def test_crowds_keep_a_bounded_number_of_faces():
    rows = rows_of([0] * 30 + [1] * 30, fps=1, num_faces=50)
    kept = choose_turn_faces(rows, [b"jpeg"] * len(rows), EMOTIONS)
    assert len(kept) == MAX_TURN_FACES


def test_faces_without_a_thumbnail_and_photographs_are_not_kept():
    photo = {**rows_of([0], 1)[0], "image": "/a.jpg", "frame": None, "time_seconds": None}
    rows = [photo, *rows_of([0, 0, 1, 1, 1, 1], fps=1), photo]
    thumbnails = [b"photo", None, None, None, None, b"late", None, b"photo"]
    (kept,) = choose_turn_faces(rows, thumbnails, EMOTIONS)
    assert (kept.seconds, kept.emotion, kept.thumbnail) == (4.0, "happy", b"late")
    assert choose_turn_faces([], [], EMOTIONS) == []


def test_the_room_is_that_of_the_whole_timeline():
    """A track that is short beside another shows no more faces than fit there."""
    builder = TimelineBuilder("/a.mp4")
    short = rows_of([number // 4 % 2 for number in range(40)], fps=1)
    long = rows_of([0] * 800, fps=1)
    faces = choose_turn_faces(short, [b"jpeg"] * len(short), EMOTIONS)
    builder.add([{**row, "track": 1} for row in short], faces)
    builder.add([{**row, "track": 0} for row in long], [])
    whole = builder.build()
    assert len(whole.turn_faces(whole.lines[1], EMOTIONS)) == 1


def test_frames_without_a_face_are_passed_over():
    """A row of a frame that has no face, or can't be decoded, lacks the columns of faces."""
    rows = rows_of([0, 0, 1, 1], 1)
    shared = {"image": "/a.mp4", "width": 640, "height": 480}
    empty = {**shared, "frame": 4, "time_seconds": 4.0, "status": "no_face"}
    damaged = {**shared, "frame": 5, "time_seconds": 5.0, "status": "unreadable"}
    jpegs = [b"jpeg"] * len(rows)
    kept = choose_turn_faces([*rows, empty, damaged], [*jpegs, None, None], EMOTIONS)
    assert kept == choose_turn_faces(rows, jpegs, EMOTIONS)
    assert kept
