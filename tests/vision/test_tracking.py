"""Faces keep their numbers from frame to frame."""

import numpy as np
import pytest

from fer.vision.tracking import MAX_GAP_SECONDS, Tracker

BOX = (40.0, 40.0, 20.0, 24.0)


def walk(fps, seconds=8.0):
    """Yield the time and the boxes of three faces: two that cross, one that turns around."""
    for time in np.arange(0, seconds, 1 / fps):
        yield (
            time,
            [
                (20 + 30 * time, 100, 60, 72),
                (300 - 30 * time, 190, 60, 72),
                (400 + 40 * np.sin(time), 60 + 40 * np.cos(time), 60, 72),
            ],
        )


def follow(frames, order=None):
    """Return the track of each face in each frame, in the order of the faces."""
    tracker, tracks = Tracker(), []
    for time, boxes in frames:
        places = list(range(len(boxes))) if order is None else list(order.permutation(len(boxes)))
        found = tracker.update(time, [boxes[place] for place in places])
        tracks.append([found[places.index(face)] for face in range(len(boxes))])
    return tracks


@pytest.mark.parametrize("fps", [1, 2, 5, 25])
def test_faces_that_move_and_cross_keep_their_numbers(fps):
    tracks = follow(walk(fps), np.random.default_rng(0))
    assert len({tuple(frame) for frame in tracks}) == 1


def test_faces_that_hide_each_other_for_a_moment_keep_their_numbers():
    frames = [(number / 10, [(10 + 4 * number, 50, 40, 48)]) for number in range(60)]
    for number in range(60):
        if not 25 <= number < 32:
            frames[number][1].append((250 - 4 * number, 52, 40, 48))
    tracks = follow(frames)
    assert {frame[0] for frame in tracks} == {0}
    assert {frame[1] for frame in tracks if len(frame) == 2} == {1}


def test_tracks_are_numbered_in_the_order_in_which_faces_appear():
    tracker = Tracker()
    assert tracker.update(0.0, [BOX, (200, 40, 20, 24)]) == [0, 1]
    assert tracker.update(0.2, []) == []
    assert tracker.update(0.4, [(200, 40, 20, 24), (400, 40, 20, 24), BOX]) == [1, 2, 0]


def test_a_face_that_was_gone_for_long_is_a_new_track():
    tracker = Tracker()
    assert tracker.update(0.0, [BOX]) == [0]
    for number in range(1, 30):
        tracker.update(number * MAX_GAP_SECONDS / 20, [])
    assert tracker.update(10.0, [BOX]) == [1]


def test_a_gap_of_few_frames_is_short_however_seldom_frames_are():
    tracker = Tracker()
    assert tracker.update(0.0, [BOX]) == [0]
    assert tracker.update(10.0, []) == []
    assert tracker.update(20.0, [BOX]) == [0]


def test_a_face_elsewhere_is_another_one():
    tracker = Tracker()
    assert tracker.update(0.0, [BOX]) == [0]
    assert tracker.update(0.2, [(300, 200, 20, 24)]) == [1]
