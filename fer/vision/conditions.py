"""Conditions under which photographs show faces worse than a clean crop: small, blurred, covered.

Each is applied with the libraries that cause it elsewhere: OpenCV resizes, blurs and turns, Pillow
compresses. Training draws its own (``fer.models.degradations``), so these are a test of those too.

Shapes: images uint8 (S, S), gray levels from 0 to 255, or (S, S, 3) for color. Lengths are given
for FER2013's side of 48 pixels, and grow with S, but for the width of a face in its photograph.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from PIL import Image

from fer.vision.shape import IMAGE_SIZE


@dataclass(frozen=True)
class Condition:
    """A way in which photographs degrade faces, at one strength.

    Attributes:
        kind: What degrades the face, such as ``noise``.
        level: How much, such as ``deviation 12``.
        apply: Takes an image and a generator of random numbers; returns the degraded image.
    """

    kind: str
    level: str
    apply: Callable[[np.ndarray, np.random.Generator], np.ndarray]

    @property
    def name(self) -> str:
        """Kind and level together."""
        return f"{self.kind}: {self.level}"


def degrade(image: np.ndarray, digest: str) -> list[np.ndarray]:
    """Return an image under each of the ``CONDITIONS``, the same ones for the same digest.

    Args:
        image: uint8 (S, S) or (S, S, 3).
        digest: SHA-256 of its pixels in hexadecimal digits, which seeds the random numbers.
    """
    generator = np.random.default_rng(int(digest[:16], 16))
    return [condition.apply(image, generator) for condition in CONDITIONS]


def _shrink(image: np.ndarray, _: np.random.Generator, width: int) -> np.ndarray:
    """A face that was ``width`` pixels wide in its photograph."""
    size = image.shape[:2]
    small = cv2.resize(image, (width, width), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def _add_noise(image: np.ndarray, generator: np.random.Generator, deviation: float) -> np.ndarray:
    """Noise of a sensor, with its standard deviation in gray levels."""
    noise = generator.normal(0, deviation, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def _blur(image: np.ndarray, _: np.random.Generator, deviation: float) -> np.ndarray:
    """A Gaussian blur, with its standard deviation in pixels."""
    return cv2.GaussianBlur(image, (0, 0), deviation * _scale(image))


def _compress(image: np.ndarray, _: np.random.Generator, quality: int) -> np.ndarray:
    """A JPEG file of some quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _warp(
    image: np.ndarray, _: np.random.Generator, *, degrees: float = 0.0, zoom: float = 1.0
) -> np.ndarray:
    """A face that is turned, or framed more widely (below 1) or more narrowly; borders repeat."""
    size = image.shape[:2]
    middle = (size[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, zoom)
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)


def _darken(
    image: np.ndarray, _: np.random.Generator, *, side: float = 0.0, all_: float = 0.0
) -> np.ndarray:
    """Light from one side, or too little of it, as a fraction."""
    across = np.linspace(1 + side, 1 - side, image.shape[1])
    if image.ndim == 3:
        across = across[:, None]
    return (image * across * (1 - all_)).round().clip(0, 255).astype(np.uint8)


def _cover(image: np.ndarray, _: np.random.Generator, top: int, bottom: int) -> np.ndarray:
    """Rows covered by something gray, such as a mask or glasses."""
    covered = image.copy()
    covered[round(top * _scale(image)) : round(bottom * _scale(image))] = 128
    return covered


def _scale(image: np.ndarray) -> float:
    """Return how many pixels of an image stand for one of FER2013's."""
    scale: float = image.shape[0] / IMAGE_SIZE
    return scale


CONDITIONS: tuple[Condition, ...] = (
    *(Condition("face width", f"{n} pixels", partial(_shrink, width=n)) for n in (32, 24, 16, 12)),
    *(Condition("noise", f"deviation {n}", partial(_add_noise, deviation=n)) for n in (6, 12, 18)),
    *(Condition("blur", f"{n} pixels", partial(_blur, deviation=n)) for n in (1.0, 1.5, 2.0)),
    *(Condition("JPEG", f"quality {n}", partial(_compress, quality=n)) for n in (60, 30, 15)),
    *(Condition("turn", f"{n} degrees", partial(_warp, degrees=n)) for n in (10, 20, 30)),
    *(Condition("framing", f"zoom {n}", partial(_warp, zoom=n)) for n in (0.8, 0.9, 1.2)),
    Condition("light", "from one side", partial(_darken, side=0.6)),
    Condition("light", "a third of it", partial(_darken, all_=2 / 3)),
    Condition("covered", "mouth", partial(_cover, top=30, bottom=IMAGE_SIZE)),
    Condition("covered", "eyes", partial(_cover, top=14, bottom=24)),
)
"""The conditions of ``fer evaluate --robustness``, the mildest of each kind first."""
