"""Preprocess a uint8 batch into a float batch and augment it, on the batch's own device.

Shapes: B images per batch of S x S pixels; C is 1 for gray levels, 3 for color.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from fer.models.degradations import Degradations
from fer.models.devices import send
from fer.vision.shape import IMAGE_SIZE

ERASED_SIDES = (6, 20)
"""Shortest and longest side of an erased rectangle in an image of 48x48 pixels."""

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet, where white is 1. The published
weights were trained on images that were scaled by them."""


def to_planes(images: Tensor) -> Tensor:
    """Return images uint8 (B, S, S) or (B, S, S, 3) as float32 (B, C, S, S)."""
    return (images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)).float()


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Return images uint8 (B, S, S) or (B, S, S, 3) in gray (1 channel) or in color (3).

    Gray is that of ITU-R 601.
    """
    if channels == (1 if images.ndim == 3 else 3):
        return images
    if channels == 3:
        return images.unsqueeze(3).expand(-1, -1, -1, 3)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    grays: Tensor = images.float() @ weights
    return grays.round_().to(torch.uint8)


def standardize(images: Tensor) -> Tensor:
    """Scale each image to mean 0 and standard deviation 1, which removes differences in lighting.

    Colors are scaled together, so that they keep their hue.

    Args:
        images: uint8 or float (B, S, S) or (B, S, S, 3), levels from 0 to 255.

    Returns:
        float32 (B, C, S, S); a flat image becomes zeros.
    """
    floats = to_planes(images)
    mean = floats.mean(dim=(1, 2, 3), keepdim=True)
    deviation = floats.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (floats - mean) / deviation.clamp_min(1.0)


def equalize(images: Tensor) -> Tensor:
    """Equalize each image's histogram, then scale it to mean 0 and standard deviation 1.

    Each level becomes the share of the image's levels that are not brighter. Some members of the
    ensembles of Kim et al. (2016, doi 10.1007/s12193-015-0209-0) use this contrast normalization.

    Args:
        images: uint8 (B, S, S) or (B, S, S, 3), levels from 0 to 255.

    Returns:
        float32 (B, C, S, S); a flat image becomes zeros.
    """
    levels = images.flatten(start_dim=1).long()
    counts = torch.zeros(images.shape[0], 256, device=images.device)
    histogram = counts.scatter_add(1, levels, torch.ones_like(levels, dtype=torch.float32))
    ranks = histogram.cumsum(dim=1).gather(1, levels)
    return standardize(ranks.reshape(images.shape) * (255 / levels.shape[1]))


def scale_as_imagenet(images: Tensor) -> Tensor:
    """Scale images as those on which published ImageNet weights were trained.

    Gray images are scaled by the means of the three channels' constants.

    Args:
        images: uint8 (B, S, S) or (B, S, S, 3), levels from 0 to 255.

    Returns:
        float32 (B, C, S, S).
    """
    planes = to_planes(images)
    # Not kept from call to call: a graph is exported with tensors that are none.
    constants = torch.tensor([IMAGENET_MEAN, IMAGENET_DEVIATION], device=planes.device) * 255
    if planes.shape[1] == 1:
        constants = constants.mean(dim=1, keepdim=True)
    mean, deviation = constants.reshape(2, 1, -1, 1, 1).unbind()
    return (planes - mean) / deviation


Preprocess = Callable[[Tensor], Tensor]
"""Turns images uint8 (B, S, S) or (B, S, S, 3) into network input float32 (B, C, S, S)."""

PREPROCESSING: dict[str, Preprocess] = {
    "standardize": standardize,
    "equalize": equalize,
    "imagenet": scale_as_imagenet,
}
"""Functions that turn uint8 images into network input, by the name that a checkpoint stores."""


@dataclass(frozen=True)
class AugmentationSettings:
    """How strongly images are augmented; 0 turns a part off.

    Attributes:
        mirror: Whether half of the images are mirrored.
        max_rotation: Largest rotation to either side in degrees.
        max_zoom: Largest change of scale, as a fraction of the image's size.
        max_shift: Largest shift in each direction, as a fraction of the image's side.
        erase_fraction: Share of the images of which a rectangle is erased (Zhong et al. 2017, arXiv
            1708.04896).
        degrade_fraction: Share of the images that are degraded as photographs are.
        mixup: Parameter alpha of the Beta distribution from which the share of an image's partner
            is drawn (Zhang et al. 2017, arXiv 1710.09412).
    """

    mirror: bool = True
    max_rotation: float = 15.0
    max_zoom: float = 0.1
    max_shift: float = 0.1
    erase_fraction: float = 0.0
    degrade_fraction: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """Random transforms for each image of a batch.

    The transforms are drawn for the global batch from a shared seed and then sliced. An image thus
    gets the same transform on whichever worker it lands.

    Attributes:
        matrices: float32 (B, 2, 3), maps from output to input coordinates in [-1, 1], x before y.
        boxes: int64 (B, 4), the erased rectangle as left, top, right and bottom in pixels, right
            and bottom excluded; zeros where nothing is erased. None without erasing.
        partners: int64 (B,), index in the global batch of the image to mix with. None without
            mixup.
        partner_shares: float32 (B,), share of the partner in the mixture. None without mixup.
        degradations: What happens to the images before they are preprocessed, or None.
    """

    matrices: Tensor
    boxes: Tensor | None = None
    partners: Tensor | None = None
    partner_shares: Tensor | None = None
    degradations: Degradations | None = None

    @classmethod
    def draw(
        cls,
        batch_size: int,
        generator: torch.Generator,
        settings: AugmentationSettings | None = None,
        size: int = IMAGE_SIZE,
    ) -> "Augmentation":
        """Draw the transforms of each image of a batch.

        Args:
            batch_size: B.
            generator: Source of all random numbers, on the CPU.
            settings: How strong they are; by default as ``AugmentationSettings()`` says.
            size: S.
        """
        settings = settings or AugmentationSettings()
        matrices = _draw_matrices(batch_size, generator, settings)
        boxes = partners = shares = degradations = None
        if settings.erase_fraction:
            boxes = _draw_boxes(batch_size, generator, settings.erase_fraction, size)
        if settings.mixup:
            partners = torch.randperm(batch_size, generator=generator)
            shares = _draw_shares(batch_size, generator, settings.mixup)
        if settings.degrade_fraction:
            fraction = settings.degrade_fraction
            degradations = Degradations.draw(batch_size, generator, fraction, size)
        return cls(matrices, boxes, partners, shares, degradations)

    def __getitem__(self, index: slice) -> "Augmentation":
        """Return the transforms of a slice of the batch."""
        parts = (getattr(self, field.name) for field in fields(self))
        sliced: list[Any] = [None if part is None else part[index] for part in parts]
        return Augmentation(*sliced)

    def apply(self, images: Tensor, partners: Tensor | None = None) -> Tensor:
        """Transform preprocessed images; pixels from outside repeat the border.

        Images are mixed, then moved, then a rectangle becomes 0, the mean of a standardized image.

        Args:
            images: float (B, C, S, S).
            partners: float (B, C, S, S), the image to mix each one with; None without mixup.
        """
        if partners is not None:
            images = images.lerp(partners, self.shares_on(images.device).reshape(-1, 1, 1, 1))
        matrices = send(self.matrices, images.device)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return moved if self.boxes is None else _erase(moved, send(self.boxes, images.device))

    def shares_on(self, device: torch.device) -> Tensor:
        """Return the partners' shares, float32 (B,), on a device."""
        assert self.partner_shares is not None
        return send(self.partner_shares, device)


