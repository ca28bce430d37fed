"""All networks by name: build one, and count what it costs."""

from typing import Any

import torch
from torch import Tensor, nn

from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.convnet import PLAIN_NETWORKS, ConvNet
from fer.models.layers import Layers
from fer.models.residual import RESIDUAL_NETWORKS, ResNet
from fer.vision.decode import IMAGE_SIZE

MODELS = (*PLAIN_NETWORKS, *RESIDUAL_NETWORKS)
"""Names of the networks."""

Network = ConvNet | ResNet
"""A network of any kind; ``output`` is its last layer."""


def build_model(
    name: str,
    num_classes: int = len(EMOTIONS),
    **layers: Any,  # noqa: ANN401
) -> Network:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        name: One of ``MODELS``.
        num_classes: Number of logits.
        layers: Fields of ``Layers`` that differ from their defaults.

    Raises:
        InputError: ``name`` is not one of ``MODELS``, or the layers do not fit the network.
    """
    if name in PLAIN_NETWORKS:
        return ConvNet(PLAIN_NETWORKS[name], num_classes, Layers(**layers))
    if name in RESIDUAL_NETWORKS:
        return ResNet(RESIDUAL_NETWORKS[name], num_classes, Layers(**layers))
    raise InputError(f"Unknown model {name!r}; choose one of {', '.join(MODELS)}.")


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(model: nn.Module) -> int:
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
def run_once(model: nn.Module) -> None:
    """Run a network on one black image in evaluation mode, for the hooks that it has."""
    was_training, device = model.training, next(model.parameters()).device
    try:
        model.eval()(torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE, device=device))
    finally:
        model.train(was_training)
