"""Face detection in photographs with YuNet, and loading of its weights."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pooch

from fer import storage
from fer.errors import InputError, first_line
from fer.vision.decode import ImageError, Photo
from fer.vision.faces import Face, align
from fer.vision.shape import FER2013_SHAPE, ImageShape
from fer.vision.yunet import RUNTIME_ERRORS, YuNet

# Each process that detects faces has one CPU, and OpenCV's warnings about backends are of no use.
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
"""Longer side in pixels to which a photograph is shrunk before detection."""

MIN_SCORE = 0.7
"""Detections with a lower score are dropped."""

MIN_UPRIGHT_SCORE = 0.9
"""Photographs whose faces have a lower mean score may lie on a side or upside down: YuNet finds
some of those faces, with lower scores. Measured with benchmarks/orientation.py."""

MAX_OVERLAP = 0.3
"""If two boxes have a larger intersection over union, the one with the lower score is dropped."""


class FaceDetector:
    """A detector of faces in photographs (YuNet).

    Args:
        weights: Content of YuNet's ONNX file.
        min_face_size: Minimum width of a face's box, in pixels of the original photograph. Narrower
            faces are left out.
        any_orientation: Whether photographs that may lie on a side or upside down are also searched
            turned by 90, 180 and 270 degrees.
        shape: Shape of the crops of faces.

    Raises:
        InputError: The weights are not YuNet's.
    """

    def __init__(
        self,
        weights: bytes,
        min_face_size: float = 16.0,
        *,
        any_orientation: bool = False,
        shape: ImageShape = FER2013_SHAPE,
    ) -> None:
        self.min_face_size = min_face_size
        self._shape = shape
        self.any_orientation = any_orientation
        try:
            self._network = YuNet(weights, MIN_SCORE, MAX_OVERLAP)
        except ValueError as error:
            raise InputError(
                f"The detector's weights are not YuNet's ({error}); expected the ONNX file of "
                "OpenCV's model zoo, face_detection_yunet_2023mar.onnx."
            ) from error

    def detect(self, photo: Photo) -> list[Face]:
        """Return the faces in a photograph from left to right.

        If ``any_orientation`` is set, they are those of the turn in which the sum of scores is
        largest. Boxes are in pixels of the photograph as it is.

        Raises:
            ImageError: OpenCV or ONNX Runtime failed on the photograph.
        """
        try:
            return self._detect_faces(photo)
        except (cv2.error, *RUNTIME_ERRORS) as error:
            reason = first_line(error)[:200]
            raise ImageError("unreadable", f"Face detection failed: {reason}.") from error

    def _detect_faces(self, photo: Photo) -> list[Face]:
        detections = self._detect_turned(photo, 0)
        if self.any_orientation and not _is_upright(detections):
            turned = (self._detect_turned(photo, quarters) for quarters in (1, 2, 3))
            detections = max(detections, *turned, key=_sum_of_scores)
        if not detections:
            return []
        is_color = self._shape.is_color
        pixels = photo.pixels if is_color else cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY)
        faces = [self._to_face(pixels, detection, photo.scale) for detection in detections]
        return sorted(faces, key=lambda face: tuple(face.box))

    def _to_face(self, pixels: np.ndarray, detection: np.ndarray, scale: float) -> Face:
        landmarks = detection[4:14].reshape(5, 2)
        crop = align(pixels, detection[:4], landmarks, self._shape.size)
        return Face((detection[:4] * scale).astype(np.float32), float(detection[14]), crop)

    def _detect_turned(self, photo: Photo, quarters: int) -> list[np.ndarray]:
        """Detect faces in a photograph that is turned counterclockwise by quarters of a circle.

        Returns:
            Detections as of ``_run_network``, in pixels of ``photo.pixels`` before it is turned.
        """
        height, width = photo.pixels.shape[:2]
        pixels = np.ascontiguousarray(np.rot90(photo.pixels, quarters))
        return [
            _turn_back(detection, quarters, width, height)
            for detection in self._run_network(pixels)
            if detection[2] * photo.scale >= self.min_face_size
        ]

    def _run_network(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield a detection float32 (15,) for each face in an image uint8 (H, W, 3).

        It consists of the box (left, top, width, height), five landmarks (x, y) and the score, with
        lengths in pixels of the image.
        """
        height, width = pixels.shape[:2]
        shrink = min(1.0, DETECTION_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        # Box and landmarks are seven pairs of x and y.
        scale = np.tile([width / size[0], height / size[1]], 7)
        for row in self._network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            yield np.append(row[:14] * scale, row[14]).astype(np.float32)


def _sum_of_scores(detections: list[np.ndarray]) -> float:
    return float(sum(detection[14] for detection in detections))


def _is_upright(detections: list[np.ndarray]) -> bool:
    return bool(detections) and _sum_of_scores(detections) >= MIN_UPRIGHT_SCORE * len(detections)


def _turn_back(detection: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Return where a detection lies in an image before it was turned.

    Args:
        detection: Box, landmarks and score in the turned image, float32 (15,).
        quarters: Counterclockwise turn, in quarters of a circle.
        width: Width of the image before it was turned, in pixels.
        height: Its height.
    """
    corners = np.stack([detection[:2], detection[:2] + detection[2:4]])
    points = np.concatenate([corners, detection[4:14].reshape(5, 2)])
    for turn in range(quarters, 0, -1):
        # The top of an image that is turned counterclockwise was its right side.
        side = width if turn % 2 else height
        points = np.column_stack([side - points[:, 1], points[:, 0]])
    first, last = points[:2].min(axis=0), points[:2].max(axis=0)
    turned = np.concatenate([first, last - first, points[2:].ravel(), detection[14:]])
    return turned.astype(np.float32)


def load_detector_weights(location: str | None) -> bytes:
    """Load YuNet's weights.

    Args:
        location: ONNX file to read. If None, the weights of OpenCV's model zoo are downloaded once,
            checked, and stored in the user's cache.

    Raises:
        InputError: The file can't be read, or the download failed.
    """
    if location is not None:
        try:
            return storage.read_bytes(storage.resolve(location))
        except OSError as error:
            raise InputError(f"--detector-weights {location} can't be read: {error}.") from error
    logging.getLogger("pooch").setLevel(logging.ERROR)
    cache = pooch.os_cache("fer-on-ray")
    try:
        file = pooch.retrieve(YUNET_URL, f"sha256:{YUNET_SHA256}", path=cache, progressbar=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The face detector can't be downloaded from {YUNET_URL}: pass a copy with "
            f"--detector-weights, run once with Internet access (the file is cached in {cache}), "
            "or treat each image as one face with --detector none."
        ) from error
    return Path(file).read_bytes()


def detector_id(weights: bytes | None) -> str:
    """Return the detector's id in labels: YuNet's release, or a digest of other weights.

    It is ``none`` if there are no weights.
    """
    if weights is None:
        return "none"
    digest = hashlib.sha256(weights).hexdigest()
    return YUNET if digest == YUNET_SHA256 else f"yunet-{digest[:12]}"
