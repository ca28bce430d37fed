"""The paper's two networks and nets of one to eight convolutions, as one family."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.vision.decode import IMAGE_SIZE


@dataclass(frozen=True)
class Convolution:
    """A convolution of the family.

    Attributes:
        filters: Maps that it makes.
        kernel_size: Side of its filters in pixels.
        pooled: Whether max pooling and dropout follow it.
    """

    filters: int
    kernel_size: int = 3
    pooled: bool = True


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one network of the family from another.

    Attributes:
        convolutions: From the input up.
        hidden: Neurons of each hidden fully connected layer.
    """

    convolutions: tuple[Convolution, ...]
    hidden: tuple[int, ...]


def _plain(depth: int) -> Architecture:
    """Return a net of 3x3 convolutions, twice as many filters each time the maps are halved.

    Up to four convolutions, each is pooled. What goes beyond four doubles stages from the last one
    down, so that eight are two in each of four stages, as in VGG (arXiv 1409.1556).
    """
    stages = [(width, stage >= 8 - depth) for stage, width in enumerate((48, 96, 192, 384))]
    convolutions: list[Convolution] = []
    for width, is_double in stages[:depth]:
        first = [Convolution(width, pooled=False)] if is_double else []
        convolutions += [*first, Convolution(width)]
    return Architecture(tuple(convolutions), hidden=(256,))


_TWO = (Convolution(64), Convolution(128, kernel_size=5))

MODELS = {
    "shallow": Architecture(_TWO, hidden=(256,)),
    "deep": Architecture((*_TWO, Convolution(512), Convolution(512)), hidden=(256, 512)),
    **{f"conv{depth}": _plain(depth) for depth in range(1, 9)},
}
"""The networks of sections 4.2 (4,927,111 parameters) and 4.3 (4,474,759 parameters), and nets of
one to eight convolutions, which section 6 leaves to future work."""


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
"""ReLU, which the paper uses (section 4.2), and its usual rivals."""

FRACTION = 0.6
"""What fractional pooling leaves of a map's side: 48, 28, 16, 9, 5."""


@dataclass(frozen=True)
class Layers:
    """What stands between the convolutions and fully connected layers of a network.

    Attributes:
        dropout: Fraction of activations dropped after every block, in [0, 1); the paper's 0.25.
        batch_norm: Whether batch normalization follows each of them.
        activation: A key of ``ACTIVATIONS``.
        pooling: ``max``, or ``fractional`` max pooling (Graham 2014, arXiv 1412.6071).
        first_kernel: Side of the first convolution's filters, odd: its receptive field in pixels.
    """

    dropout: float = 0.25
    batch_norm: bool = True
    activation: str = "relu"
    pooling: str = "max"
    first_kernel: int = 3


class ConvNet(nn.Module):
    """Convolutions, then fully connected layers, then one logit a class (sections 4.2 and 4.3).

    Each convolution is padded to keep its size and followed by batch normalization and ReLU, and
    where it is pooled by 2x2 max pooling of stride 2 and dropout; each hidden fully connected layer
    by batch normalization, ReLU and dropout, as the parameter counts of the published networks
    imply. ``Layers`` may put others in their place.
    """

    def __init__(self, architecture: Architecture, num_classes: int, layers: Layers) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels, size = 1, IMAGE_SIZE
        first, *rest = architecture.convolutions
        for convolution in (replace(first, kernel_size=layers.first_kernel), *rest):
            blocks.append(_convolution(channels, convolution, layers))
            channels = convolution.filters
            size = _pooled_size(size, layers) if convolution.pooled else size
        self.convolutions = nn.Sequential(*blocks)
        widths = (channels * size * size, *architecture.hidden)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            *(_fully_connected(*pair, layers) for pair in pairwise(widths)),
        )
        self.output = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map standardized images (B, 1, 48, 48) float to logits (B, num_classes) float."""
        logits: Tensor = self.output(self.hidden(self.convolutions(images)))
        return logits


class FractionalMaxPool(nn.FractionalMaxPool2d):
    """Max pooling over 2x2 regions that lie at random in training, and evenly in evaluation."""

    def forward(self, maps: Tensor) -> Tensor:
        """Shrink maps (B, C, H, W) to ``FRACTION`` of their height and width."""
        if self.training:
            pooled: Tensor = super().forward(maps)
            return pooled
        middle = maps.new_full((maps.shape[0], maps.shape[1], 2), 0.5)
        ratio = (FRACTION, FRACTION)
        return F.fractional_max_pool2d(maps, 2, output_ratio=ratio, _random_samples=middle)


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


def build_model(
    name: str,
    num_classes: int = len(EMOTIONS),
    **layers: Any,  # noqa: ANN401
) -> ConvNet:
    """Build a network of ``MODELS`` with fresh weights from torch's global generator.

    Args:
        name: A key of ``MODELS``.
        num_classes: Number of logits.
        layers: What differs from the defaults of ``Layers``.

    Raises:
        InputError: No network has that name.
    """
    if name not in MODELS:
        raise InputError(f"There is no model {name!r}: choose one of {', '.join(MODELS)}.")
    return ConvNet(MODELS[name], num_classes, Layers(**layers))


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _convolution(channels: int, convolution: Convolution, layers: Layers) -> nn.Sequential:
    filters = convolution.filters
    modules: list[nn.Module] = [
        nn.Conv2d(channels, filters, convolution.kernel_size, padding="same"),
        *([nn.BatchNorm2d(filters)] if layers.batch_norm else []),
        ACTIVATIONS[layers.activation](),
    ]
    if convolution.pooled:
        modules += [_pooling(layers), Dropout(layers.dropout)]
    return nn.Sequential(*modules)


def _pooling(layers: Layers) -> nn.Module:
    if layers.pooling == "fractional":
        return FractionalMaxPool(2, output_ratio=FRACTION)
    return nn.MaxPool2d(kernel_size=2, stride=2)


def _pooled_size(size: int, layers: Layers) -> int:
    return int(size * FRACTION) if layers.pooling == "fractional" else size // 2


def _fully_connected(inputs: int, outputs: int, layers: Layers) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs),
        *([nn.BatchNorm1d(outputs)] if layers.batch_norm else []),
        ACTIVATIONS[layers.activation](),
        Dropout(layers.dropout),
    )
