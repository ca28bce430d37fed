"""Degrade images at random as cameras and compression do, on the batch's own device.

FER2013's faces are clean; those of photographs are small, blurred, dark on one side, noisy,
compressed or partly covered. A network that has seen only clean faces does not know them.

Shapes: B images per batch of S x S pixels, levels from 0 to 255. Lengths are given for images of
48x48 pixels, and grow with S.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from fer.models.devices import send
from fer.vision.shape import IMAGE_SIZE

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
class Noise:
    """Random numbers for each pixel of a batch, drawn where they are used.

    A million normal numbers a batch take a GPU no time, but a CPU longer than the GPU takes for the
    whole step. The device draws those of the global batch, of which a worker uses its rows.

    Attributes:
        deviations: float32 (B,), standard deviation of each image's noise in gray levels.
        rows: int64 (B,), place of each image in the global batch.
        global_size: Number of images in the global batch.
        seed: Seed of the global batch's noise.
    """

    deviations: Tensor
    rows: Tensor
    global_size: int
    seed: int

    @classmethod
    def draw(cls, deviations: Tensor, generator: torch.Generator) -> "Noise":
        """Draw the seed of a global batch's noise, whose deviations are given."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return cls(deviations, torch.arange(len(deviations)), len(deviations), seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> "Noise":
        """Return the noise of the images at a slice or at a tensor of indices."""
        return Noise(self.deviations[index], self.rows[index], self.global_size, self.seed)

    def levels(self, size: int, device: torch.device) -> Tensor:
        """Return what is added to the levels of all channels, float32 (B, 1, S, S)."""
        generator = torch.Generator(device).manual_seed(self.seed)
        shape = (self.global_size, 1, size, size)
        drawn = torch.randn(shape, generator=generator, device=device)
        deviations = send(self.deviations, device).reshape(-1, 1, 1, 1)
        return drawn[send(self.rows, device)] * deviations


@dataclass(frozen=True)
class Degradations:
    """Random damage to each image of a batch.

    It is drawn for the global batch from a shared seed and then sliced, as ``Augmentation`` is.

    Attributes:
        is_degraded: bool (B,), whether the image is changed at all.
        filters: int64 (B,), index in ``filter_bank`` of what is done to columns and rows alike.
        slopes: float32 (B, 2), change of brightness from the middle to the right and to the lower
            edge, as a fraction.
        cover_tops: int64 (B,), first row of the covered part; S for none.
        cover_levels: float32 (B,), level of the cover.
        noise: What the sensor adds.
        qualities: int64 (B,), quality from 1 to 100 of the JPEG file that the image was; 0 if it
            was none.
    """

    is_degraded: Tensor
    filters: Tensor
    slopes: Tensor
    cover_tops: Tensor
    cover_levels: Tensor
    noise: Noise
    qualities: Tensor

    @classmethod
    def draw(
        cls,
        batch_size: int,
        generator: torch.Generator,
        fraction: float,
        size: int = IMAGE_SIZE,
    ) -> "Degradations":
        """Draw what happens to each image of a batch.

        Args:
            batch_size: B.
            generator: Source of all random numbers, on the CPU.
            fraction: Share of the images that are degraded.
            size: S.
        """
        scale = size / IMAGE_SIZE

        def chosen(share: float) -> Tensor:
            return torch.rand(batch_size, generator=generator) < share

        def between(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch_size, generator=generator)

        is_uneven, is_covered = chosen(UNEVEN_FRACTION), chosen(COVERED_FRACTION)
        slopes = torch.stack(
            [between(-MAX_SLOPE, MAX_SLOPE), between(-MAX_SLOPE, MAX_SLOPE)], dim=1
        )
        noise = Noise.draw(between(*NOISE) * chosen(NOISY_FRACTION), generator)
        is_degraded = chosen(fraction)
        is_compressed = chosen(COMPRESSED_FRACTION) & is_degraded
        return cls(
            is_degraded=is_degraded,
            filters=_draw_filters(between),
            slopes=slopes * is_uneven.unsqueeze(1),
            cover_tops=(between(*COVER_TOPS) * scale).long().where(is_covered, torch.tensor(size)),
            cover_levels=between(0, 255),
            noise=noise,
            qualities=is_compressed * between(*QUALITIES).round().long(),
        )

    def __getitem__(self, index: slice | Tensor) -> "Degradations":
        """Return what happens to the images at a slice or at a tensor of indices."""
        return Degradations(*(getattr(self, field.name)[index] for field in fields(self)))

    def apply(self, images: Tensor) -> Tensor:
        """Degrade images in the order in which it happens: covers, light, optics, sensor, file.

        Args:
            images: uint8 (B, S, S), or (B, S, S, 3) for color.

        Returns:
            uint8 of the same shape; images that are not degraded are unchanged.
        """
        # The processor knows these rows; it would have to wait for the GPU to know them from there.
        rows = self.is_degraded.nonzero().flatten()
        if not len(rows):
            return images
        planes = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        sent = send(rows, images.device)
        degraded = planes.index_copy(0, sent, self[rows]._apply_to_planes(planes[sent]))
        return degraded.squeeze(1) if images.ndim == 3 else degraded.permute(0, 2, 3, 1)

    def _apply_to_planes(self, images: Tensor) -> Tensor:
        """Degrade all of the images uint8 (B, C, S, S)."""
        device, size = images.device, images.shape[-1]
        tops, covers = send(self.cover_tops, device), send(self.cover_levels, device)
        levels = _light(_cover(images.float(), tops, covers), send(self.slopes, device))
        filters = filter_bank(size, device)[send(self.filters, device)]
        levels = filters @ levels @ filters.mT + self.noise.levels(size, device)
        return _round(_compress(_round(levels), send(self.qualities, device))).to(torch.uint8)


