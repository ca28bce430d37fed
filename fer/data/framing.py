"""Make the image of an example from an image file: the whole of it, or its largest face."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fer.data.rejects import RejectedError
from fer.vision.decode import decode_image, decode_photo
from fer.vision.shape import FER2013_SHAPE, ImageShape

if TYPE_CHECKING:
    from fer.vision.detector import FaceDetector


@dataclass(frozen=True)
class Framing:
    """How the image of an example is made from an image file.

    Attributes:
        shape: Shape of the image.
        detector_weights: YuNet's weights, to crop faces as ``fer label`` does; None takes the
            largest centered square of each file.
    """

    shape: ImageShape = FER2013_SHAPE
    detector_weights: bytes | None = None


FER2013_FRAMING = Framing()
"""Whole images, in the shape of FER2013's."""


def frame_image(data: bytes, framing: Framing) -> np.ndarray:
    """Return the image of an example, uint8 (*framing.shape.array).

    A class is told for a whole file, so of several faces the largest is meant.

    Args:
        data: The image file.
        framing: How to make the image.

    Raises:
        ImageError: The file can't be decoded, or the detector failed on it.
        RejectedError: The detector finds no face.
    """
    if framing.detector_weights is None:
        return decode_image(data, framing.shape).pixels
    faces = _detector(framing).detect(decode_photo(data))
    if not faces:
        raise RejectedError("no_face", "shows no face that the detector finds")
    return max(faces, key=lambda face: face.box[2] * face.box[3]).crop


@lru_cache(maxsize=1)
def _detector(framing: Framing) -> "FaceDetector":
    # Slow to import, and rarely needed here.
    from fer.vision.detector import FaceDetector  # noqa: PLC0415

    assert framing.detector_weights is not None
    return FaceDetector(framing.detector_weights, shape=framing.shape)
