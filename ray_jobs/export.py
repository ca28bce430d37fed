"""Export: write a checkpoint as an ONNX file, checked against the checkpoint's own predictions."""

import dataclasses
import time
from typing import Any

from fer import storage
from fer.data.synthetic import draw_faces
from fer.models import onnx
from fer.models.checkpoint import Checkpoint, load_checkpoint
from fer.models.predictor import Predictor
from ray_jobs.config import ExportConfig
from ray_jobs.pipeline import locations
from ray_jobs.pipeline.outputs import OutputSpec, Reservation

MODEL = "model.onnx"

OUTPUT = OutputSpec(completed_by="summary.json", contents=(MODEL,))

NUM_CHECKED = 64
"""Drawn faces on which the file and the checkpoint are compared."""


def run(config: ExportConfig) -> dict[str, Any]:
    """Export a checkpoint.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The checkpoint or the output does not fit.
        JobError: The file predicts other probabilities than the checkpoint.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    checkpoint = load_checkpoint(config.checkpoint)
    with OUTPUT.reserve(config, started=started) as output:
        return _export(config, checkpoint, output)


def _export(config: ExportConfig, checkpoint: Checkpoint, output: Reservation) -> dict[str, Any]:
    output.begin()
    file = onnx.to_onnx(checkpoint)
    faces, _ = draw_faces(NUM_CHECKED, seed=0)
    expected = Predictor(checkpoint, engine="float32").predict_probs(faces)
    result = {
        "model": storage.join(config.output, MODEL),
        "id": checkpoint.id,
        "bytes": len(file),
        "largest_difference": onnx.check_onnx(file, faces, expected),
        "seconds": round(output.elapsed_seconds, 2),
    }
    summary = {
        **result,
        "input": {"name": onnx.INPUT, "dtype": "uint8", "shape": ["batch", 48, 48]},
        "output": {"name": onnx.OUTPUT, "dtype": "float32", "class_names": checkpoint.class_names},
        "opset": onnx.OPSET,
        "config": dataclasses.asdict(config),
    }
    output.commit(summary, {MODEL: file})
    return result
