"""Convolutional networks: the paper's two, and plain ones of one to eight convolutions."""

from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, nn

from fer.models.layers import (
    ACTIVATIONS,
    Dropout,
    Layers,
    Network,
    build_pooling,
    pooled_size,
)
from fer.vision.shape import ImageShape


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network.

    Attributes:
        filters: Number of output channels.
        kernel_size: Side of the filters in pixels.
        pooled: Whether pooling and dropout follow the convolution.
    """

    filters: int
    kernel_size: int = 3
    pooled: bool = True


@dataclass(frozen=True)
class Architecture:
    """The sizes that define one network.

    Attributes:
        convolutions: The convolutions, from input to output.
        hidden: Number of neurons of each hidden fully connected layer.
    """

    convolutions: tuple[Convolution, ...]
    hidden: tuple[int, ...]


def _plain_architecture(depth: int) -> Architecture:
    """Return a network of 3x3 convolutions that doubles its filters when the map size halves.

    A network has at most four stages, and each stage ends in pooling. Networks of up to four
    convolutions have one convolution a stage. Each further convolution goes into the last stage
    that still has one, so ``conv8`` has two in each of four stages, as in VGG (arXiv 1409.1556).
    """
    stages = [(width, stage >= 8 - depth) for stage, width in enumerate((48, 96, 192, 384))]
    convolutions: list[Convolution] = []
    for width, is_double in stages[:depth]:
        first = [Convolution(width, pooled=False)] if is_double else []
        convolutions += [*first, Convolution(width)]
    return Architecture(tuple(convolutions), hidden=(256,))


_TWO = (Convolution(64), Convolution(128, kernel_size=5))

PLAIN_NETWORKS = {
    "shallow": Architecture(_TWO, hidden=(256,)),
    "deep": Architecture((*_TWO, Convolution(512), Convolution(512)), hidden=(256, 512)),
    **{f"conv{depth}": _plain_architecture(depth) for depth in range(1, 9)},
}
"""Architectures of the networks without shortcuts, by name.

``shallow`` (4,927,111 parameters) and ``deep`` (4,474,759 parameters) are the networks of the
paper's sections 4.2 and 4.3. ``conv1`` to ``conv8`` are plain networks of one to eight
convolutions, which the paper's section 6 leaves to future work.
"""


class ConvNet(Network):
    """Convolutions, then fully connected layers, then one logit per class.

    This is the structure of the paper's networks (sections 4.2 and 4.3). Each convolution is padded
    to keep the map size and is followed by batch normalization and ReLU. If it is pooled, 2x2 max
    pooling of stride 2 and dropout come next. Batch normalization, ReLU and dropout follow each
    hidden fully connected layer, as the published parameter counts imply. ``Layers`` replaces these
    defaults.
    """

    def __init__(
        self, architecture: Architecture, num_classes: int, shape: ImageShape, layers: Layers
    ) -> None:
        super().__init__(shape)
        blocks: list[nn.Module] = []
        channels, size = shape.channels, shape.size
        first, *rest = architecture.convolutions
        for convolution in (replace(first, kernel_size=layers.first_kernel), *rest):
            blocks.append(_convolution(channels, convolution, layers))
            channels = convolution.filters
            size = pooled_size(size, layers) if convolution.pooled else size
        self.convolutions = nn.Sequential(*blocks)
        widths = (channels * size * size, *architecture.hidden)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            *(_fully_connected(*pair, layers) for pair in pairwise(widths)),
        )
        self.output = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images (B, C, H, W) float to logits (B, num_classes) float."""
        logits: Tensor = self.output(self.hidden(self.convolutions(images)))
        return logits


def _convolution(channels: int, convolution: Convolution, layers: Layers) -> nn.Sequential:
    filters = convolution.filters
    modules: list[nn.Module] = [
        nn.Conv2d(channels, filters, convolution.kernel_size, padding="same"),
        *([nn.BatchNorm2d(filters)] if layers.batch_norm else []),
        ACTIVATIONS[layers.activation](),
    ]
    if convolution.pooled:
        modules += [build_pooling(layers), Dropout(layers.dropout)]
    return nn.Sequential(*modules)


def _fully_connected(inputs: int, outputs: int, layers: Layers) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs),
        *([nn.BatchNorm1d(outputs)] if layers.batch_norm else []),
        ACTIVATIONS[layers.activation](),
        Dropout(layers.dropout),
    )
