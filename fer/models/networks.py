"""The networks of checkpoints in torch: build them with their weights, and pack them."""

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fer.errors import InputError
from fer.models.architectures import MODELS, build_model, count_parameters
from fer.models.checkpoint import (
    CONFIG,
    WEIGHTS,
    CheckpointConfig,
    Member,
    load_checkpoint,
    weights_digest,
)
from fer.models.layers import Network
from fer.models.transforms import PREPROCESSING


def load_networks(checkpoint: str) -> list[Network]:
    """Load the networks of a checkpoint in evaluation mode, one for a single network.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is not a checkpoint, or this version can't build its networks.
    """
    return [build_network(member) for member in load_checkpoint(checkpoint).members]


def build_network(member: Member) -> Network:
    """Return a member's network in evaluation mode, in float32.

    Raises:
        InputError: This version can't build the network, or the weights do not fit.
    """
    config = member.config
    network = _build(config)
    try:
        network.load_state_dict(load_tensors(member.weights))
    except SafetensorError as error:
        raise InputError(f"The weights of {config.id} can't be read: {error}.") from error
    except RuntimeError as error:
        raise InputError(
            f"The weights of {config.id} do not fit a {config.architecture['name']} network of "
            f"{len(config.class_names)} classes; they belong to another checkpoint."
        ) from error
    return network.eval()


def _build(config: CheckpointConfig) -> Network:
    known = {"network": (config.architecture["name"], MODELS)}
    known["preprocessing"] = (config.preprocessing, tuple(PREPROCESSING))
    for part, (value, values) in known.items():
        if value not in values:
            raise InputError(
                f"{config.id} has the {part} {value!r}; this version supports {', '.join(values)}."
            )
    try:
        arguments = config.architecture["arguments"]
        return build_model(config.architecture["name"], shape=config.shape, **arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{config.id} has layers that this version can't build: {error}."
        ) from error


def pack_checkpoint(
    model: Network,
    architecture: dict[str, Any],
    **provenance: Any,  # noqa: ANN401
) -> dict[str, bytes]:
    """Return the content of a checkpoint's files by name, without its graph.

    Args:
        model: A network.
        architecture: What ``build_model`` built it from, but for its shape: ``name`` and
            ``arguments``.
        provenance: Further fields of ``CheckpointConfig``.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    weights = save_tensors(tensors)
    config = CheckpointConfig(
        id=f"{architecture['name']}-{weights_digest(weights)}",
        architecture=architecture,
        image_size=model.shape.size,
        channels=model.shape.channels,
        parameters=count_parameters(model),
        **provenance,
    )
    return {WEIGHTS: weights, CONFIG: config.to_json().encode()}
