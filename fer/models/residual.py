"""Residual networks: a stem, stages of residual blocks, and one fully connected layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fer.errors import InputError
from fer.models.layers import ACTIVATIONS, Dropout, Layers, Network
from fer.vision.shape import ImageShape

BLOCKS = range(1, 9)
"""Numbers of blocks that a network of the family may have."""

WIDTHS = (32, 48)
"""Numbers of filters that the first stage of a network of the family may have."""


@dataclass(frozen=True)
class Stage:
    """Residual blocks whose feature maps have the same shape.

    Attributes:
        width: Number of output channels of each block.
        num_blocks: Number of blocks.
    """

    width: int
    num_blocks: int


def _stages(width: int, num_blocks: int) -> tuple[Stage, ...]:
    """Return stages that double their width when the map size halves.

    A network has at most four stages. Networks of up to four blocks have one block a stage. Each
    further block goes into the last stage that still has one, so eight blocks make two a stage.
    """
    counts = [2 if stage >= 8 - num_blocks else 1 for stage in range(min(num_blocks, 4))]
    return tuple(Stage(width * 2**stage, count) for stage, count in enumerate(counts))


RESIDUAL_NETWORKS = {
    f"resnet{2 * num_blocks + 2}-w{width}": _stages(width, num_blocks)
    for width in WIDTHS
    for num_blocks in BLOCKS
}
"""The stages of each residual network by name.

As in ResNet-18, the first number counts the layers with weights: the stem, two convolutions a
block, and the last layer. The second number is the width of the first stage. ``resnet10-w32``
(1,227,623 parameters) and ``resnet10-w48`` (2,758,423 parameters) have one block in each of four
stages.
"""


class ResNet(Network):
    """A network of basic residual blocks (He et al. 2015, arXiv 1512.03385), for small images.

    A 3x3 convolution of stride 2, the stem, halves the image. The first block of each later
    stage halves them. Global average pooling, dropout and one fully connected layer follow the last
    stage.
    """

    def __init__(
        self, stages: Sequence[Stage], num_classes: int, shape: ImageShape, layers: Layers
    ) -> None:
        super().__init__(shape)
        if layers.pooling != "max":
            raise InputError(
                f"Residual networks halve their maps by strides, so {layers.pooling} pooling does "
                "not apply to them; leave --pooling out or choose another --model."
            )
        channels = stages[0].width
        self.stem = nn.Sequential(
            *_normalized(shape.channels, channels, layers.first_kernel, 2, layers),
            ACTIVATIONS[layers.activation](),
        )
        blocks = []
        for number, stage in enumerate(stages):
            strides = [2 if number else 1] + [1] * (stage.num_blocks - 1)
            for stride in strides:
                blocks.append(ResidualBlock(channels, stage.width, stride, layers))
                channels = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Dropout(layers.dropout))
        self.output = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images (B, C, H, W) float to logits (B, num_classes) float."""
        logits: Tensor = self.output(self.pooling(self.blocks(self.stem(images))))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to the block's input.

    A 1x1 convolution, the shortcut, adapts the input where the shape changes.
    """

    def __init__(self, channels: int, filters: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.first = nn.Sequential(
            *_normalized(channels, filters, 3, stride, layers), ACTIVATIONS[layers.activation]()
        )
        self.second = nn.Sequential(*_normalized(filters, filters, 3, 1, layers))
        is_same_shape = stride == 1 and channels == filters
        self.shortcut = nn.Sequential(
            *([] if is_same_shape else _normalized(channels, filters, 1, stride, layers))
        )
        self.activation = ACTIVATIONS[layers.activation]()

    def forward(self, maps: Tensor) -> Tensor:
        """Map features (B, channels, H, W) to (B, filters, H / stride, W / stride)."""
        activated: Tensor = self.activation(self.second(self.first(maps)) + self.shortcut(maps))
        return activated


def _normalized(
    channels: int, filters: int, kernel_size: int, stride: int, layers: Layers
) -> list[nn.Module]:
    """Return a convolution, and the batch normalization that replaces its bias."""
    convolution = nn.Conv2d(
        channels,
        filters,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        bias=not layers.batch_norm,
    )
    return [convolution, *([nn.BatchNorm2d(filters)] if layers.batch_norm else [])]
