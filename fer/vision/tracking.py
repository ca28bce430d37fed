"""Follow faces from frame to frame of a video by the overlap of their boxes and by their motion.

This is the tracker C-BIoU (Yang et al. 2023, arXiv 2211.14317): it matches boxes that are enlarged
first, which keeps faces that move far between two sampled frames. It knows no identities: a face
that was gone for longer than ``MAX_GAP_SECONDS`` gets a new number when it comes back.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BUFFERS = (0.3, 0.5)
"""Shares of its sides by which a box is enlarged on each side, in the first and the second round of
matching (section 4.3 of the paper)."""

SPARSE_SECONDS, SPARSE_BUFFER = 0.5, 1.0
"""Time between two frames from which on boxes are enlarged by so much in a third round: faces move
far in that time (benchmarks/tracks.py)."""

MOTION_SECONDS, MAX_MOTION_BOXES = 1.0, 32
"""Time whose average motion predicts the next box, and most boxes that are kept for it."""

MAX_GAP_SECONDS, MIN_GAP_FRAMES = 2.0, 3
"""A track ends after this time without a face, but not before so many frames."""


@dataclass(eq=False)
class _Track:
    """A face that is followed.

    Attributes:
        number: Number of the track in its video.
        times: Times of the latest boxes in seconds.
        boxes: The latest boxes, float64 (4,) each: left, top, width and height.
        num_missed: Number of frames since the last box.
    """

    number: int
    times: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_MOTION_BOXES))
    boxes: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MAX_MOTION_BOXES))
    num_missed: int = 0

    def predict(self, time: float) -> np.ndarray:
        """Return where the face is expected, at its last size."""
        box = self.boxes[-1].copy()
        passed = self.times[-1] - self.times[0]
        if passed > 0:
            move = (_centers(self.boxes[-1]) - _centers(self.boxes[0])) / passed
            box[:2] += move * (time - self.times[-1])
        return box

    def add(self, time: float, box: np.ndarray) -> None:
        """Add a box, and forget those that no longer tell how the face moves."""
        self.times.append(time)
        self.boxes.append(box)
        self.num_missed = 0
        # One box before the last is kept, however old it is.
        while len(self.times) > 2 and time - self.times[0] > MOTION_SECONDS:
            self.times.popleft()
            self.boxes.popleft()

    def is_lost(self, time: float) -> bool:
        """Tell whether the face has been gone for too long."""
        return self.num_missed > MIN_GAP_FRAMES and time - self.times[-1] > MAX_GAP_SECONDS


class Tracker:
    """Numbers the faces of a video so that a face keeps its number from frame to frame."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._num_tracks = 0
        self._last_time = math.inf

    def update(self, time: float, boxes: Sequence[Sequence[float]]) -> list[int]:
        """Take the faces of the next frame.

        Args:
            time: When the frame is shown, in seconds.
            boxes: Left, top, width and height of each face in pixels, in any order.

        Returns:
            The number of the track of each face, from 0 in the order in which faces appear.
        """
        found = np.array(boxes, float).reshape(-1, 4)
        self._tracks = [track for track in self._tracks if not track.is_lost(time)]
        is_sparse = time - self._last_time >= SPARSE_SECONDS
        self._last_time = time
        matched: dict[int, _Track] = {}
        for buffer in (*BUFFERS, SPARSE_BUFFER) if is_sparse else BUFFERS:
            self._match(time, found, buffer, matched)
        for track in self._tracks:
            track.num_missed += 1
        return [self._extend(matched.get(face), time, box) for face, box in enumerate(found)]

    def _match(
        self, time: float, found: np.ndarray, buffer: float, matched: dict[int, _Track]
    ) -> None:
        """Match faces and tracks that have no match yet, so that their boxes overlap most."""
        # Slow to import, and most sources hold no video.
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

        tracks = [track for track in self._tracks if track not in matched.values()]
        faces = [face for face in range(len(found)) if face not in matched]
        if not tracks or not faces:
            return
        predicted = np.array([track.predict(time) for track in tracks])
        overlaps = _overlaps(_enlarged(predicted, buffer), _enlarged(found[faces], buffer))
        for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
            if overlaps[row, column] > 0:
                matched[faces[column]] = tracks[row]

    def _extend(self, track: _Track | None, time: float, box: np.ndarray) -> int:
        if track is None:
            track = _Track(self._num_tracks)
            self._num_tracks += 1
            self._tracks.append(track)
        track.add(time, box)
        return track.number


def _centers(boxes: np.ndarray) -> np.ndarray:
    centers: np.ndarray = boxes[..., :2] + boxes[..., 2:] / 2
    return centers


def _enlarged(boxes: np.ndarray, buffer: float) -> np.ndarray:
    """Enlarge boxes (N, 4) on each side by a share of their size."""
    sizes = boxes[:, 2:]
    return np.hstack([boxes[:, :2] - buffer * sizes, (1 + 2 * buffer) * sizes])


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the area that boxes (N, 4) and (M, 4) share, divided by their union, (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(_ends(first)[:, None], _ends(second)[None])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = first[:, None, 2:].prod(axis=2) + second[None, :, 2:].prod(axis=2)
    overlaps: np.ndarray = np.divide(shared, np.maximum(areas - shared, 1e-9))
    return overlaps


def _ends(boxes: np.ndarray) -> np.ndarray:
    ends: np.ndarray = boxes[:, :2] + boxes[:, 2:]
    return ends
