"""Faces of photographs, cut out as FER2013 frames its own.

Shapes: 48x48 pixels a crop, five landmarks a face.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fer.vision.decode import IMAGE_SIZE, Photo

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


def align(gray: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Cut a face out as FER2013 frames it, its eyes level.

    Args:
        gray: Photograph, uint8 (H, W).
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
    return _cut_out(gray, corner, across * side, down * side, IMAGE_SIZE)


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
