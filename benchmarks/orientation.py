"""Faces that are found in photographs that lie on a side or upside down, with and without turning.

    python benchmarks/orientation.py photos --detector-weights face_detection_yunet_2023mar.onnx

The faces that are found in a photograph as it is count as true. It is then turned by 90, 180 and
270 degrees. A face is found again if a box overlaps the turned box by an intersection over union
of at least 0.5. Times are of detection alone, of all photographs.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from detection import count_matches

from fer.vision.decode import IMAGE_SUFFIXES, ImageError, Photo, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights

THRESHOLD = 0.5


def turn_boxes(boxes: np.ndarray, quarters: int, photo: Photo) -> np.ndarray:
    """Turn boxes (N, 4) with their photograph, counterclockwise by quarters of a circle."""
    width, height = photo.width, photo.height
    for _ in range(quarters):
        left, top, wide, high = boxes.T
        boxes = np.stack([top, width - left - wide, high, wide], axis=1)
        width, height = height, width
    return boxes


def turn_photo(photo: Photo, quarters: int) -> Photo:
    """Turn a photograph counterclockwise by quarters of a circle."""
    size = (photo.width, photo.height)[:: -1 if quarters % 2 else 1]
    return Photo(np.ascontiguousarray(np.rot90(photo.pixels, quarters)), *size)


def boxes_in(detector: FaceDetector, photo: Photo) -> np.ndarray:
    """Return the boxes of the faces in a photograph, float (N, 4)."""
    return np.array([face.box for face in detector.detect(photo)]).reshape(-1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photographs, at any depth")
    parser.add_argument("--detector-weights", help="YuNet's ONNX file; downloaded by default")
    arguments = parser.parse_args()
    weights = load_detector_weights(arguments.detector_weights)
    plain, turning = FaceDetector(weights), FaceDetector(weights, any_orientation=True)
    photos = []
    for file in sorted(arguments.folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            try:
                photos.append(decode_photo(file.read_bytes()))
            except ImageError as error:
                print(f"{file}: {error}")
    true = [boxes_in(plain, photo) for photo in photos]
    for quarters in range(4):
        line = {"degrees": 90 * quarters, "photographs": len(photos), "faces": sum(map(len, true))}
        for name, detector in (("plain", plain), ("any_orientation", turning)):
            turned = [turn_photo(photo, quarters) for photo in photos]
            start = time.perf_counter()
            detected = [boxes_in(detector, photo) for photo in turned]
            line[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
            line[f"{name}_found"] = sum(
                count_matches(turn_boxes(boxes, quarters, photo), found, THRESHOLD)
                for boxes, found, photo in zip(true, detected, photos, strict=True)
            )
            line[f"{name}_other"] = sum(map(len, detected)) - line[f"{name}_found"]
        print(json.dumps(line))


if __name__ == "__main__":
    main()
