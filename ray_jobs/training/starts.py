"""What a training starts from, checked before it begins: images, a checkpoint, other weights."""

import dataclasses
import sys

import torch

from fer.data.dataset import Dataset
from fer.errors import InputError
from fer.models import checkpoint
from fer.models.architectures import build_model
from fer.models.layers import Layers, Network
from fer.models.pretrained import (
    check_model,
    digest_of,
    fit_weights,
    has_other_classes,
    parse_weights,
    read_file,
)
from ray_jobs.config import TrainConfig
from ray_jobs.pipeline.outputs import flag_of
from ray_jobs.training.settings import build_architecture


def check_shape(config: TrainConfig, data: Dataset) -> None:
    """Refuse a network that does not take the dataset's images."""
    _outline(config, data)
    if config.initial_size is not None and config.initial_size > data.shape.size:
        raise InputError(
            f"--initial-size {config.initial_size} is larger than the images of {config.dataset}, "
            f"which are {data.shape}; choose a smaller one."
        )


def _outline(config: TrainConfig, data: Dataset) -> Network:
    """Return the network that will be trained, without memory for its weights."""
    architecture = build_architecture(config, data)
    with torch.device("meta"):
        return build_model(architecture["name"], shape=data.shape, **architecture["arguments"])


def check_pretrained(config: TrainConfig, source: str, data: Dataset) -> str:
    """Return the digest of published weights, which must be those of the network."""
    content = read_file(source)
    check_model(content, source, config.model)
    weights, network = parse_weights(content, source), _outline(config, data)
    fit_weights(weights, network, source)
    if has_other_classes(weights, network):
        print(
            f"Training {config.model}: the last layer is new, since the weights of {source} are "
            f"for other classes than the {len(data.class_names)} of the dataset.",
            file=sys.stderr,
            flush=True,
        )
    return digest_of(content)


def check_checkpoint(config: TrainConfig, from_checkpoint: str, data: Dataset) -> str:
    """Return the id of the checkpoint that a run starts from, whose layers must be the run's."""
    start = checkpoint.read_config(from_checkpoint)
    arguments = start.architecture["arguments"]
    layers = {
        field.name: arguments.get(field.name, field.default)
        for field in dataclasses.fields(Layers)
        if field.name != "dropout"
    }
    flags = {"model": start.architecture["name"], "preprocessing": start.preprocessing, **layers}
    for name, value in flags.items():
        own = config.pixel_preprocessing if name == "preprocessing" else getattr(config, name)
        if value != own:
            raise InputError(
                f"{from_checkpoint} was trained with {flag_of(name)} {value}, not {own}; use the "
                "same value to start from it."
            )
    _check_size(config, start, data)
    return start.id


def _check_size(config: TrainConfig, start: checkpoint.CheckpointConfig, data: Dataset) -> None:
    """Refuse weights of faces of another size where layers depend on it, as in plain networks."""
    with torch.device("meta"):
        trained = build_model(config.model, shape=start.shape, **start.architecture["arguments"])
    try:
        fit_weights(trained.state_dict(), _outline(config, data), start.id)
    except InputError as error:
        raise InputError(
            f"{config.from_checkpoint} takes {start.shape} faces, and {config.model} has other "
            f"layers for the {data.shape} faces of {config.dataset}; ingest them with --image-size "
            f"{start.image_size}, or train a residual network, which takes any size."
        ) from error
