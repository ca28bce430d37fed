"""Diagrams of a network's architecture (the paper's Figures 3 and 4)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from fer.models.architectures import count_multiply_adds, count_parameters, run_once
from fer.models.efficientnet import InvertedResidual
from fer.models.imagenet import BasicBlock
from fer.models.layers import Network
from fer.models.residual import ResidualBlock
from fer.reports.plotting import COLORS, TEXT_COLOR, to_png

RESIDUAL_BLOCKS = (ResidualBlock, BasicBlock, InvertedResidual)
"""Modules that are drawn as one block, and as one stage with those like them."""


@dataclass
class Block:
    """A convolutional or fully connected layer, and the layers up to the next one.

    Residual blocks in a row whose outputs have the same shape, a stage, are one block.

    Attributes:
        name: Description of the layer.
        shape: Shape of its output for one image: (channels, height, width) or (neurons,).
        followed_by: Descriptions of the layers after it, in order.
        repeats: Number of residual blocks; 0 for a layer.
    """

    name: str
    shape: tuple[int, ...]
    followed_by: list[str] = field(default_factory=list)
    repeats: int = 0

    @property
    def title(self) -> str:
        """The name, with the number of residual blocks."""
        return f"{self.repeats} {self.name}s" if self.repeats > 1 else self.name


def trace_blocks(model: Network) -> list[Block]:
    """Return a network's blocks in the order in which it runs them, found by running it once."""
    size, channels = model.shape.size, model.shape.channels
    blocks = [Block("image", (channels, size, size))]

    def record(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        if isinstance(module, RESIDUAL_BLOCKS):
            if not (blocks[-1].repeats and blocks[-1].shape == shape):
                kind = "inverted " if isinstance(module, InvertedResidual) else ""
                blocks.append(Block(f"{kind}residual block", shape, _describe_residual(module)))
            elif isinstance(module, InvertedResidual) and blocks[-1].repeats == 1:
                blocks[-1].followed_by.append("+ the input in all but one")
            blocks[-1].repeats += 1
        elif isinstance(module, nn.Conv2d | nn.Linear):
            blocks.append(Block(_describe(module), shape))
        elif not isinstance(module, nn.Flatten):
            blocks[-1].followed_by.append(_describe(module))

    hooks = [layer.register_forward_hook(record) for layer in _layers(model)]
    try:
        run_once(model)
    finally:
        for hook in hooks:
            hook.remove()
    return blocks


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a network; a residual block counts as one."""
    for child in module.children():
        if isinstance(child, RESIDUAL_BLOCKS) or not list(child.children()):
            yield child
        else:
            yield from _layers(child)


def draw_architecture(model: Network, title: str) -> bytes:
    """Draw a network as a row of boxes: height shows the map size, width the number of channels.

    Returns:
        PNG file.
    """
    blocks = trace_blocks(model)
    widths = [0.25 + 0.13 * np.log2(block.shape[0]) for block in blocks]
    gap = 1.25
    figure = Figure(figsize=(1.55 * len(blocks) + 0.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    left = 0.0
    for number, (block, width) in enumerate(zip(blocks, widths, strict=True)):
        share = block.shape[-1] / model.shape.size if len(block.shape) == 3 else None
        _draw_block(axes, block, left, width, share, is_last=number == len(blocks) - 1)
        if number:
            arrow = {"arrowstyle": "-|>", "color": TEXT_COLOR, "lw": 1}
            axes.annotate("", (left - 0.08, 0), (left - gap + 0.08, 0), arrowprops=arrow)
        left += width + gap
    axes.set(xlim=(-0.8, left - gap + 0.8), ylim=(-2.9, 1.9))
    cost = f"{count_multiply_adds(model) / 1e6:.1f} million multiply-adds"
    axes.set_title(
        f"{title}: {count_parameters(model):,} trainable parameters, {cost}", fontsize=11
    )
    return to_png(figure)


def _draw_block(
    axes: Axes, block: Block, left: float, width: float, share: float | None, *, is_last: bool
) -> None:
    """Draw a block. ``share`` is the side of its map divided by the image's; None for neurons."""
    height = 1.4 if share is None else 0.4 + 2.4 * share
    color = COLORS[0] if share is not None else COLORS[2] if is_last else COLORS[1]
    axes.add_patch(
        Rectangle((left, -height / 2), width, height, fc=color, ec=TEXT_COLOR, alpha=0.75)
    )
    size = " × ".join(map(str, block.shape))
    center = left + width / 2
    axes.text(center, height / 2 + 0.12, size, ha="center", fontsize=9, color=TEXT_COLOR)
    lines = "\n".join([block.title, *block.followed_by])
    axes.text(
        center, -1.6, lines, ha="center", va="top", fontsize=8, color=TEXT_COLOR, linespacing=1.4
    )


def _describe_residual(block: ResidualBlock | BasicBlock | InvertedResidual) -> list[str]:
    """Describe the convolutions of a stage's first block, and what is added to their output."""
    if isinstance(block, InvertedResidual):
        return [_describe(layer) for layer in block.children() if isinstance(layer, nn.Conv2d)]
    convolutions: tuple[nn.Module, ...]
    if isinstance(block, BasicBlock):
        convolutions, is_adapted = (block.conv1, block.conv2), block.downsample is not None
    else:
        convolutions, is_adapted = (block.first[0], block.second[0]), len(block.shortcut) > 0
    shortcut = "+ conv 1×1 of the input" if is_adapted else "+ the input"
    return [*map(_describe, convolutions), shortcut]


def _describe(layer: nn.Module) -> str:
    match layer:
        case nn.Conv2d(out_channels=filters, kernel_size=(height, width), stride=(stride, _)):
            placement = "same" if stride == 1 else f"stride {stride}"
            # A depthwise convolution has as many filters as channels.
            kind, number = ("conv", f" {filters},") if layer.groups == 1 else ("depthwise", "")
            text = f"{kind} {height}×{width},{number} {placement}"
        case nn.Linear(out_features=neurons):
            text = f"fully connected {neurons}"
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            text = "batch norm"
        case nn.MaxPool2d(kernel_size=size, stride=stride):
            text = f"max pool {size}×{size}, stride {stride}"
        case nn.AdaptiveAvgPool2d(output_size=size):
            text = "global average pool" if size == 1 else f"average pool to {size}×{size}"
        case nn.Dropout(p=rate):
            text = f"dropout {rate:g}"
        case _:
            text = type(layer).__name__
    return text
