"""The shape of face images: one side and one number of channels for a whole dataset or network."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

IMAGE_SIZE = 48
"""Side of FER2013's images in pixels."""

MIN_SIZE, MAX_SIZE = 24, 224
"""Smallest and largest side of images in pixels."""


@dataclass(frozen=True)
class ImageShape:
    """The shape of square images of faces.

    Attributes:
        size: Side in pixels, from ``MIN_SIZE`` to ``MAX_SIZE``.
        channels: 1 for gray levels; 3 for red, green and blue.
    """

    size: int = IMAGE_SIZE
    channels: int = 1

    def __str__(self) -> str:
        return f"{self.size}x{self.size} {'color' if self.is_color else 'gray'}"

    @property
    def is_color(self) -> bool:
        """Whether images have color."""
        return self.channels == 3

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """Pillow's name of the channels."""
        return "RGB" if self.is_color else "L"

    @property
    def array(self) -> tuple[int, ...]:
        """Shape of an array that holds an image: (size, size), or (size, size, 3) for color."""
        return (self.size, self.size, 3) if self.is_color else (self.size, self.size)

    @property
    def num_bytes(self) -> int:
        """Number of bytes of an image, one a pixel and channel."""
        return self.size * self.size * self.channels

    @classmethod
    def of(cls, images: np.ndarray) -> "ImageShape":
        """Return the shape of the images in an array (N, size, size) or (N, size, size, 3)."""
        return cls(images.shape[1], images.shape[3] if images.ndim == 4 else 1)

    def unpack(self, data: bytes | np.ndarray) -> np.ndarray:
        """Return the images uint8 (N, *array) whose bytes follow each other, row by row."""
        flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        images: np.ndarray = flat.reshape(-1, *self.array)
        return images


FER2013_SHAPE = ImageShape()
"""Shape of FER2013's images: 48x48 gray levels."""
