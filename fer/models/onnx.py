"""Export a checkpoint as one ONNX file that other programs can run without this package."""

import io
import json

import numpy as np
import torch
from torch import Tensor, nn

from fer.errors import InputError, JobError
from fer.models.checkpoint import Checkpoint
from fer.models.graph import OPSET, TOLERANCE, export
from fer.models.networks import build_network
from fer.models.onnx_engine import INPUT
from fer.models.transforms import PREPROCESSING

__all__ = ["INPUT", "OPSET", "OUTPUT", "check_onnx", "to_onnx"]

OUTPUT = "probabilities"


class ExportedModel(nn.Module):
    """A checkpoint as one graph: preprocessing, members, temperatures and weighted average."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        shapes = {config.shape for config in checkpoint.configs}
        if len(shapes) > 1:
            raise InputError(
                f"{checkpoint.id} has members for faces of different shapes "
                f"({', '.join(sorted(map(str, shapes)))}), which one file can't hold; export its "
                "members one by one."
            )
        self.networks = nn.ModuleList(map(build_network, checkpoint.members))
        self.members = checkpoint.members

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 (N, *shape) to probabilities float32 (N, C)."""
        probs = []
        for network, member in zip(self.networks, self.members, strict=True):
            logits = network(PREPROCESSING[member.config.preprocessing](images))
            probs.append(member.share * (logits / member.config.temperature).softmax(1))
        return torch.stack(probs).sum(dim=0)


def to_onnx(checkpoint: Checkpoint) -> bytes:
    """Return the content of an ONNX file with one input and one output.

    The input ``images`` is uint8 (N, *shape), the output ``probabilities`` float32 (N, C). The
    file's metadata holds the class names and the id of the checkpoint.

    Raises:
        InputError: The members of an ensemble take faces of different shapes.
    """
    import onnx  # noqa: PLC0415 - slow, and rarely needed

    proto = export(ExportedModel(checkpoint), checkpoint.shape, OUTPUT, fold=True)
    metadata = {"id": checkpoint.id, "class_names": json.dumps(checkpoint.class_names)}
    onnx.helper.set_model_props(proto, metadata)
    buffer = io.BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


def check_onnx(file: bytes, images: np.ndarray, expected: np.ndarray) -> float:
    """Run an ONNX file and return the largest difference from the expected probabilities.

    Args:
        file: Content of the ONNX file.
        images: uint8 (N, *shape).
        expected: float32 (N, C), the checkpoint's own probabilities for ``images``.

    Raises:
        JobError: The difference exceeds ``TOLERANCE``.
    """
    import onnxruntime  # noqa: PLC0415 - only here

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (probs,) = session.run([OUTPUT], {INPUT: images})
    difference = float(np.abs(probs - expected).max())
    if not difference <= TOLERANCE:
        raise JobError(
            f"The exported network's probabilities differ from the checkpoint's by up to "
            f"{difference:.2g}; expected at most {TOLERANCE:g}. Nothing was written."
        )
    return difference
