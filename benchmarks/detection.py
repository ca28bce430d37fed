"""How many of the faces that people marked in photographs are found, and how much else.

    python benchmarks/detection.py photos/dlib --detector-weights face_detection_yunet_2023mar.onnx

The folder holds photographs and dlib's XML files with the true boxes of their faces. Found boxes,
the surest first, take the free true box that they overlap most, if their intersection over union
reaches a threshold: 0.5, as the field counts, and 0.4, since dlib draws squares around a face and
YuNet taller boxes, so that the same face is framed in two ways.
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
    """Yield photographs and the boxes in them: left, top, width and height, float (N, 4)."""
    for file in sorted(folder.glob("*.xml")):
        for image in ET.parse(file).getroot().iter("image"):
            sides = ("left", "top", "width", "height")
            boxes = [[float(box.attrib[side]) for side in sides] for box in image.iter("box")]
            yield folder / image.attrib["file"], np.array(boxes).reshape(-1, 4)


def found_boxes(detector: FaceDetector, photograph: Path) -> np.ndarray:
    """Return the boxes that a detector finds, float (N, 4), the surest first."""
    faces = detector.detect(decode_photo(photograph.read_bytes()))
    faces.sort(key=lambda face: -face.score)
    return np.array([face.box for face in faces]).reshape(-1, 4)


def count_pairs(true: np.ndarray, found: np.ndarray, threshold: float) -> int:
    """Return how many boxes are found, each true one once."""
    overlaps = overlap(found[:, None], true[None])
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
    boxes = [(true, found_boxes(detector, file)) for file, true in true_boxes(arguments.folder)]
    num_true, num_found = (sum(map(len, each)) for each in zip(*boxes, strict=True))
    print(f"{len(boxes)} photographs, {num_true} faces, {num_found} boxes found")
    for threshold in THRESHOLDS:
        pairs = sum(count_pairs(true, found, threshold) for true, found in boxes)
        told = {"overlap": threshold, "recall": pairs / num_true, "false": num_found - pairs}
        print(json.dumps(told))


if __name__ == "__main__":
    main()
