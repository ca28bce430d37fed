"""Run a network: on processors by ONNX Runtime, without torch; on GPUs by torch."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from fer import extras
from fer.errors import InputError
from fer.models.checkpoint import GRAPH, INT8_GRAPH, Checkpoint, Member
from fer.models.onnx_engine import MAX_DRIFT, OnnxEngine

EngineName = Literal["auto", "float32", "int8"]

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A network that is ready to run on images of its own shape, ``Member.config.shape.array``."""

    @property
    def name(self) -> str:
        """How it computes."""

    @property
    def batch_size(self) -> int:
        """The fastest number of images per call."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Map images uint8 (B, *shape), in C order, to logits float32 (B, C)."""


def with_graphs(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint that processors run without torch: graphs that are missing are made.

    Raises:
        InputError: A network can't be built.
        JobError: A graph does not answer as its network does.
    """
    return replace(checkpoint, members=tuple(map(_with_graph, checkpoint.members)))


def make_graphs(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the graphs that a checkpoint lacks by the ids of their networks, for ``add_graphs``.

    Raises:
        InputError: A network can't be built.
        JobError: A graph does not answer as its network does.
    """
    lacking = [member for member in checkpoint.members if member.graph is None]
    made = with_graphs(replace(checkpoint, members=tuple(lacking))).members
    return {member.config.id: member.graph for member in made if member.graph is not None}


def add_graphs(checkpoint: Checkpoint, graphs: Mapping[str, bytes]) -> Checkpoint:
    """Return a checkpoint whose networks without a graph get theirs from ``make_graphs``."""
    members = (
        replace(member, graph=graphs.get(member.config.id)) if member.graph is None else member
        for member in checkpoint.members
    )
    return replace(checkpoint, members=tuple(members))


def _with_graph(member: Member) -> Member:
    if member.graph is not None:
        return member
    extras.require_torch(f"{member.config.id} has no {GRAPH}, and making one")
    # torch takes seconds to import, which processors otherwise never need.
    from fer.models.graph import make_graph  # noqa: PLC0415

    return replace(member, graph=make_graph(member))


def build_engine(
    member: Member, device: str, name: EngineName = "auto", num_threads: int | None = None
) -> Engine:
    """Make a network ready to run.

    Args:
        member: The network. On a processor, a graph that is missing is made, which needs torch.
        device: ``cpu`` or a torch device such as ``cuda``.
        name: ``float32`` for results that differ from torch's by rounding only. ``int8``, on a
            processor, for 8-bit integers. ``auto`` for the fastest: on a processor int8 where it
            is proven, on a GPU bfloat16 where the GPU has it.
        num_threads: Threads on a processor; by default one a processor that this process may use.

    Raises:
        InputError: The network can't be built, its graph is damaged, or it has no int8 form.
    """
    if device == "cpu":
        return _build_onnx(member, name, num_threads)
    if name == "int8":
        raise InputError("GPUs have no int8 engine; choose auto or float32.")
    extras.require_torch("A network on a GPU")
    import torch  # noqa: PLC0415

    from fer.models.networks import build_network  # noqa: PLC0415
    from fer.models.torch_engine import TorchEngine  # noqa: PLC0415

    precision = None if name == "auto" else name
    return TorchEngine(
        build_network(member), member.config.preprocessing, torch.device(device), precision
    )


def _build_onnx(member: Member, name: EngineName, num_threads: int | None) -> OnnxEngine:
    if name == "int8" and member.int8 is None:
        raise InputError(
            f"{member.config.id} has no {INT8_GRAPH}; make one with `fer export --int8`, or choose "
            "another engine."
        )
    if name == "float32" or member.int8 is None:
        return OnnxEngine(_with_graph(member), num_threads)
    engine = OnnxEngine(member, num_threads, "int8")
    if name == "int8" or _may_replace_float32(engine, member.config.id):
        return engine
    return OnnxEngine(_with_graph(member), num_threads)


def _may_replace_float32(engine: OnnxEngine, model: str) -> bool:
    if not engine.int8_scores.is_proven:
        return False
    drift = engine.measure_drift()
    # Probabilities that are not numbers are also none that may be used.
    if not drift <= MAX_DRIFT:
        log.warning(
            "%s runs in float32: its probabilities in int8 are off by %.3f on this processor, "
            "where %.3f is allowed.",
            *(model, drift, MAX_DRIFT),
        )
        return False
    return True
