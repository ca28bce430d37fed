"""Run a network: on processors by ONNX Runtime, without torch; on GPUs by torch."""

import os
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
import onnxruntime

from fer.errors import InputError
from fer.models.checkpoint import GRAPH, WEIGHTS, Checkpoint, Member

CPU_BATCH_SIZE = 32
"""Images per batch on a processor.

The output of each layer must stay below 32 MiB. The C library requests larger blocks from the
operating system every time, which takes a fifth of the total time.
"""

EngineName = Literal["auto", "float32"]

INPUT, OUTPUT = "images", "logits"
"""Names of a graph's input and output."""

ID_KEY = "id"
"""Key of the checkpoint's id in a graph's metadata."""


class Engine(Protocol):
    """A network that is ready to run on images."""

    @property
    def name(self) -> str:
        """How it computes."""

    @property
    def batch_size(self) -> int:
        """The fastest number of images per call."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Map images uint8 (B, 48, 48), in C order, to logits float32 (B, C)."""


class OnnxEngine:
    """A network under ONNX Runtime on a processor."""

    name = "float32"
    batch_size = CPU_BATCH_SIZE

    def __init__(self, member: Member, num_threads: int | None = None) -> None:
        """Open a session.

        Args:
            member: A network with its graph.
            num_threads: Number of threads; by default one a processor that this process may use.

        Raises:
            InputError: The graph is damaged, or it belongs to another checkpoint.
        """
        assert member.graph is not None
        self._session = _open(member.graph, member, num_threads or len(os.sched_getaffinity(0)))
        found = self._session.get_modelmeta().custom_metadata_map.get(ID_KEY)
        if found != member.config.id:
            raise InputError(
                f"The {GRAPH} of {member.config.id} belongs to {found or 'another program'}; "
                "delete it, and it is made again."
            )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Map images uint8 (B, 48, 48), in C order, to logits float32 (B, C)."""
        (logits,) = self._session.run([OUTPUT], {INPUT: images})
        assert isinstance(logits, np.ndarray)
        return logits


def _open(graph: bytes, member: Member, num_threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Threads that wait actively would take the time of other processes' threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    options.add_external_initializers_from_files_in_memory(
        [WEIGHTS], [member.weights], [len(member.weights)]
    )
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's errors share no class but Exception.
        raise InputError(
            f"The {GRAPH} of {member.config.id} is damaged; delete it, and it is made again."
        ) from error


def with_graphs(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint that processors run without torch: graphs that are missing are made.

    Raises:
        InputError: A network can't be built.
        JobError: A graph does not answer as its network does.
    """
    return replace(checkpoint, members=tuple(map(_with_graph, checkpoint.members)))


def _with_graph(member: Member) -> Member:
    if member.graph is not None:
        return member
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
        name: ``float32`` for results that differ from torch's by rounding only; ``auto`` for the
            fastest engine of the device.
        num_threads: Threads on a processor; by default one a processor that this process may use.

    Raises:
        InputError: The network can't be built, or its graph is damaged.
    """
    if device == "cpu":
        return OnnxEngine(_with_graph(member), num_threads)
    import torch  # noqa: PLC0415

    from fer.models.networks import build_network  # noqa: PLC0415
    from fer.models.torch_engine import TorchEngine  # noqa: PLC0415

    precision = None if name == "auto" else name
    return TorchEngine(
        build_network(member), member.config.preprocessing, torch.device(device), precision
    )
