"""Photographs to faces: boxes, and crops framed as FER2013 frames its faces.

Shapes: 48x48 pixels a crop, five landmarks a face.
"""

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pooch

from fer import storage
from fer.errors import InputError
from fer.images import IMAGE_SIZE, ImageError, Photo

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

CROP_TO_BOX = 0.96
"""Side of FER2013's images over the longer side of the box that YuNet finds in them, the median of
800 training images."""

EYES_BELOW_TOP = 0.38
"""Height of the eyes in FER2013's images, as a fraction of the side, the median of the same."""


THUMBNAIL_SIDE = 128
BOX = (43, 108, 176)


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: Left, top, width and height in pixels of the upright photograph, float32 (4,).
        score: How sure the detector is, in [0, 1].
        crop: The face upright as FER2013 frames it, uint8 (48, 48).
    """

    box: np.ndarray
    score: float
    crop: np.ndarray


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

    def find(self, photo: Photo) -> list[Face]:
        """Return the faces of a photograph from left to right.

        Raises:
            ImageError: The detector stumbled on it.
        """
        try:
            return self._find(photo)
        except cv2.error as error:
            told = str(error).splitlines()[0][:200]
            raise ImageError("unreadable", f"Faces can't be looked for: {told}.") from error

    def _find(self, photo: Photo) -> list[Face]:
        found = [
            each for each in self._detect(photo) if each[2] * photo.scale >= self.min_face_size
        ]
        if not found:
            return []
        grey = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY)
        faces = [_face(grey, each, photo.scale) for each in found]
        return sorted(faces, key=lambda face: tuple(face.box))

    def _detect(self, photo: Photo) -> Iterator[np.ndarray]:
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


def _face(grey: np.ndarray, found: np.ndarray, scale: float) -> Face:
    crop = align(grey, found[:4], found[4:14].reshape(5, 2))
    return Face((found[:4] * scale).astype(np.float32), float(found[14]), crop)


def align(grey: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Cut a face out as FER2013 frames it, its eyes level.

    Args:
        grey: Photograph, uint8 (H, W).
        box: Left, top, width and height in its pixels, (4,).
        landmarks: Right eye, left eye, nose, right and left corner of the mouth, (5, 2) as x and y.

    Returns:
        uint8 (48, 48); where the photograph ends its border is repeated.
    """
    side = CROP_TO_BOX * max(box[2:])
    (right_x, right_y), (left_x, left_y) = landmarks[:2]
    tilt = math.atan2(left_y - right_y, left_x - right_x)
    across, down = (
        np.array([math.cos(tilt), math.sin(tilt)]),
        np.array([-math.sin(tilt), math.cos(tilt)]),
    )
    middle, eyes = box[:2] + box[2:] / 2, landmarks[:2].mean(axis=0)
    # As far across as the box is, and as far down as the eyes say.
    corner = eyes + across * ((middle - eyes) @ across - side / 2) - down * side * EYES_BELOW_TOP
    return _cut_out(grey, corner, across * side, down * side, IMAGE_SIZE)


def _cut_out(
    image: np.ndarray, corner: np.ndarray, across: np.ndarray, down: np.ndarray, size: int
) -> np.ndarray:
    """Return a square of an image, from a corner along two sides (2,), scaled to ``size`` pixels.

    Sampled finer and averaged, lest a large square be full of jagged edges; where the image ends
    its border is repeated.
    """
    finer = size * max(1, math.ceil(float(np.hypot(*across)) / size))
    start = corner + (across + down) / (2 * finer)
    fine = cv2.warpAffine(
        image,
        np.column_stack([across / finer, down / finer, start]),
        (finer, finer),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


def draw_thumbnail(photo: Photo, face: Face) -> bytes:
    """Return a face within its surroundings, its box drawn, as a JPEG file of 128x128 pixels."""
    x, y, width, height = face.box / photo.scale
    half = max(width, height)
    corner = np.array([x + width / 2 - half, y + height / 2 - half])
    across, down = np.array([2 * half, 0.0]), np.array([0.0, 2 * half])
    view = _cut_out(photo.pixels, corner, across, down, THUMBNAIL_SIDE)
    corners = np.array([[x, y], [x + width, y + height]]) - corner
    corners *= THUMBNAIL_SIDE / (2 * half)
    first, last = corners.round().astype(int).tolist()
    cv2.rectangle(view, first, last, BOX, 2)
    return encode_jpeg(cv2.cvtColor(view, cv2.COLOR_RGB2BGR))


def encode_jpeg(image: np.ndarray) -> bytes:
    """Return an image uint8 (H, W), or (H, W, 3) as blue, green and red, as a JPEG file."""
    _, file = cv2.imencode(".jpg", image)
    return bytes(file)


def detector_weights(location: str | None) -> bytes:
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
