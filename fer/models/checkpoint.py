"""Weights, architecture, classes, preprocessing and provenance in one folder, without pickles."""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from fer import storage
from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.convnet import MODELS, build_model, count_parameters
from fer.models.shipped import SHIPPED
from fer.models.transforms import PREPROCESSING
from fer.vision.decode import IMAGE_SIZE

SCHEMA_VERSION = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"

_MEMBER = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class CheckpointConfig:
    """What ``config.json`` says of a network.

    Attributes:
        id: Name of the architecture and the first digits of the SHA-256 of the weights.
        architecture: ``name``, a key of ``MODELS``, and the ``arguments`` of ``build_model``.
        class_names: Name of each logit.
        image_size: Side of the square input in pixels.
        preprocessing: How a uint8 image becomes the network's input, a key of ``PREPROCESSING``.
        temperature: What the logits are divided by before the softmax (Guo et al. 2017, arXiv
            1706.04599), above 0.
        parameters: Number of trainable parameters.
        training: How it was trained: the flags, the epoch, the versions of the libraries.
        data: What it was trained on: location and fingerprint of the dataset.
        scores: What it scored on ``val``.
        schema_version: Version of this list.
    """

    id: str
    architecture: dict[str, Any]
    class_names: tuple[str, ...] = EMOTIONS
    image_size: int = IMAGE_SIZE
    preprocessing: str = "standardize"
    temperature: float = 1.0
    parameters: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the content of ``config.json``."""
        return json.dumps(vars(self), indent=2) + "\n"


@dataclass(frozen=True)
class Checkpoint:
    """A network that can be run: one member, or an ensemble of several.

    Attributes:
        id: The network's id; an ensemble's names its members.
        class_names: Name of each probability.
        models: The members, in evaluation mode.
        configs: What is known of each member.
        weights: Share of each member in the ensemble's probabilities, summing to 1.
    """

    id: str
    class_names: tuple[str, ...]
    models: tuple[nn.Module, ...]
    configs: tuple[CheckpointConfig, ...]
    weights: tuple[float, ...]


def pack_checkpoint(
    model: nn.Module,
    architecture: dict[str, Any],
    **provenance: Any,  # noqa: ANN401
) -> dict[str, bytes]:
    """Return a checkpoint's files by name.

    Args:
        model: What ``build_model(architecture["name"], **architecture["arguments"])`` built.
        architecture: ``name`` and ``arguments``.
        provenance: Further fields of ``CheckpointConfig``.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    weights = save_tensors(tensors)
    config = CheckpointConfig(
        id=f"{architecture['name']}-{_digest(weights)}",
        architecture=architecture,
        parameters=count_parameters(model),
        **provenance,
    )
    return {WEIGHTS: weights, CONFIG: config.to_json().encode()}


def locate(checkpoint: str) -> str:
    """Return the location of a checkpoint: a folder, a URI, or a name in ``SHIPPED``.

    A shipped checkpoint lies where this process has the package, which differs between nodes.
    """
    shipped = SHIPPED.get(checkpoint)
    return storage.resolve(checkpoint) if shipped is None else str(shipped)


def read_config(checkpoint: str) -> CheckpointConfig:
    """Read what ``config.json`` says of a single network.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is no checkpoint, or one that this version can't run.
    """
    location = locate(checkpoint)
    content = _read_json(location)
    if "members" in content:
        raise InputError(
            f"{location} is an ensemble: expected a single network, such as {location}/0."
        )
    try:
        fields = {**content, "class_names": tuple(content["class_names"])}
        config = CheckpointConfig(**fields)
    except (KeyError, TypeError) as error:
        raise InputError(f"{location}/{CONFIG} is not a checkpoint's: {error}.") from error
    _check_config(location, config)
    return config


def read_id(checkpoint: str) -> str:
    """Return the id of a network or an ensemble, whose weights stay unread.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is no checkpoint.
    """
    location = locate(checkpoint)
    content = _read_json(location)
    if "members" not in content:
        return read_config(location).id
    return _ensemble_id(content, [read_id(member) for member, _ in _members(location, content)])


def load_checkpoint(checkpoint: str) -> Checkpoint:
    """Load a network, or an ensemble of networks that share their classes.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is no checkpoint, its weights do not fit, or its members disagree.
    """
    location = locate(checkpoint)
    content = _read_json(location)
    if "members" in content:
        return _load_ensemble(location, content)
    config = read_config(location)
    model = _load_model(location, config)
    return Checkpoint(config.id, config.class_names, (model,), (config,), (1.0,))


def _load_ensemble(location: str, content: Mapping[str, Any]) -> Checkpoint:
    named = _members(location, content)
    members = [load_checkpoint(member) for member, _ in named]
    class_names = {member.class_names for member in members}
    if len(class_names) != 1:
        raise InputError(f"{location} is an ensemble whose members know different classes.")
    return Checkpoint(
        id=_ensemble_id(content, [member.id for member in members]),
        class_names=class_names.pop(),
        models=tuple(model for member in members for model in member.models),
        configs=tuple(config for member in members for config in member.configs),
        # A member that is itself an ensemble hands its share on.
        weights=tuple(
            share * weight
            for (_, share), member in zip(named, members, strict=True)
            for weight in member.weights
        ),
    )


