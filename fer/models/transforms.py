"""Preprocess a uint8 batch into a float batch and augment it, on the batch's own device.

Shapes: B images per batch, 48x48 pixels, one channel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

MAX_ROTATION_DEGREES = 15.0
MAX_SHIFT = 0.1
"""As a fraction of the image's side."""

MAX_ZOOM = 0.1
"""As a fraction of the image's size."""


def standardize(images: Tensor) -> Tensor:
    """Scale each image to mean 0 and standard deviation 1, which removes differences in lighting.

    Args:
        images: uint8 or float (B, 48, 48), gray levels from 0 to 255.

    Returns:
        float32 (B, 1, 48, 48); a flat image becomes zeros.
    """
    floats = images.unsqueeze(1).float()
    mean = floats.mean(dim=(2, 3), keepdim=True)
    deviation = floats.std(dim=(2, 3), keepdim=True, correction=0)
    return (floats - mean) / deviation.clamp_min(1.0)


def equalize(images: Tensor) -> Tensor:
    """Equalize each image's histogram, then scale it to mean 0 and standard deviation 1.

    Each pixel becomes the share of the image's pixels that are not brighter. Some members of the
    ensembles of Kim et al. (2016, doi 10.1007/s12193-015-0209-0) use this contrast normalization.

    Args:
        images: uint8 (B, 48, 48), gray levels from 0 to 255.

    Returns:
        float32 (B, 1, 48, 48); a flat image becomes zeros.
    """
    levels = images.flatten(start_dim=1).long()
    counts = torch.zeros(images.shape[0], 256, device=images.device)
    histogram = counts.scatter_add(1, levels, torch.ones_like(levels, dtype=torch.float32))
    ranks = histogram.cumsum(dim=1).gather(1, levels)
    return standardize(ranks.reshape(images.shape) * (255 / levels.shape[1]))


PREPROCESSING: dict[str, Callable[[Tensor], Tensor]] = {
    "standardize": standardize,
    "equalize": equalize,
}
"""Functions that turn uint8 images into network input, by the name that a checkpoint stores."""


@dataclass(frozen=True)
class Augmentation:
    """A random affine transform for each image of a batch.

    The transforms are drawn for the global batch from a shared seed and then sliced. An image thus
    gets the same transform on whichever worker it lands.

    Attributes:
        matrices: float32 (B, 2, 3), maps from output to input coordinates in [-1, 1], x before y.
    """

    matrices: Tensor

    @classmethod
    def draw(cls, batch_size: int, generator: torch.Generator) -> "Augmentation":
        """Draw a rotation, a zoom and a shift for each image, and mirror half of the images."""
        rotation, zoom, shift_x, shift_y = torch.rand(4, batch_size, generator=generator) * 2 - 1
        mirror = torch.randint(0, 2, (batch_size,), generator=generator) * 2.0 - 1
        angle = rotation * math.radians(MAX_ROTATION_DEGREES)
        scale = 1 + zoom * MAX_ZOOM
        cos, sin = scale * angle.cos(), scale * angle.sin()
        # Coordinates run from -1 to 1, so a shift by 0.1 of the side is a shift by 0.2.
        shift = 2 * MAX_SHIFT * torch.stack([shift_x, shift_y])
        rows = [
            torch.stack([mirror * cos, -sin, shift[0]]),
            torch.stack([mirror * sin, cos, shift[1]]),
        ]
        return cls(torch.stack(rows).permute(2, 0, 1).contiguous())

    def __getitem__(self, index: slice) -> "Augmentation":
        """Return the transforms of a slice of the batch."""
        return Augmentation(self.matrices[index])

    def apply(self, images: Tensor) -> Tensor:
        """Transform preprocessed images (B, 1, 48, 48); pixels from outside repeat the border."""
        grid = F.affine_grid(
            self.matrices.to(images.device), list(images.shape), align_corners=False
        )
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def mirror(images: Tensor) -> Tensor:
    """Mirror images (…, 48) left to right."""
    return images.flip(-1)
