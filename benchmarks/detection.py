"""Recall and false detections of the face detector on photographs with marked faces.

    python benchmarks/detection.py photos/dlib --detector-weights face_detection_yunet_2023mar.onnx

The folder holds photographs and dlib's XML files with the true boxes of their faces. Detected boxes
are matched in the order of their scores, each to the unmatched true box with the largest
intersection over union, if it reaches a threshold. The field's threshold is 0.5. The benchmark also
uses 0.4, because dlib draws squares and YuNet taller boxes around the same face.
"""

import argparse
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer.vision.decode import decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights

THRESHOLDS = (0.4, 0.5)


def true_boxes(folder: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield photographs with their true boxes: left, top, width and height, float (N, 4)."""
    for file in sorted(folder.glob("*.xml")):
        for image in ET.parse(file).getroot().iter("image"):
            sides = ("left", "top", "width", "height")
            boxes = [[float(box.attrib[side]) for side in sides] for box in image.iter("box")]
            yield folder / image.attrib["file"], np.array(boxes).reshape(-1, 4)


def detect_boxes(detector: FaceDetector, photograph: Path) -> np.ndarray:
    """Return the detected boxes, float (N, 4), those with the highest scores first."""
    faces = detector.detect(decode_photo(photograph.read_bytes()))
    faces.sort(key=lambda face: -face.score)
    return np.array([face.box for face in faces]).reshape(-1, 4)


def count_matches(true: np.ndarray, detected: np.ndarray, threshold: float) -> int:
    """Return the number of true boxes that have a match."""
    overlaps = overlap(detected[:, None], true[None])
    for row in overlaps:
        if len(row) and row.max() >= threshold:
            overlaps[:, row.argmax()] = -1
    return int((overlaps == -1).any(axis=0).sum())


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (…, 4)."""
    ends = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    shared = (ends - np.maximum(one[..., :2], other[..., :2])).clip(0).prod(axis=-1)
    areas = one[..., 2:].prod(axis=-1) + other[..., 2:].prod(axis=-1)
    return np.asarray(shared / (areas - shared))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photographs and dlib's XML files")
    parser.add_argument("--detector-weights")
    arguments = parser.parse_args()
    detector = FaceDetector(load_detector_weights(arguments.detector_weights))
    boxes = [(true, detect_boxes(detector, file)) for file, true in true_boxes(arguments.folder)]
    num_true, num_detected = (sum(map(len, side)) for side in zip(*boxes, strict=True))
    print(f"{len(boxes)} photographs, {num_true} faces, {num_detected} boxes detected")
    for threshold in THRESHOLDS:
        matches = sum(count_matches(true, detected, threshold) for true, detected in boxes)
        recall, num_false = matches / num_true, num_detected - matches
        print(json.dumps({"overlap": threshold, "recall": recall, "false": num_false}))


if __name__ == "__main__":
    main()
