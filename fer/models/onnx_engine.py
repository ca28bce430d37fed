"""Run a network under ONNX Runtime, without torch: in float32 or, where it is proven, in int8."""

import base64
import json
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime

from fer.errors import InputError
from fer.models.checkpoint import GRAPH, INT8_GRAPH, WEIGHTS, Member
from fer.models.seal import is_intact

CPU_BATCH_SIZE = 32
"""Images per batch on a processor.

The output of each layer must stay below 32 MiB. The C library requests larger blocks from the
operating system every time, which takes a fifth of the total time.
"""

INPUT, OUTPUT = "images", "logits"
"""Names of a graph's input and output."""

ID_KEY = "id"
"""Key of the checkpoint's id in a graph's metadata."""

SCORES_KEY, CROPS_KEY, PROBS_KEY = "scores", "crops", "probabilities"
"""Keys in the metadata of an int8 form: its ``Int8Scores``, crops uint8 (K, *shape) in base64, and
their softmax in float32."""

MIN_AGREEMENT = 0.98
"""Least share of images that int8 must name as float32 does, for ``auto`` to choose it."""

MAX_LOSS = 0.003
"""Largest loss of accuracy, and of macro-F1, for ``auto`` to choose int8."""

MAX_DRIFT = 0.02
"""Largest mean difference between the probabilities of the stored crops in int8 and in float32. A
processor whose 8-bit sums overflow is beyond 0.04, others are below 0.01."""


@dataclass(frozen=True)
class Int8Scores:
    """How a network in int8 compares with itself in float32, on images that it did not learn.

    Attributes:
        num_images: Number of images.
        agreement: Share of them that get the same class.
        accuracy_loss: Accuracy in float32 minus accuracy in int8.
        macro_f1_loss: The same of the macro-F1.
    """

    num_images: int
    agreement: float
    accuracy_loss: float
    macro_f1_loss: float

    @property
    def is_proven(self) -> bool:
        """Whether int8 may replace float32."""
        # One by one: the larger of 0 and NaN may be either.
        loses_little = self.accuracy_loss <= MAX_LOSS and self.macro_f1_loss <= MAX_LOSS
        return loses_little and self.agreement >= MIN_AGREEMENT


class OnnxEngine:
    """A network under ONNX Runtime on a processor.

    Attributes:
        name: ``float32`` or ``int8``.
    """

    batch_size = CPU_BATCH_SIZE

    def __init__(
        self,
        member: Member,
        num_threads: int | None = None,
        name: Literal["float32", "int8"] = "float32",
    ) -> None:
        """Open a session.

        Args:
            member: A network with its graph.
            num_threads: Number of threads; by default one a processor that this process may use.
            name: Which form of the network to run.

        Raises:
            InputError: The graph is damaged, or it belongs to another checkpoint.
        """
        file, graph = (GRAPH, member.graph) if name == "float32" else (INT8_GRAPH, member.int8)
        assert graph is not None
        self.name, self._where = name, f"The {file} of {member.config.id}"
        self._shape = member.config.shape
        self._session = self._open(graph, member.weights, num_threads)
        self.metadata = self._session.get_modelmeta().custom_metadata_map
        found = self.metadata.get(ID_KEY)
        if found != member.config.id:
            raise InputError(
                f"{self._where} belongs to {found or 'another program'}; delete it, or copy the "
                "checkpoint again."
            )

    def _open(
        self, graph: bytes, weights: bytes, num_threads: int | None
    ) -> onnxruntime.InferenceSession:
        if not is_intact(graph):
            raise self._damaged()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or num_processors()
        # Threads that wait actively would take the time of other processes' threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        try:
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime's errors share no class but Exception.
            raise self._damaged() from error

    def _damaged(self) -> InputError:
        return InputError(f"{self._where} is damaged; delete it, or copy the checkpoint again.")

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Map images uint8 (B, *shape), in C order, to logits float32 (B, C)."""
        (logits,) = self._session.run([OUTPUT], {INPUT: images})
        assert isinstance(logits, np.ndarray)
        return logits

    @property
    def int8_scores(self) -> Int8Scores:
        """How this int8 form compares with float32."""
        return Int8Scores(**json.loads(self.metadata[SCORES_KEY]))

    def measure_drift(self) -> float:
        """Return the mean difference between the stored crops' probabilities here and in float32.

        Other processors compute the same integers. Where they do not, this tells.
        """
        crops = self._shape.unpack(base64.b64decode(self.metadata[CROPS_KEY]))
        expected = np.array(json.loads(self.metadata[PROBS_KEY]), np.float32)
        probs = softmax(self.logits(crops))
        return float(np.abs(probs - expected).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Map logits float32 (B, C) to probabilities float32 (B, C)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probs


def num_processors() -> int:
    """Return the number of processors that this process may use."""
    # Not every system has affinities.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
