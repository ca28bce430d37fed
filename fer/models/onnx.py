"""Export a checkpoint as one ONNX file that other programs can run without this package."""

import io
import json
import logging
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from fer.errors import InputError, JobError
from fer.models.checkpoint import Checkpoint
from fer.models.engine import fold_batch_norm
from fer.models.transforms import PREPROCESSING
from fer.vision.decode import IMAGE_SIZE

OPSET = 18
INPUT, OUTPUT = "images", "probabilities"

TOLERANCE = 1e-4
"""Largest allowed difference between a probability of the exported network and the original."""


class ExportedModel(nn.Module):
    """A checkpoint as one graph: preprocessing, members, temperatures and weighted average."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.members = nn.ModuleList(fold_batch_norm(model) for model in checkpoint.models)
        self.configs, self.weights = checkpoint.configs, checkpoint.weights

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 (N, 48, 48) to probabilities float32 (N, C)."""
        probs = [
            weight
            * (member(PREPROCESSING[config.preprocessing](images)) / config.temperature).softmax(1)
            for member, config, weight in zip(self.members, self.configs, self.weights, strict=True)
        ]
        return torch.stack(probs).sum(dim=0)


def require_onnx() -> None:
    """Check that the packages that the export needs are installed.

    Raises:
        InputError: onnx, onnxruntime or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401, PLC0415 - extras
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise InputError(
            "The export needs ONNX, which is not installed; run pip install 'fer-on-ray[onnx]'."
        ) from error


def to_onnx(checkpoint: Checkpoint) -> bytes:
    """Return the content of an ONNX file with one input and one output.

    The input ``images`` is uint8 (N, 48, 48), the output ``probabilities`` float32 (N, C). The
    file's metadata holds the class names and the id of the checkpoint.
    """
    import onnx  # noqa: PLC0415 - an extra

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model, example = ExportedModel(checkpoint).eval(), torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE).byte()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    buffer = io.BytesIO()
    proto = program.model_proto  # type: ignore[union-attr]
    metadata = {"id": checkpoint.id, "class_names": json.dumps(checkpoint.class_names)}
    onnx.helper.set_model_props(proto, metadata)
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


def check_onnx(file: bytes, images: np.ndarray, expected: np.ndarray) -> float:
    """Run an ONNX file and return the largest difference from the expected probabilities.

    Args:
        file: Content of the ONNX file.
        images: uint8 (N, 48, 48).
        expected: float32 (N, C), the checkpoint's own probabilities for ``images``.

    Raises:
        JobError: The difference exceeds ``TOLERANCE``.
    """
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (probs,) = session.run([OUTPUT], {INPUT: images})
    difference = float(np.abs(probs - expected).max())
    if not difference <= TOLERANCE:
        raise JobError(
            f"The exported network's probabilities differ from the checkpoint's by up to "
            f"{difference:.2g}; expected at most {TOLERANCE:g}. Nothing was written."
        )
    return difference
