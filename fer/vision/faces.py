"""Crop the faces of photographs, framed as in FER2013."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fer.vision.decode import Photo

CROP_TO_BOX = 0.96
"""Side of an image of FER2013 divided by the longer side of YuNet's box around its face. It is the
median of 800 training images."""

EYES_BELOW_TOP = 0.38
"""Distance of the eyes from the top of an image of FER2013, as a fraction of its side. It is the
median of the same 800 images."""

JPEG_QUALITY = 85
THUMBNAIL_SIDE = 128
BOX_COLOR = (43, 108, 176)


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: Left, top, width and height in pixels of the upright photograph, float32 (4,).
        score: Score of the detector, in [0, 1].
        crop: The upright face, framed as in FER2013: uint8 (size, size), or (size, size, 3).
    """

    box: np.ndarray
    score: float
    crop: np.ndarray


def align(image: np.ndarray, box: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Crop a face, framed as in FER2013 and rotated until the eyes are level.

    Args:
        image: Photograph, uint8 (H, W) or (H, W, 3).
        box: Left, top, width and height of the face in pixels, (4,).
        landmarks: Right eye, left eye, nose, right and left corner of the mouth, (5, 2) as x and y.
        size: Side of the crop in pixels.

    Returns:
        uint8 (size, size) or (size, size, 3). Beyond the photograph's edges, its border pixels are
        repeated.
    """
    side = CROP_TO_BOX * max(box[2:])
    (right_x, right_y), (left_x, left_y) = landmarks[:2]
    tilt = math.atan2(left_y - right_y, left_x - right_x)
    # Unit vectors of the face's own axes.
    right = np.array([math.cos(tilt), math.sin(tilt)])
    down = np.array([-math.sin(tilt), math.cos(tilt)])
    center, eyes = box[:2] + box[2:] / 2, landmarks[:2].mean(axis=0)
    # The crop is centered on the box horizontally, and placed by the eyes vertically.
    corner = eyes + right * ((center - eyes) @ right - side / 2) - down * side * EYES_BELOW_TOP
    return _crop_square(image, corner, right * side, down * side, size)


def _crop_square(
    image: np.ndarray, corner: np.ndarray, right: np.ndarray, down: np.ndarray, size: int
) -> np.ndarray:
    """Crop a square, which may be rotated, and scale it to ``size`` pixels.

    Beyond the image's edges, its border pixels are repeated.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        corner: Top left corner of the square, (2,) as x and y.
        right: Vector from the top left to the top right corner, (2,).
        down: Vector from the top left to the bottom left corner, (2,).
        size: Side of the result.
    """
    # Sampling a large square at only size x size points would cause aliasing, so it is sampled at a
    # multiple of that and averaged.
    fine_size = size * max(1, math.ceil(float(np.hypot(*right)) / size))
    first_center = corner + (right + down) / (2 * fine_size)
    fine = cv2.warpAffine(
        image,
        np.column_stack([right / fine_size, down / fine_size, first_center]),
        (fine_size, fine_size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


def draw_thumbnail(photo: Photo, face: Face) -> bytes:
    """Draw a face with its surroundings and its box, as a JPEG file of 128x128 pixels."""
    x, y, width, height = face.box / photo.scale
    half = max(width, height)
    corner = np.array([x + width / 2 - half, y + height / 2 - half])
    right, down = np.array([2 * half, 0.0]), np.array([0.0, 2 * half])
    view = _crop_square(photo.pixels, corner, right, down, THUMBNAIL_SIDE)
    corners = np.array([[x, y], [x + width, y + height]]) - corner
    corners *= THUMBNAIL_SIDE / (2 * half)
    first, last = corners.round().astype(int).tolist()
    cv2.rectangle(view, first, last, BOX_COLOR, 2)
    return encode_jpeg(cv2.cvtColor(view, cv2.COLOR_RGB2BGR))


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an image uint8 (H, W), or (H, W, 3) as blue, green and red, as a JPEG file."""
    _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(file)
