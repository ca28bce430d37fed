"""Checkpoints: weights, graph, architecture, classes and provenance in one folder.

Nothing in a checkpoint is pickled, so loading one runs no code from it. Nothing here imports torch:
processors run a network from its graph and its weights alone (``fer.models.engine``).
"""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fer import storage
from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.shipped import SHIPPED
from fer.vision.shape import IMAGE_SIZE, MAX_SIZE, MIN_SIZE, ImageShape

SCHEMA_VERSION = 1
WEIGHTS = "model.safetensors"
GRAPH = "graph.onnx"
INT8_GRAPH = "graph.int8.onnx"
CONFIG = "config.json"
FILES = (WEIGHTS, GRAPH, INT8_GRAPH, CONFIG)
"""Files of a network, the one that completes it last."""

_MEMBER = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of a network's ``config.json``.

    Attributes:
        id: Name of the architecture and the first 12 digits of the weights' SHA-256.
        architecture: ``name`` and ``arguments``, those of ``build_model``.
        class_names: Name of each logit's class.
        image_size: Side in pixels of the faces that it was trained on.
        channels: 1 for gray faces, 3 for faces in color.
        preprocessing: How a uint8 image becomes the network's input, a key of ``PREPROCESSING``.
        temperature: Divisor of the logits before the softmax (Guo et al. 2017, arXiv 1706.04599),
            above 0.
        parameters: Number of trainable parameters.
        training: How the network was trained: flags, epoch, version of torch.
        data: Location and fingerprint of the dataset that it was trained on.
        scores: Its scores on ``val``.
        schema_version: Version of this schema.
    """

    id: str
    architecture: dict[str, Any]
    class_names: tuple[str, ...] = EMOTIONS
    image_size: int = IMAGE_SIZE
    channels: int = 1
    preprocessing: str = "standardize"
    temperature: float = 1.0
    parameters: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def shape(self) -> ImageShape:
        """Shape of the faces that it takes."""
        return ImageShape(self.image_size, self.channels)

    def to_json(self) -> str:
        """Return the content of ``config.json``."""
        return json.dumps(vars(self), indent=2) + "\n"


@dataclass(frozen=True)
class Member:
    """One network of a checkpoint, as its files hold it.

    Attributes:
        config: Its configuration.
        share: Its weight in the probabilities of the ensemble; 1 for a single network.
        weights: Content of ``model.safetensors``.
        graph: Content of ``graph.onnx``, its computation as ONNX operators whose weights are
            references into ``model.safetensors``; None if the checkpoint has none.
        int8: Content of ``graph.int8.onnx``, the same computation in 8-bit integers with weights
            of its own; None if the checkpoint has none.
    """

    config: CheckpointConfig
    share: float
    weights: bytes
    graph: bytes | None
    int8: bytes | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: a single network, or an ensemble of several.

    Attributes:
        id: Id of the network or the ensemble.
        class_names: Name of each class, in the order of the probabilities.
        members: Its networks, whose shares sum to 1.
    """

    id: str
    class_names: tuple[str, ...]
    members: tuple[Member, ...]

    @property
    def configs(self) -> tuple[CheckpointConfig, ...]:
        """Configuration of each member."""
        return tuple(member.config for member in self.members)

    @property
    def shape(self) -> ImageShape:
        """Shape in which faces are cropped: what the most demanding member takes."""
        shapes = [config.shape for config in self.configs]
        return ImageShape(
            max(shape.size for shape in shapes), max(shape.channels for shape in shapes)
        )

    @property
    def kind(self) -> str:
        """Name of the architecture, or ``ensemble``."""
        return self.configs[0].architecture["name"] if len(self.members) == 1 else "ensemble"


def locate(checkpoint: str) -> str:
    """Return the location of a checkpoint: a folder, a URI, or a name in ``SHIPPED``.

    A shipped checkpoint is inside the installed package, whose location differs between nodes. Call
    this on the node that reads the checkpoint.
    """
    shipped = SHIPPED.get(checkpoint)
    return storage.resolve(checkpoint) if shipped is None else str(shipped)


def read_config(checkpoint: str) -> CheckpointConfig:
    """Read the configuration of a single network.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is not a checkpoint of a single network, or this version can't run
            it.
    """
    location = locate(checkpoint)
    content = _read_json(location)
    if "members" in content:
        raise InputError(
            f"{location} is an ensemble; expected a single network, such as {location}/0."
        )
    try:
        fields = {**content, "class_names": tuple(content["class_names"])}
        config = CheckpointConfig(**fields)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{location}/{CONFIG} is not the configuration of a checkpoint: {error}."
        ) from error
    _check_config(location, config)
    return config


def read_id(checkpoint: str) -> str:
    """Return the id of a network or an ensemble without reading its weights.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is not a checkpoint.
    """
    location = locate(checkpoint)
    content = _read_json(location)
    if "members" not in content:
        return read_config(location).id
    return _ensemble_id(content, [read_id(member) for member, _ in _members(location, content)])


def load_checkpoint(checkpoint: str) -> Checkpoint:
    """Read a network, or an ensemble of networks that have the same classes.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is not a checkpoint that this version can run, its weights are
            damaged, or the members of the ensemble have different classes.
    """
    location = locate(checkpoint)
    content = _read_json(location)
    if "members" in content:
        return _load_ensemble(location, content)
    config = read_config(location)
    return Checkpoint(config.id, config.class_names, (_load_member(location, config),))


