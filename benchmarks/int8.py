"""How many faces of photographs a network in 8-bit integers names otherwise than in float32.

    python benchmarks/int8.py photos/ --detector-weights face_detection_yunet_2023mar.onnx

The faces are found once, and each network classifies the same crops both ways. A difference is that
of a face's probabilities, at the class where it is largest. Faces are also counted by how sure
float32 was of them: where two emotions are about as likely, either may come first.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from fer.models.checkpoint import Checkpoint, load_checkpoint
from fer.models.predictor import Predictor
from fer.vision.decode import IMAGE_SUFFIXES, ImageError, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights

LEADS = (0.0, 0.02, 0.05, 0.1, 1.0)
"""Bounds by which faces are grouped: how far the most probable emotion leads in float32."""


def find_crops(photos: Path, detector: FaceDetector) -> tuple[np.ndarray, int]:
    """Return the crops of all faces, uint8 (N, *shape), and the number of photographs."""
    crops, num_photos = [], 0
    for file in sorted(photos.rglob("*")):
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        try:
            faces = detector.detect(decode_photo(file.read_bytes()))
        except ImageError as error:
            print(f"{file}: {error}")
            continue
        num_photos += 1
        crops += [face.crop for face in faces]
    return np.stack(crops), num_photos


def compare(checkpoint: Checkpoint, crops: np.ndarray) -> None:
    """Print how a network's two forms differ on crops."""
    float32, int8 = (
        Predictor(checkpoint, engine=name, num_threads=1).predict_probs(crops)
        for name in ("float32", "int8")
    )
    is_renamed = float32.argmax(axis=1) != int8.argmax(axis=1)
    differences = np.abs(float32 - int8).max(axis=1)
    second, first = np.sort(float32, axis=1)[:, -2:].T
    print(f"{checkpoint.id}: {is_renamed.sum()} of {len(crops):,} faces have another name")
    for name, faces in (("all faces", differences), ("renamed", differences[is_renamed])):
        if len(faces):
            print(f"  {name:10} difference: mean {faces.mean():.4f}, largest {faces.max():.4f}")
    for low, high in pairwise(LEADS):
        rows = (low <= first - second) & (first - second < high)
        print(f"  lead of {low:g} to {high:g}: {is_renamed[rows].sum()} of {rows.sum():,}")


def main(
    photos: Annotated[Path, tyro.conf.Positional],
    checkpoints: tuple[str, ...] = ("bundled", "paper-deep"),
    detector_weights: str | None = None,
) -> None:
    """Compare the two forms of networks on the faces of photographs.

    Args:
        photos: Folder of photographs.
        checkpoints: Checkpoints that have an int8 form.
        detector_weights: YuNet's ONNX file. By default that of OpenCV's model zoo.
    """
    loaded = [load_checkpoint(each) for each in checkpoints]
    (shape,) = {checkpoint.shape for checkpoint in loaded}
    detector = FaceDetector(load_detector_weights(detector_weights), shape=shape)
    crops, num_photos = find_crops(photos, detector)
    print(f"{len(crops):,} faces in {num_photos} photographs")
    for checkpoint in loaded:
        compare(checkpoint, crops)


if __name__ == "__main__":
    tyro.cli(main)