def _members(location: str, content: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the location of each member of an ensemble, and its share, summing to 1."""
    names: Any = content["members"]
    weights: Any = content.get("weights")
    is_sound = (
        content.get("schema_version", SCHEMA_VERSION) == SCHEMA_VERSION
        and isinstance(names, list)
        and isinstance(weights, list)
        and 0 < len(names) == len(weights)
        and all(isinstance(name, str) and _MEMBER.fullmatch(name) for name in names)
        and all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights)
        and sum(weights) > 0
    )
    if not is_sound:
        raise InputError(
            f"{location}/{CONFIG} is not an ensemble's: expected names of folders as members, as "
            f"many weights from 0, and version {SCHEMA_VERSION}."
        )
    return [
        (storage.join(location, name), weight / sum(weights))
        for name, weight in zip(names, weights, strict=True)
    ]


def _ensemble_id(content: Mapping[str, Any], member_ids: Sequence[str]) -> str:
    return str(content.get("id", "+".join(member_ids)))


def checkpoint_files(checkpoint: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that a checkpoint consists of by name, each ``config.json`` last.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is no checkpoint.
    """
    location = locate(checkpoint)
    for member in _read_json(location).get("members", ()):
        for name, content in checkpoint_files(storage.join(location, member)):
            yield f"{member}/{name}", content
    for name in (WEIGHTS, CONFIG):
        if storage.exists(storage.join(location, name)):
            yield name, storage.read_bytes(storage.join(location, name))


def check_classes(location: str, class_names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Refuse a checkpoint whose classes are not those of the data that it is to be used on.

    Raises:
        InputError: They differ, in name or in order.
    """
    if class_names != expected:
        raise InputError(
            f"{location} knows the classes {', '.join(class_names)}; expected "
            f"{', '.join(expected)}: use a checkpoint that was trained on these."
        )


def _read_json(location: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(storage.join(location, CONFIG)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{location} is not a checkpoint: expected a folder with {CONFIG} and {WEIGHTS}, as "
            "`fer train` writes it."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{location}/{CONFIG} is not a checkpoint's: expected a JSON object.")
    return content


def _check_config(location: str, config: CheckpointConfig) -> None:
    known = {
        "schema_version": (SCHEMA_VERSION,),
        "image_size": (IMAGE_SIZE,),
        "preprocessing": tuple(PREPROCESSING),
    }
    for name, values in known.items():
        if getattr(config, name) not in values:
            raise InputError(
                f"{location} has the {name} {getattr(config, name)!r}: this version runs "
                f"{' or '.join(map(repr, values))}."
            )
    if not isinstance(config.architecture, dict) or not isinstance(config.temperature, int | float):
        raise InputError(f"{location}/{CONFIG} is not a checkpoint's: a field is of another kind.")
    if config.architecture.get("name") not in MODELS:
        raise InputError(
            f"{location} is a {config.architecture.get('name')!r} network: this version knows "
            f"{', '.join(MODELS)}."
        )
    if not config.temperature > 0:
        raise InputError(f"{location} has the temperature {config.temperature}: expected above 0.")


def _load_model(location: str, config: CheckpointConfig) -> nn.Module:
    try:
        model = build_model(config.architecture["name"], **config.architecture["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{location} has layers that this version can't build: {error}."
        ) from error
    try:
        content = storage.read_bytes(storage.join(location, WEIGHTS))
        model.load_state_dict(load_tensors(content))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{location}/{WEIGHTS} can't be read: {error}.") from error
    except RuntimeError as error:
        raise InputError(
            f"{location}/{WEIGHTS} does not fit a {config.architecture['name']} network of "
            f"{len(config.class_names)} classes: it belongs to another checkpoint."
        ) from error
    if not config.id.endswith(_digest(content)):
        raise InputError(
            f"{location}/{WEIGHTS} is damaged: its digest is not the one in {config.id}; copy the "
            "checkpoint again."
        )
    return model.eval()


def _digest(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()[:12]


# What training needs beside the network that is kept to go on where it stopped.


def pack_training(network: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """Return the tensors of a network in training and of its optimizer, whose numbers are fixed."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in state.items()}
    return save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})


def unpack_training(network: nn.Module, optimizer: torch.optim.Optimizer, content: bytes) -> None:
    """Give a network and its optimizer, as they were built, what ``pack_training`` returned."""
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(content).items():
        owner, _, key = name.partition(".")
        if owner == "network":
            weights[key] = tensor
        else:
            index, _, key = key.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    network.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


@contextmanager
def temporary_folder(files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield a folder of the local disk that holds files, by name, and goes away again."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield folder
