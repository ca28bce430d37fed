"""A trained network that teaches another one on the device that trains it."""

from collections.abc import Callable

import torch
from torch import Tensor

from fer.models.checkpoint import load_checkpoint
from fer.models.networks import build_network
from fer.models.torch_engine import TorchEngine
from fer.models.transforms import Preprocess, resize, to_channels
from fer.vision.shape import ImageShape


class Teacher:
    """A checkpoint, perhaps an ensemble, that is asked about augmented images."""

    def __init__(self, checkpoint: str, device: torch.device) -> None:
        """Load the networks of a checkpoint onto a device.

        Args:
            checkpoint: A folder, its URI, or a name in ``fer.models.shipped.SHIPPED``.
            device: Where to run them.

        Raises:
            InputError: The folder is not a checkpoint that this version can run.
        """
        self._members = load_checkpoint(checkpoint).members
        self._engines = [
            TorchEngine(build_network(member), member.config.preprocessing, device)
            for member in self._members
        ]

    @torch.no_grad()
    def view_probs(self, view: Callable[[Preprocess], Tensor]) -> Tensor:
        """Return probabilities float32 (B, C): the members' softmax, averaged by their shares.

        Args:
            view: Takes a member's preprocessing, and returns the images as that member shall see
                them: float (B, C, S, S) on the teacher's device.
        """
        probs = [
            member.share
            * (
                engine.run(_view_as(member.config.shape, view, engine.preprocess))
                / member.config.temperature
            ).softmax(1)
            for engine, member in zip(self._engines, self._members, strict=True)
        ]
        return torch.stack(probs).sum(dim=0)


def _view_as(
    shape: ImageShape, view: Callable[[Preprocess], Tensor], preprocess: Preprocess
) -> Tensor:
    """Return the images float (B, C, S, S) that a member of some shape sees."""
    seen = view(lambda images: preprocess(to_channels(images, shape.channels)))
    return resize(seen, shape.size)
