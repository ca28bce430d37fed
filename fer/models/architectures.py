"""All networks by name: build one, and count what it costs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.convnet import PLAIN_NETWORKS, ConvNet
from fer.models.efficientnet import EfficientNetLite0
from fer.models.imagenet import FEATURE_NETWORKS, MIN_SIZES, ResNet18
from fer.models.layers import Layers, Network
from fer.models.residual import RESIDUAL_NETWORKS, ResNet
from fer.vision.shape import FER2013_SHAPE, MAX_SIZE, MIN_SIZE, ImageShape

FAMILIES: dict[str, dict[str, Callable[[int, ImageShape, Layers], Network]]] = {
    "plain": {name: partial(ConvNet, sizes) for name, sizes in PLAIN_NETWORKS.items()},
    "residual": {name: partial(ResNet, stages) for name, stages in RESIDUAL_NETWORKS.items()},
    "alexnet-vgg": FEATURE_NETWORKS,
    "resnet18": {"resnet18": ResNet18},
    "efficientnet": {"efficientnet-lite0": EfficientNetLite0},
}
"""What builds each network, by its family and its name.

Networks of one family differ in their sizes, and are otherwise built alike.
"""

NETWORKS = {name: build for family in FAMILIES.values() for name, build in family.items()}
"""What builds each network, by its name."""

MODELS = tuple(NETWORKS)
"""Names of the networks."""


def build_model(
    name: str,
    num_classes: int = len(EMOTIONS),
    shape: ImageShape = FER2013_SHAPE,
    **layers: Any,  # noqa: ANN401
) -> Network:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        name: One of ``MODELS``.
        num_classes: Number of logits.
        shape: Shape of the faces that it takes.
        layers: Fields of ``Layers`` that differ from their defaults.

    Raises:
        InputError: ``name`` is not one of ``MODELS``, or the shape or the layers do not fit the
            network.
    """
    _check_name(name)
    smallest = smallest_side(name)
    if shape.size < smallest:
        raise InputError(
            f"{name} takes images of {smallest}x{smallest} to {MAX_SIZE}x{MAX_SIZE} pixels, but "
            f"these are {shape}; ingest them with a larger --image-size, or choose another --model."
        )
    network = NETWORKS[name](num_classes, shape, Layers(**layers))
    network.name = name
    return network


def family_of(name: str) -> str:
    """Return the family of a network, a key of ``FAMILIES``.

    Raises:
        InputError: ``name`` is not one of ``MODELS``.
    """
    _check_name(name)
    return next(family for family, networks in FAMILIES.items() if name in networks)


def smallest_side(name: str) -> int:
    """Return the smallest side in pixels of the images that a network takes."""
    return MIN_SIZES.get(name, MIN_SIZE)


def _check_name(name: str) -> None:
    if name not in NETWORKS:
        raise InputError(f"Unknown model {name!r}; choose one of {', '.join(MODELS)}.")


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: Network) -> int:
    """Return the multiply-adds of a network's convolutions and linear layers for one image.

    The network runs once, in evaluation mode, to find the size of its feature maps.
    """
    counts: list[int] = []

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        # Each output value is a weighted sum with the weights of one filter or one neuron.
        counts.append(output.numel() * layer.weight[0].numel())

    weighted = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in weighted]
    try:
        run_once(model)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)


@torch.inference_mode()
def run_once(model: Network) -> None:
    """Run a network on one black image in evaluation mode, for the hooks that it has."""
    was_training, device = model.training, next(model.parameters()).device
    size, channels = model.shape.size, model.shape.channels
    try:
        model.eval()(torch.zeros(1, channels, size, size, device=device))
    finally:
        model.train(was_training)