def _load_member(location: str, config: CheckpointConfig) -> Member:
    try:
        weights = storage.read_bytes(storage.join(location, WEIGHTS))
    except OSError as error:
        raise InputError(f"{location}/{WEIGHTS} can't be read: {error}.") from error
    if not config.id.endswith(weights_digest(weights)):
        raise InputError(
            f"{location}/{WEIGHTS} is damaged or belongs to another checkpoint: its digest differs "
            f"from the one in {config.id}; copy the checkpoint again."
        )
    return Member(config, 1.0, weights, _read(location, GRAPH), _read(location, INT8_GRAPH))


def _read(location: str, name: str) -> bytes | None:
    """Return the content of a file that a checkpoint may lack."""
    file = storage.join(location, name)
    return storage.read_bytes(file) if storage.exists(file) else None


def weights_digest(weights: bytes) -> str:
    """Return the first 12 digits of the SHA-256 of a ``model.safetensors``, which end an id."""
    return hashlib.sha256(weights).hexdigest()[:12]


def _load_ensemble(location: str, content: Mapping[str, Any]) -> Checkpoint:
    entries = _members(location, content)
    ensemble = [load_checkpoint(member) for member, _ in entries]
    class_names = {member.class_names for member in ensemble}
    if len(class_names) != 1:
        raise InputError(
            f"{location} is an ensemble whose members have different classes; expected the same "
            "classes in the same order."
        )
    return Checkpoint(
        id=_ensemble_id(content, [member.id for member in ensemble]),
        class_names=class_names.pop(),
        # A member that is itself an ensemble divides its share among its own members.
        members=tuple(
            replace(member, share=share * member.share)
            for (_, share), checkpoint in zip(entries, ensemble, strict=True)
            for member in checkpoint.members
        ),
    )


def _members(location: str, content: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the location and the share of each member of an ensemble; the shares sum to 1."""
    names: Any = content["members"]
    weights: Any = content.get("weights")
    is_valid = (
        content.get("schema_version", SCHEMA_VERSION) == SCHEMA_VERSION
        and isinstance(names, list)
        and isinstance(weights, list)
        and 0 < len(names) == len(weights)
        and all(isinstance(name, str) and _MEMBER.fullmatch(name) for name in names)
        and all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights)
        and 0 < sum(weights) < math.inf
    )
    if not is_valid:
        raise InputError(
            f"{location}/{CONFIG} is not the configuration of an ensemble; expected folder names "
            f"as members, one non-negative weight per member, and schema version {SCHEMA_VERSION}."
        )
    return [
        (storage.join(location, name), weight / sum(weights))
        for name, weight in zip(names, weights, strict=True)
    ]


def _ensemble_id(content: Mapping[str, Any], member_ids: Sequence[str]) -> str:
    return str(content.get("id", "+".join(member_ids)))


def checkpoint_files(checkpoint: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file of a checkpoint, every ``config.json`` last.

    Args:
        checkpoint: A folder, its URI, or a name in ``SHIPPED``.

    Raises:
        InputError: The folder is not a checkpoint.
    """
    location = locate(checkpoint)
    for member in _read_json(location).get("members", ()):
        for name, content in checkpoint_files(storage.join(location, member)):
            yield f"{member}/{name}", content
    for name in FILES:
        if storage.exists(storage.join(location, name)):
            yield name, storage.read_bytes(storage.join(location, name))


def check_classes(location: str, class_names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Check that a checkpoint has the classes of the data that it will be used on.

    Args:
        location: The checkpoint, for the error.
        class_names: Classes of the checkpoint.
        expected: Classes of the data.

    Raises:
        InputError: The classes differ in name or in order.
    """
    if class_names != expected:
        raise InputError(
            f"{location} has the classes {', '.join(class_names)}, but expected "
            f"{', '.join(expected)}; choose a checkpoint that was trained on these classes."
        )


def _read_json(location: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(storage.join(location, CONFIG)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{location} is not a checkpoint; expected a folder with {CONFIG} and {WEIGHTS}, as "
            "`fer train` writes it."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{location}/{CONFIG} is not the configuration of a checkpoint; expected a JSON object."
        )
    version = content.get("schema_version", SCHEMA_VERSION)
    # Before anything else: what a later version added would look like a mistake.
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{location} was written by a later version of fer-on-ray (its schema_version is "
            f"{version}, and this version reads {SCHEMA_VERSION}); install the version that wrote "
            "it, or a later one."
        )
    return content


def _check_config(location: str, config: CheckpointConfig) -> None:
    sizes = range(MIN_SIZE, MAX_SIZE + 1)
    supported: dict[str, tuple[Collection[Any], str]] = {
        "schema_version": ((SCHEMA_VERSION,), str(SCHEMA_VERSION)),
        "image_size": (sizes, f"{MIN_SIZE} to {MAX_SIZE}"),
        "channels": ((1, 3), "1 and 3"),
    }
    for name, (values, described) in supported.items():
        if getattr(config, name) not in values:
            raise InputError(
                f"{location} has the {name} {getattr(config, name)!r}; this version supports "
                f"{described}."
            )
    is_object = isinstance(config.architecture, dict) and "name" in config.architecture
    if not is_object or not isinstance(config.temperature, int | float):
        raise InputError(
            f"{location}/{CONFIG} is not the configuration of a checkpoint; expected an object "
            "with a name as architecture, and a number as temperature."
        )
    if not 0 < config.temperature < math.inf:
        raise InputError(
            f"{location} has the temperature {config.temperature}; expected a finite number "
            "above 0."
        )


@contextmanager
def temporary_folder(files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield a temporary local folder that holds some files, given by name."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield folder
