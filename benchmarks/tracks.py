"""How well faces are followed through a video, on faces whose places are known.

    python benchmarks/tracks.py photos/ --fps 1 2 5 25

Faces are cut out of photographs of people and move on a gray ground, where they cross each other.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from footage import SIZE, read_photos

from fer.vision.decode import Photo
from fer.vision.detector import FaceDetector, load_detector_weights
from fer.vision.tracking import Tracker


def main(
    photos: tyro.conf.Positional[Path],
    *,
    detector_weights: str | None = None,
    fps: tuple[float, ...] = (1, 2, 5, 25),
    seconds: float = 60,
    slowness: float = 3,
) -> None:
    """Measure how many faces keep their track.

    Args:
        photos: Folder of photographs of people.
        detector_weights: YuNet's ONNX file. By default that of OpenCV's model zoo.
        fps: Rates at which the video is sampled.
        seconds: Length of the video.
        slowness: How slowly the faces move: with 3, by up to 0.9 of their width in a second.
    """
    detector = FaceDetector(load_detector_weights(detector_weights))
    pictures = cut_faces(read_photos(photos), detector, 4)
    walkers = [
        Walker(pictures[0], (540, 40), (420, 0), 12 * slowness),
        Walker(pictures[1], (540, 150), (-420, 20), 9 * slowness),
        Walker(pictures[2], (300, 400), (200, 40), 7 * slowness),
        Walker(pictures[3], (700, 420), (-260, 0), 15 * slowness),
    ]
    for rate in fps:
        print(json.dumps({"fps": rate, **follow(walkers, detector, rate, seconds)}))


@dataclass(frozen=True)
class Walker:
    """A face that moves from side to side.

    Attributes:
        picture: uint8 (H, W, 3).
        start: Left and top in pixels.
        reach: How far it moves to either side, in pixels.
        period: Seconds of a whole movement.
    """

    picture: np.ndarray
    start: tuple[float, float]
    reach: tuple[float, float]
    period: float

    def at(self, seconds: float) -> tuple[int, int]:
        """Return left and top at a time."""
        swing = math.sin(2 * math.pi * seconds / self.period)
        x, y = (
            round(start + reach * swing)
            for start, reach in zip(self.start, self.reach, strict=True)
        )
        return x, y


def cut_faces(
    photos: Sequence[np.ndarray], detector: FaceDetector, number: int
) -> list[np.ndarray]:
    """Return large faces with their surroundings, scaled to 200 pixels."""
    faces = []
    for pixels in photos:
        height, width = pixels.shape[:2]
        for face in detector.detect(Photo(pixels, width, height)):
            x, y, w, h = face.box
            half = 0.9 * max(w, h)
            left, top = round(x + w / 2 - half), round(y + h / 2 - half)
            side = round(2 * half)
            if w > 80 and min(left, top) >= 0 and left + side < width and top + side < height:
                cut = pixels[top : top + side, left : left + side]
                faces.append(cv2.resize(cut, (200, 200), interpolation=cv2.INTER_AREA))
        if len(faces) >= number:
            break
    return faces[:number]


def follow(
    walkers: Sequence[Walker], detector: FaceDetector, fps: float, seconds: float
) -> dict[str, Any]:
    """Detect and follow moving faces, and count those that keep their track."""
    tracker, found = Tracker(), [list[int]() for _ in walkers]
    for number in range(round(seconds * fps)):
        frame = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
        places = [walker.at(number / fps) for walker in walkers]
        for walker, (x, y) in zip(walkers, places, strict=True):
            frame[y : y + 200, x : x + 200] = walker.picture
        faces = detector.detect(Photo(frame, *SIZE))
        numbers = tracker.update(number / fps, [face.box.tolist() for face in faces])
        for face, track in zip(faces, numbers, strict=True):
            center = face.box[:2] + face.box[2:] / 2
            distances = [np.hypot(*(center - 100 - place)) for place in places]
            found[int(np.argmin(distances))].append(track)
    right = sum(Counter(own).most_common(1)[0][1] for own in found)
    changes = sum(first != second for own in found for first, second in pairwise(own))
    total = sum(map(len, found))
    return {"faces": total, "right": round(right / total, 4), "changes of track": changes}


if __name__ == "__main__":
    tyro.cli(main)
