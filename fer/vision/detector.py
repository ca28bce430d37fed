"""YuNet, which finds the faces of photographs: its weights, and what it finds."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pooch

from fer import storage
from fer.errors import InputError
from fer.vision.decode import IMAGE_SIZE, ImageError, Photo
from fer.vision.faces import Face, align

# Each process that looks for faces has a CPU to itself, and nothing to say about its backends.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

YUNET = "yunet-2023mar"
YUNET_URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
"""YuNet (Wu et al. 2023, doi 10.1007/s11633-023-1423-y) as OpenCV's model zoo publishes it."""

DETECTION_SIDE = 1024
"""Longer side, in pixels, that a photograph is shrunk to before faces are looked for."""

MIN_SCORE = 0.7
"""Detections below it are no faces."""

MAX_OVERLAP = 0.3
"""Of two boxes with a larger intersection over union the surer one is kept."""


class FaceDetector:
    """YuNet, ready to find the faces of photographs.

    Attributes:
        min_face_size: Faces whose box is narrower, in pixels of the photograph, are left out.
    """

    def __init__(self, weights: bytes, min_face_size: float = 16.0) -> None:
        self.min_face_size = min_face_size
        content, size = np.frombuffer(weights, np.uint8), (IMAGE_SIZE, IMAGE_SIZE)
        try:
            self._network = cv2.FaceDetectorYN.create(
                "onnx", content, np.empty(0, np.uint8), size, MIN_SCORE, MAX_OVERLAP
            )
        except cv2.error as error:
            raise InputError(
                "The detector's weights are not YuNet's: expected the ONNX file of OpenCV's model "
                "zoo, face_detection_yunet_2023mar.onnx."
            ) from error

    def detect(self, photo: Photo) -> list[Face]:
        """Return the faces of a photograph from left to right.

        Raises:
            ImageError: The detector stumbled on it.
        """
        try:
            return self._detect_faces(photo)
        except cv2.error as error:
            told = str(error).splitlines()[0][:200]
            raise ImageError("unreadable", f"Faces can't be looked for: {told}.") from error

    def _detect_faces(self, photo: Photo) -> list[Face]:
        found = [
            each for each in self._run_network(photo) if each[2] * photo.scale >= self.min_face_size
        ]
        if not found:
            return []
        gray = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY)
        faces = [_face(gray, each, photo.scale) for each in found]
        return sorted(faces, key=lambda face: tuple(face.box))

    def _run_network(self, photo: Photo) -> Iterator[np.ndarray]:
        """Yield box, landmarks and score of each face, float32 (15,), in pixels of ``pixels``."""
        height, width = photo.pixels.shape[:2]
        shrink = min(1.0, DETECTION_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA)
        self._network.setInputSize(size)
        _, found = self._network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        scale = np.tile([width / size[0], height / size[1]], 7)
        for row in found if found is not None else ():
            yield np.append(row[:14] * scale, row[14]).astype(np.float32)


def _face(gray: np.ndarray, found: np.ndarray, scale: float) -> Face:
    crop = align(gray, found[:4], found[4:14].reshape(5, 2))
    return Face((found[:4] * scale).astype(np.float32), float(found[14]), crop)


def load_detector_weights(location: str | None) -> bytes:
    """Return YuNet's weights: a file that a person named, or those of OpenCV's model zoo.

    The latter are downloaded once, checked, and kept in the user's cache.

    Raises:
        InputError: The file can't be read, or nothing can be downloaded.
    """
    if location is not None:
        try:
            return storage.read_bytes(storage.resolve(location))
        except OSError as error:
            raise InputError(f"--detector-weights {location} can't be read: {error}.") from error
    logging.getLogger("pooch").setLevel(logging.ERROR)
    cache = pooch.os_cache("fer-on-ray")
    try:
        kept = pooch.retrieve(YUNET_URL, f"sha256:{YUNET_SHA256}", path=cache, progressbar=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The face detector can't be downloaded from {YUNET_URL}: name a copy of it with "
            f"--detector-weights, run once where there is a network (it is kept in {cache}), or "
            "take each image as one face with --detector none."
        ) from error
    return Path(kept).read_bytes()


def detector_id(weights: bytes | None) -> str:
    """Return what labels call a detector: the published YuNet by its date, others by digest."""
    if weights is None:
        return "none"
    digest = hashlib.sha256(weights).hexdigest()
    return YUNET if digest == YUNET_SHA256 else f"yunet-{digest[:12]}"
