"""A checkpoint to an ONNX file, checked against the checkpoint's own answers."""

import dataclasses
import json
import time
from typing import Any

from fer import storage
from fer.data.synthetic import draw_faces
from fer.models import onnx
from fer.models.checkpoint import load_checkpoint
from fer.models.predictor import Predictor
from ray_jobs.config import ExportConfig
from ray_jobs.pipeline import locations, outputs

MODEL, SUMMARY = "model.onnx", "summary.json"

NUM_CHECKED = 64
"""Faces that both networks are asked about."""


def run(config: ExportConfig) -> dict[str, Any]:
    """Export a checkpoint.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The checkpoint or the output is not as it must be, or ONNX is not installed.
        JobError: The file does not answer as the checkpoint does.
    """
    start = time.monotonic()
    config = locations.resolve(config)
    checkpoint = load_checkpoint(config.checkpoint)
    onnx.require_onnx()
    outputs.claim(config, SUMMARY, (MODEL,)).take()
    file = onnx.to_onnx(checkpoint)
    faces, _ = draw_faces(NUM_CHECKED, seed=0)
    expected = Predictor(checkpoint, engine="float32").predict_probs(faces)
    result = {
        "model": storage.join(config.output, MODEL),
        "id": checkpoint.id,
        "bytes": len(file),
        "largest_difference": onnx.check_onnx(file, faces, expected),
        "seconds": round(time.monotonic() - start, 2),
    }
    summary = {
        **result,
        "input": {"name": onnx.INPUT, "dtype": "uint8", "shape": ["batch", 48, 48]},
        "output": {"name": onnx.OUTPUT, "dtype": "float32", "class_names": checkpoint.class_names},
        "opset": onnx.OPSET,
        "config": dataclasses.asdict(config),
    }
    storage.write_bytes(storage.join(config.output, MODEL), file)
    content = json.dumps(summary, indent=2).encode()
    storage.write_bytes(storage.join(config.output, SUMMARY), content)
    return result
