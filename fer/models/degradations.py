"""Degrade images at random as cameras and compression do, on the batch's own device.

FER2013's faces are clean; those of photographs are small, blurred, dark on one side, noisy,
compressed or partly covered. A network that has seen only clean faces does not know them.

Shapes: B images per batch, 48x48 pixels, gray levels from 0 to 255.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

from fer.vision.decode import IMAGE_SIZE

FACE_SIZES = (12, 40)
"""Smallest and largest width in pixels of a face that is enlarged to 48 pixels."""

SMALL_FRACTION, BLURRED_FRACTION = 0.6, 0.2
"""Shares of the degraded images that are small, and of those that are blurred."""

MAX_BLUR = 2.0
"""Largest standard deviation of a Gaussian blur in pixels."""

UNEVEN_FRACTION, MAX_SLOPE = 0.3, 0.6
"""Share of the degraded images that are lit from one side, and the largest change of brightness
from the middle to an edge, as a fraction."""

NOISY_FRACTION, NOISE = 0.5, (2.0, 18.0)
"""Share of the degraded images with sensor noise, and its standard deviation in gray levels."""

COMPRESSED_FRACTION, QUALITIES = 0.4, (10, 60)
"""Share of the degraded images that were JPEG files, and their quality."""

COVERED_FRACTION, COVER_TOPS = 0.15, (24, 32)
"""Share of the degraded images whose lower part is covered, and the row where the cover begins."""

LUMINANCE_QUANTIZATION = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""JPEG's usual quantization of brightness (ITU-T T.81, table K.1)."""


