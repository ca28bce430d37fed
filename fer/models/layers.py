"""What all networks share: a base class, and activations, pooling and dropout to choose among."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fer.vision.shape import ImageShape


class Network(nn.Module):
    """A network that maps preprocessed faces of one shape to one logit per class.

    Attributes:
        output_name: Name of its last layer, whose size is the number of classes.
        name: Its name among ``fer.models.architectures.MODELS``.
        shape: Shape of the faces.
    """

    output_name: ClassVar[str] = "output"
    name: str = "network"

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape
        self._is_frozen = False

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that computes the logits."""
        layer = self.get_submodule(self.output_name)
        assert isinstance(layer, nn.Linear)
        return layer

    def freeze_trunk(self, is_frozen: bool) -> None:
        """Keep all layers but the last as they are in training, or let them learn again.

        Frozen batch normalization keeps its statistics, and nothing before the last layer is
        dropped.
        """
        self._is_frozen = is_frozen
        self.requires_grad_(not is_frozen)
        self.last_layer.requires_grad_(True)

    def train(self, mode: bool = True) -> "Network":
        """Set the network to training or to evaluation mode; frozen layers only evaluate."""
        super().train(mode)
        if mode and self._is_frozen:
            for child in self.children():
                child.eval()
            self.last_layer.train()
        return self


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
"""The paper's ReLU (section 4.2) and its common alternatives, by name."""

FRACTION = 0.6
"""Factor by which fractional pooling shrinks each side of a feature map: 48, 28, 16, 9, 5."""


@dataclass(frozen=True)
class Layers:
    """Options that apply to every block of a network.

    Attributes:
        dropout: Fraction of activations dropped after every block, in [0, 1); the paper uses 0.25.
        batch_norm: Whether batch normalization follows each convolution and hidden fully connected
            layer.
        activation: A key of ``ACTIVATIONS``.
        pooling: ``max``, or ``fractional`` max pooling (Graham 2014, arXiv 1412.6071).
        first_kernel: Side in pixels of the first convolution's filters, which is its receptive
            field; an odd number.
    """

    dropout: float = 0.25
    batch_norm: bool = True
    activation: str = "relu"
    pooling: str = "max"
    first_kernel: int = 3


class FractionalMaxPool(nn.FractionalMaxPool2d):
    """Max pooling over 2x2 regions, placed at random in training and evenly in evaluation."""

    def forward(self, maps: Tensor) -> Tensor:
        """Shrink feature maps (B, C, H, W) to ``FRACTION`` of their height and width."""
        if self.training:
            pooled: Tensor = super().forward(maps)
            return pooled
        rows, columns = (_region_starts(size) for size in maps.shape[2:])
        lower = maps[:, :, rows].maximum(maps[:, :, [row + 1 for row in rows]])
        return lower[..., columns].maximum(lower[..., [column + 1 for column in columns]])


def _region_starts(size: int) -> list[int]:
    """Return where the evenly placed regions of fractional pooling start on a side.

    They are those of torch's operator with all its random samples at 0.5, which has no counterpart
    in ONNX.
    """
    num_regions = int(size * FRACTION)
    step = (size - 2) / (num_regions - 1)
    starts = [int((index + 0.5) * step) - int(0.5 * step) for index in range(num_regions - 1)]
    return [*starts, size - 2]


class Dropout(nn.Dropout):
    """Dropout that draws its random numbers four times as fast as torch's on a CPU.

    On a CPU, torch draws one integer for each activation, sequentially, which takes an eighth of
    the deep network's training step. Sixteen random bits are enough to decide, so this layer makes
    four decisions from each 64-bit integer. The dropped fraction is exact to 1/65536.
    """

    def forward(self, activations: Tensor) -> Tensor:
        """Zero a fraction of the activations (…) in training and scale up the rest.

        Evaluation returns the activations unchanged.
        """
        if not self.training or activations.device.type != "cpu":
            return super().forward(activations)
        size = activations.numel()
        bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        is_retained = bits.view(torch.int16)[:size] >= round(self.p * 2**16) - 2**15
        scale = is_retained.to(activations.dtype).mul_(1 / (1 - self.p))
        # Use the memory layout of the activations, so that the product copies nothing.
        strides = torch.empty_like(activations).stride()
        return activations * scale.as_strided(activations.shape, strides)


def build_pooling(layers: Layers) -> nn.Module:
    """Return a pooling layer of the kind that ``layers`` selects."""
    if layers.pooling == "fractional":
        return FractionalMaxPool(2, output_ratio=FRACTION)
    return nn.MaxPool2d(kernel_size=2, stride=2)


def pooled_size(size: int, layers: Layers) -> int:
    """Return the side in pixels of a feature map of side ``size`` after ``build_pooling``."""
    return int(size * FRACTION) if layers.pooling == "fractional" else size // 2
