"""A uint8 batch to a standardized float batch, and its augmentation, on the batch's own device.

Shapes: B images of a batch, 48x48 pixels, one channel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

MAX_TURN_DEGREES = 15.0
MAX_SHIFT = 0.1
MAX_ZOOM = 0.1


def standardize(images: Tensor) -> Tensor:
    """Bring each image to mean 0 and standard deviation 1, whatever the light.

    Args:
        images: uint8 or float (B, 48, 48), 0 to 255.

    Returns:
        float32 (B, 1, 48, 48); a flat image becomes zeros.
    """
    floats = images.unsqueeze(1).float()
    mean = floats.mean(dim=(2, 3), keepdim=True)
    deviation = floats.std(dim=(2, 3), keepdim=True, correction=0)
    return (floats - mean) / deviation.clamp_min(1.0)


def equalize(images: Tensor) -> Tensor:
    """Spread each image's gray levels evenly, then bring them to mean 0 and deviation 1.

    The contrast normalization that members of the ensembles of Kim et al. (2016, doi
    10.1007/s12193-015-0209-0) see: each pixel becomes the share of pixels that are not brighter.

    Args:
        images: uint8 (B, 48, 48), 0 to 255.

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
"""How a uint8 image becomes a network's input, by the name that a checkpoint gives it."""


@dataclass(frozen=True)
class Augmentation:
    """The random numbers that move each image of a batch, drawn before the batch is divided.

    Drawn for the global batch from a shared seed and then sliced, they are the same for an image
    on whichever worker it lands.

    Attributes:
        matrices: float32 (B, 2, 3), output to input coordinates in [-1, 1], x before y.
    """

    matrices: Tensor

    @classmethod
    def draw(cls, batch_size: int, generator: torch.Generator) -> "Augmentation":
        """Draw a mirroring of one half, and a turn, a zoom and a shift of each image."""
        turn, zoom, shift_x, shift_y = torch.rand(4, batch_size, generator=generator) * 2 - 1
        mirror = torch.randint(0, 2, (batch_size,), generator=generator) * 2.0 - 1
        angle = turn * math.radians(MAX_TURN_DEGREES)
        scale = 1 + zoom * MAX_ZOOM
        cos, sin = scale * angle.cos(), scale * angle.sin()
        # A shift of 0.1 of the side is one of 0.2 in coordinates that reach from -1 to 1.
        shift = 2 * MAX_SHIFT * torch.stack([shift_x, shift_y])
        rows = [
            torch.stack([mirror * cos, -sin, shift[0]]),
            torch.stack([mirror * sin, cos, shift[1]]),
        ]
        return cls(torch.stack(rows).permute(2, 0, 1).contiguous())

    def __getitem__(self, part: slice) -> "Augmentation":
        """Return the numbers of a part of the batch."""
        return Augmentation(self.matrices[part])

    def apply(self, images: Tensor) -> Tensor:
        """Move standardized images (B, 1, 48, 48), repeating the border where nothing was."""
        grid = F.affine_grid(
            self.matrices.to(images.device), list(images.shape), align_corners=False
        )
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def mirror(images: Tensor) -> Tensor:
    """Turn left and right of images (…, 48) about."""
    return images.flip(-1)