WIDTHS = range(FACE_SIZES[0], FACE_SIZES[1] + 1)
"""Widths in pixels of the small faces in ``filter_bank``."""

BLURS = range(3, round(10 * MAX_BLUR) + 1)
"""Standard deviations of the blurs in ``filter_bank``, in tenths of a pixel: fine enough."""


def _draw_filters(between: Callable[[float, float], Tensor]) -> Tensor:
    """Draw a loss of resolution, a blur or nothing for each image: int64 (B,)."""
    kinds = between(0, 1)
    widths = between(WIDTHS[0], WIDTHS[-1]).round().long() - WIDTHS[0]
    blurs = between(BLURS[0], BLURS[-1]).round().long() - BLURS[0]
    is_small, is_sharp = kinds < SMALL_FRACTION, kinds >= SMALL_FRACTION + BLURRED_FRACTION
    return (1 + len(WIDTHS) + blurs).where(~is_small, 1 + widths).where(~is_sharp, 0)


@cache
def filter_bank(size: int, device: torch.device) -> Tensor:
    """Return all filters that degrade, float32 (1 + len(WIDTHS) + len(BLURS), 1, S, S).

    The first one changes nothing. Those of ``resolution_filter`` for ``WIDTHS`` follow, then those
    of ``blur_filter`` for ``BLURS``, both scaled to images of S pixels.
    """
    scale = size / IMAGE_SIZE
    filters = [np.eye(size, dtype=np.float32)]
    filters += [resolution_filter(round(width * scale), size) for width in WIDTHS]
    filters += [blur_filter(tenths / 10 * scale, size) for tenths in BLURS]
    return torch.from_numpy(np.stack(filters)).unsqueeze(1).to(device)


def resolution_filter(width: int, size: int) -> np.ndarray:
    """Return the filter float32 (S, S) that shrinks S pixels to ``width``, then enlarges them.

    A camera averages the light that falls on a pixel; crops are enlarged bilinearly
    (``fer.vision.faces``).
    """
    identity = np.eye(size, dtype=np.float32)
    shrunk = cv2.resize(identity, (size, width), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)


def blur_filter(deviation: float, size: int) -> np.ndarray:
    """Return the filter float32 (S, S) of a Gaussian blur, in pixels; the border is mirrored."""
    identity = np.eye(size, dtype=np.float32)
    return cv2.GaussianBlur(identity, (1, 0), sigmaX=1, sigmaY=deviation)


def quantization_steps(quality: int) -> np.ndarray:
    """Return the steps of JPEG's coefficients, float32 (8, 8), at a quality from 1 to 100.

    Scaled as the Independent JPEG Group's library does (``jpeg_quality_scaling``).
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = ((LUMINANCE_QUANTIZATION * scale + 50) // 100).clip(1, 255)
    return steps.astype(np.float32)


@cache
def _quantization_tables(device: torch.device) -> Tensor:
    """Return the steps at each quality, float32 (101, 1, 8, 8); row 0 is not used."""
    steps = [quantization_steps(max(1, quality)) for quality in range(101)]
    return torch.from_numpy(np.stack(steps)).unsqueeze(1).to(device)


@cache
def _block_cosines(size: int, device: torch.device) -> Tensor:
    """Return the cosine transform of a row of blocks of 8 pixels, float32 (size, size)."""
    cosines = cv2.dct(np.eye(8), flags=cv2.DCT_ROWS).T
    return torch.from_numpy(np.kron(np.eye(size // 8), cosines).astype(np.float32)).to(device)


def _compress(levels: Tensor, qualities: Tensor) -> Tensor:
    """Round the coefficients of each 8x8 block to multiples of their steps, as a JPEG file does.

    Blocks at the right and the lower edge are filled up with the last pixels, as in a file.

    Args:
        levels: float32 (B, C, S, S).
        qualities: int64 (B,), from 1 to 100; 0 leaves an image as it is.
    """
    size, device = levels.shape[-1], levels.device
    filled = F.pad(levels, [0, -size % 8, 0, -size % 8], mode="replicate")
    num_blocks = filled.shape[-1] // 8
    tiled = _quantization_tables(device)[qualities].tile(1, 1, num_blocks, num_blocks)
    cosines = _block_cosines(filled.shape[-1], device)
    coefficients = cosines @ (filled - 128) @ cosines.T
    decoded = 128 + cosines.T @ ((coefficients / tiled).round() * tiled) @ cosines
    # All are compressed, because looking for those that are would wait for the GPU.
    return decoded[..., :size, :size].where(qualities.reshape(-1, 1, 1, 1) > 0, levels)


def _cover(levels: Tensor, tops: Tensor, covers: Tensor) -> Tensor:
    """Replace each image's rows from its top on by one gray level, as a mask or a hand does."""
    rows = torch.arange(levels.shape[-1], device=levels.device).reshape(1, 1, -1, 1)
    return levels.where(rows < tops.reshape(-1, 1, 1, 1), covers.reshape(-1, 1, 1, 1))


def _light(levels: Tensor, slopes: Tensor) -> Tensor:
    """Brighten each image towards one side and darken it towards the other."""
    places = torch.linspace(-1, 1, levels.shape[-1], device=levels.device)
    x, y = places.reshape(1, 1, -1), places.reshape(1, -1, 1)
    to_right, to_bottom = slopes.reshape(-1, 2, 1, 1, 1).unbind(dim=1)
    return levels * (1 + to_right * x + to_bottom * y)


def _round(levels: Tensor) -> Tensor:
    """Round to whole gray levels from 0 to 255."""
    return levels.round().clamp(0, 255)
