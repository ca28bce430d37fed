"""Speed of ingest on photographs of faces, against plain processes that decode, detect and crop.

    python benchmarks/portraits.py photos/ --number 10000

Each photograph that is ingested is a portrait: one face of the photographs in a folder and what is
around it, three times as wide as the face. There are as many portraits as wanted, in color, in a
folder for each class. The job makes 112x112 color of them, checks and hashes each one, writes
Parquet, counts, and draws two figures. `bare stages` are plain processes, one for each CPU, that
share the files and keep the crops in memory.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import tyro
from footage import read_photos
from processes import num_cpus
from turns import Measured, quietly, seconds, take_turns, working_folder

from fer.data.emotions import EMOTIONS
from fer.data.framing import Framing, frame_image
from fer.data.rejects import RejectedError
from fer.vision.decode import Photo
from fer.vision.detector import FaceDetector, load_detector_weights
from fer.vision.faces import Face
from fer.vision.shape import ImageShape
from ray_jobs.config import IngestConfig
from ray_jobs.ingest import run

SHAPE = ImageShape(112, channels=3)
SIDE = 320
"""Width and height of a portrait, in pixels."""

MIN_FACE_SIZE = 48
"""Width in pixels of the smallest face that becomes a portrait."""


def write_portraits(photos: Path, weights: bytes, number: int, folder: Path) -> list[Path]:
    """Write portraits into a folder for each class, and return the files."""
    detector, chance = FaceDetector(weights, MIN_FACE_SIZE), np.random.default_rng(0)
    faces = [
        (pixels, face)
        for pixels in read_photos(photos)
        for face in detector.detect(Photo(pixels, pixels.shape[1], pixels.shape[0]))
    ]
    files = []
    for index, (emotion, (pixels, face)) in enumerate(
        islice(zip(cycle(EMOTIONS), cycle(faces), strict=False), number)
    ):
        files.append(folder / emotion / f"{index:06d}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        # No two portraits of a face are equal.
        portrait = cut_portrait(pixels, face, chance.uniform(-0.2, 0.2, size=2))
        files[-1].write_bytes(cv2.imencode(".jpg", portrait[..., ::-1])[1].tobytes())
    return files


def cut_portrait(pixels: np.ndarray, face: Face, shift: np.ndarray) -> np.ndarray:
    """Return a face and what is around it, uint8 (SIDE, SIDE, 3).

    Args:
        pixels: The photograph, uint8 (H, W, 3).
        face: The face.
        shift: Distance of its middle from that of the portrait, in widths of the face, (2,).
    """
    left, top, width, height = face.box
    side = round(3 * width)
    middle = np.array([left + width / 2, top + height / 2]) + shift * width
    x, y = np.round(middle - side / 2).astype(int) + side
    padded = np.pad(pixels, ((side, side), (side, side), (0, 0)), constant_values=128)
    square = padded[max(y, 0) : y + side, max(x, 0) : x + side]
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def crop_faces(files: Sequence[Path], framing: Framing) -> int:
    """Crop the largest face of each file that shows one, and return their number."""
    crops = []
    for file in files:
        with suppress(RejectedError):
            crops.append(frame_image(file.read_bytes(), framing))
    return len(crops)


def main(
    photos: tyro.conf.Positional[Path],
    number: int = 10_000,
    detector_weights: str | None = None,
    repeats: int = 3,
) -> None:
    """Compare ingest with its stages in plain processes.

    Args:
        photos: Folder of photographs of people.
        number: Number of portraits.
        detector_weights: YuNet's ONNX file. By default that of OpenCV's model zoo.
        repeats: Number of turns of each side.
    """
    weights = load_detector_weights(detector_weights)
    framing = Framing(SHAPE, weights)
    with working_folder() as folder:
        files = write_portraits(photos, weights, number, folder / "portraits")
        config = IngestConfig(
            source=(str(folder / "portraits"),),
            output=str(folder / "data"),
            image_size=SHAPE.size,
            color=True,
            detector="yunet",
            detector_weights=detector_weights,
            max_reject_fraction=0.5,
            overwrite=True,
        )
        with ProcessPoolExecutor(num_cpus(), get_context("spawn")) as pool:

            def job() -> Measured:
                with quietly():
                    return {"job": number / seconds(lambda: run(config))}

            def crop_all() -> None:
                shares = [files[first :: num_cpus()] for first in range(num_cpus())]
                list(pool.map(crop_faces, shares, [framing] * num_cpus()))

            def stages() -> Measured:
                return {"bare stages": number / seconds(crop_all)}

            stages()
            rates = take_turns((job, stages), repeats)
    for name, rate in rates.items():
        print(f"{name:11} {rate:6.0f} images/s; {rate / rates['bare stages']:.2f} of bare stages")


if __name__ == "__main__":
    tyro.cli(main)