@dataclass(frozen=True)
class Degradations:
    """Random damage to each image of a batch.

    It is drawn for the global batch from a shared seed and then sliced, as ``Augmentation`` is.

    Attributes:
        is_degraded: bool (B,), whether the image is changed at all.
        filters: float32 (B, 48, 48), a linear filter of columns and rows alike: a loss of
            resolution, a blur, or the identity.
        slopes: float32 (B, 2), change of brightness from the middle to the right and to the lower
            edge, as a fraction.
        cover_tops: int64 (B,), first row of the covered part; 48 for none.
        cover_levels: float32 (B,), gray level of the cover.
        noise: float32 (B, 48, 48), added gray levels.
        quantization: float32 (B, 48, 48), steps to which the coefficients of JPEG's 8x8 blocks
            are rounded; 0 where nothing is rounded.
    """

    is_degraded: Tensor
    filters: Tensor
    slopes: Tensor
    cover_tops: Tensor
    cover_levels: Tensor
    noise: Tensor
    quantization: Tensor

    @classmethod
    def draw(cls, batch_size: int, generator: torch.Generator, fraction: float) -> "Degradations":
        """Draw what happens to each image of a batch.

        Args:
            batch_size: B.
            generator: Source of all random numbers, on the CPU.
            fraction: Share of the images that are degraded.
        """

        def chosen(share: float) -> Tensor:
            return torch.rand(batch_size, generator=generator) < share

        def between(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch_size, generator=generator)

        is_uneven, is_covered = chosen(UNEVEN_FRACTION), chosen(COVERED_FRACTION)
        slopes = torch.stack(
            [between(-MAX_SLOPE, MAX_SLOPE), between(-MAX_SLOPE, MAX_SLOPE)], dim=1
        )
        deviations = between(*NOISE) * chosen(NOISY_FRACTION)
        noise = torch.randn(batch_size, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        return cls(
            is_degraded=chosen(fraction),
            filters=_draw_filters(between),
            slopes=slopes * is_uneven.unsqueeze(1),
            cover_tops=between(*COVER_TOPS).long().where(is_covered, torch.tensor(IMAGE_SIZE)),
            cover_levels=between(0, 255),
            noise=noise * deviations.reshape(-1, 1, 1),
            quantization=_draw_quantization(between, chosen(COMPRESSED_FRACTION)),
        )

    def __getitem__(self, index: slice) -> "Degradations":
        """Return what happens to a slice of the batch."""
        return Degradations(*(getattr(self, field.name)[index] for field in fields(self)))

    def apply(self, images: Tensor) -> Tensor:
        """Degrade images in the order in which it happens: covers, light, optics, sensor, file.

        Args:
            images: uint8 (B, 48, 48).

        Returns:
            uint8 (B, 48, 48); images that are not degraded are unchanged.
        """
        device = images.device
        levels = _cover(images.float(), self.cover_tops.to(device), self.cover_levels.to(device))
        levels = _light(levels, self.slopes.to(device))
        filters = self.filters.to(device)
        levels = filters @ levels @ filters.mT + self.noise.to(device)
        levels = _round(_compress(_round(levels), self.quantization.to(device)))
        return levels.to(torch.uint8).where(self.is_degraded.to(device).reshape(-1, 1, 1), images)


def _draw_filters(between: Callable[[float, float], Tensor]) -> Tensor:
    """Draw a loss of resolution, a blur or nothing for each image: float32 (B, 48, 48)."""
    kinds, sizes, blurs = between(0, 1), between(*FACE_SIZES), between(0.3, MAX_BLUR)
    filters = np.broadcast_to(np.eye(IMAGE_SIZE, dtype=np.float32), (len(kinds), *_SHAPE)).copy()
    for index, (kind, size, blur) in enumerate(zip(kinds, sizes, blurs, strict=True)):
        if kind < SMALL_FRACTION:
            filters[index] = resolution_filter(round(size.item()))
        elif kind < SMALL_FRACTION + BLURRED_FRACTION:
            # A tenth of a pixel is fine enough, and few filters have to be made.
            filters[index] = blur_filter(round(blur.item(), 1))
    return torch.from_numpy(filters)


def _draw_quantization(between: Callable[[float, float], Tensor], is_compressed: Tensor) -> Tensor:
    """Draw the steps of each image's JPEG coefficients, float32 (B, 48, 48); 0 without a file."""
    qualities = between(*QUALITIES).round()
    steps = np.stack([quantization_steps(int(quality)) for quality in qualities])
    return torch.from_numpy(steps) * is_compressed.reshape(-1, 1, 1)


_SHAPE = (IMAGE_SIZE, IMAGE_SIZE)
_IDENTITY = np.eye(IMAGE_SIZE, dtype=np.float32)


@cache
def resolution_filter(size: int) -> np.ndarray:
    """Return the filter float32 (48, 48) that shrinks 48 pixels to ``size``, then enlarges them.

    A camera averages the light that falls on a pixel; crops are enlarged bilinearly
    (``fer.vision.faces``).
    """
    shrunk = cv2.resize(_IDENTITY, (IMAGE_SIZE, size), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, _SHAPE, interpolation=cv2.INTER_LINEAR)


@cache
def blur_filter(deviation: float) -> np.ndarray:
    """Return the filter float32 (48, 48) of a Gaussian blur, in pixels; the border is mirrored."""
    return cv2.GaussianBlur(_IDENTITY, (1, 0), sigmaX=1, sigmaY=deviation)


@cache
def quantization_steps(quality: int) -> np.ndarray:
    """Return the steps of JPEG's coefficients, float32 (48, 48), at a quality from 1 to 100.

    Scaled as the Independent JPEG Group's library does (``jpeg_quality_scaling``).
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = ((LUMINANCE_QUANTIZATION * scale + 50) // 100).clip(1, 255)
    return np.tile(steps, (IMAGE_SIZE // 8, IMAGE_SIZE // 8)).astype(np.float32)


@cache
def _block_cosines() -> np.ndarray:
    """Return the cosine transform of six blocks of 8 pixels, float32 (48, 48)."""
    return np.kron(np.eye(IMAGE_SIZE // 8), cv2.dct(np.eye(8), flags=cv2.DCT_ROWS).T).astype(
        np.float32
    )


def _compress(levels: Tensor, steps: Tensor) -> Tensor:
    """Round the coefficients of each 8x8 block to multiples of their steps, as a JPEG file does."""
    cosines = torch.from_numpy(_block_cosines()).to(levels.device)
    coefficients = cosines @ (levels - 128) @ cosines.T
    rounded = (coefficients / steps.clamp_min(1)).round() * steps
    return 128 + cosines.T @ rounded.where(steps > 0, coefficients) @ cosines


def _cover(levels: Tensor, tops: Tensor, covers: Tensor) -> Tensor:
    """Replace each image's rows from its top on by one gray level, as a mask or a hand does."""
    rows = torch.arange(IMAGE_SIZE, device=levels.device).reshape(1, -1, 1)
    return levels.where(rows < tops.reshape(-1, 1, 1), covers.reshape(-1, 1, 1))


def _light(levels: Tensor, slopes: Tensor) -> Tensor:
    """Brighten each image towards one side and darken it towards the other."""
    places = torch.linspace(-1, 1, IMAGE_SIZE, device=levels.device)
    x, y = places.reshape(1, 1, -1), places.reshape(1, -1, 1)
    to_right, to_bottom = slopes.reshape(-1, 2, 1, 1).unbind(dim=1)
    return levels * (1 + to_right * x + to_bottom * y)


def _round(levels: Tensor) -> Tensor:
    """Round to whole gray levels from 0 to 255."""
    return levels.round().clamp(0, 255)