def _draw_matrices(
    batch_size: int, generator: torch.Generator, settings: AugmentationSettings
) -> Tensor:
    """Draw a rotation, a zoom and a shift for each image, and mirror half of the images."""
    rotation, zoom, shift_x, shift_y = torch.rand(4, batch_size, generator=generator) * 2 - 1
    mirrored = torch.randint(0, 2, (batch_size,), generator=generator)
    side = 1 - 2.0 * mirrored * settings.mirror
    angle = rotation * math.radians(settings.max_rotation)
    scale = 1 + zoom * settings.max_zoom
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # Coordinates run from -1 to 1, so a shift by 0.1 of the side is a shift by 0.2.
    shift = 2 * settings.max_shift * torch.stack([shift_x, shift_y])
    rows = [
        torch.stack([side * cos, -sin, shift[0]]),
        torch.stack([side * sin, cos, shift[1]]),
    ]
    return torch.stack(rows).permute(2, 0, 1).contiguous()


def _draw_boxes(
    batch_size: int, generator: torch.Generator, erase_fraction: float, size: int
) -> Tensor:
    """Draw the rectangle (left, top, right, bottom) that each image loses; zeros for the others."""
    shortest, longest = (side * size // IMAGE_SIZE for side in ERASED_SIDES)
    sizes = torch.randint(shortest, longest + 1, (batch_size, 2), generator=generator)
    places = torch.rand(batch_size, 2, generator=generator)
    starts = (places * (size + 1 - sizes)).long()
    is_erased = torch.rand(batch_size, 1, generator=generator) < erase_fraction
    return torch.cat([starts, starts + sizes], dim=1) * is_erased


def _draw_shares(batch_size: int, generator: torch.Generator, alpha: float) -> Tensor:
    """Draw the share of each image's partner from the distribution Beta(alpha, alpha)."""
    # torch's own Beta distribution takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    shares = np.random.default_rng(seed).beta(alpha, alpha, batch_size)
    return torch.tensor(shares, dtype=torch.float32)


def _erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set a rectangle (left, top, right, bottom) of each image (B, C, S, S) to 0."""
    left, top, right, bottom = boxes.reshape(-1, 4, 1, 1, 1).unbind(dim=1)
    pixels = torch.arange(images.shape[-1], device=images.device)
    rows, columns = pixels.reshape(1, 1, -1, 1), pixels.reshape(1, 1, 1, -1)
    is_inside = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
    return images.masked_fill(is_inside, 0.0)


def resize(images: Tensor, size: int) -> Tensor:
    """Scale images float (B, C, S, S) to (B, C, size, size), without aliasing."""
    if size == images.shape[-1]:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def mirror(images: Tensor) -> Tensor:
    """Mirror images (…, S) left to right."""
    return images.flip(-1)
