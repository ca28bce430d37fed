"""The paper's two networks, shallow and deep, as one family of convolutional nets."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fer.emotions import EMOTIONS
from fer.errors import InputError
from fer.images import IMAGE_SIZE


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one network of the family from another.

    Attributes:
        convolutions: Filters and kernel size of each convolution, from the input up.
        hidden: Neurons of each hidden fully connected layer.
    """

    convolutions: tuple[tuple[int, int], ...]
    hidden: tuple[int, ...]


MODELS = {
    "shallow": Architecture(convolutions=((64, 3), (128, 5)), hidden=(256,)),
    "deep": Architecture(convolutions=((64, 3), (128, 5), (512, 3), (512, 3)), hidden=(256, 512)),
}
"""The networks of sections 4.2 (4,927,111 parameters) and 4.3 (4,474,759 parameters)."""


class ConvNet(nn.Module):
    """Convolutions, then fully connected layers, then one logit a class (sections 4.2 and 4.3).

    Each convolution is padded to keep its size and followed by batch normalisation, ReLU, 2x2 max
    pooling of stride 2 and dropout; each hidden fully connected layer by batch normalisation, ReLU
    and dropout, as the parameter counts of the published networks imply.
    """

    def __init__(self, architecture: Architecture, num_classes: int, dropout: float) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels, size = 1, IMAGE_SIZE
        for filters, kernel_size in architecture.convolutions:
            blocks.append(_convolution(channels, filters, kernel_size, dropout))
            channels, size = filters, size // 2
        self.convolutions = nn.Sequential(*blocks)
        widths = (channels * size * size, *architecture.hidden)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            *(_fully_connected(*pair, dropout) for pair in pairwise(widths)),
        )
        self.output = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map standardised images (B, 1, 48, 48) float to logits (B, num_classes) float."""
        logits: Tensor = self.output(self.hidden(self.convolutions(images)))
        return logits


class Dropout(nn.Dropout):
    """torch's own dropout, drawn four times as fast on a CPU.

    There torch draws a whole number for every activation, one after another, which takes an eighth
    of the deep network's training step. Sixteen bits decide as well: four decisions a number, and a
    fraction that is right to 1/65536.
    """

    def forward(self, activations: Tensor) -> Tensor:
        """Zero a fraction of the activations (…) in training, and scale the others up."""
        if not self.training or activations.device.type != "cpu":
            return super().forward(activations)
        size = activations.numel()
        bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        is_kept = bits.view(torch.int16)[:size] >= round(self.p * 2**16) - 2**15
        scale = is_kept.to(activations.dtype).mul_(1 / (1 - self.p))
        # In the order in which the activations lie in memory, so that nothing is rearranged.
        strides = torch.empty_like(activations).stride()
        return activations * scale.as_strided(activations.shape, strides)


def build_model(name: str, num_classes: int = len(EMOTIONS), dropout: float = 0.25) -> ConvNet:
    """Build a network of ``MODELS`` with fresh weights from torch's global generator.

    Args:
        name: A key of ``MODELS``.
        num_classes: Number of logits.
        dropout: Fraction of activations dropped after every block, in [0, 1); the paper's 0.25.

    Raises:
        InputError: No network has that name.
    """
    if name not in MODELS:
        raise InputError(f"There is no model {name!r}: choose one of {', '.join(MODELS)}.")
    return ConvNet(MODELS[name], num_classes, dropout)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _convolution(channels: int, filters: int, kernel_size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel_size, padding="same"),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=2, stride=2),
        Dropout(dropout),
    )


def _fully_connected(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), Dropout(dropout)
    )
