"""Export: write a checkpoint as an ONNX file, checked against the checkpoint's own predictions."""

import time
from dataclasses import asdict, replace
from typing import Any

from fer import storage
from fer.data.dataset import Dataset, open_dataset
from fer.data.synthetic import draw_faces
from fer.errors import InputError
from fer.models import onnx
from fer.models.checkpoint import INT8_GRAPH, Checkpoint, check_classes, load_checkpoint
from fer.models.engine import with_graphs
from fer.models.onnx_engine import OnnxEngine
from fer.models.predictor import Predictor
from fer.models.quantization import calibrate_int8
from fer.vision.reshape import convert_images
from ray_jobs.config import ExportConfig
from ray_jobs.pipeline import locations
from ray_jobs.pipeline.outputs import OutputSpec, Reservation

MODEL = "model.onnx"

OUTPUT = OutputSpec(completed_by="summary.json", contents=(MODEL, INT8_GRAPH))

NUM_CHECKED = 64
"""Drawn faces on which the file and the checkpoint are compared."""


def run(config: ExportConfig) -> dict[str, Any]:
    """Export a checkpoint.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The checkpoint, the dataset or the output does not fit.
        JobError: The file predicts other probabilities than the checkpoint.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    checkpoint = with_graphs(load_checkpoint(config.checkpoint))
    data = _open_dataset(config, checkpoint)
    with OUTPUT.reserve(config, started=started) as output:
        return _export(config, checkpoint, data, output)


def _open_dataset(config: ExportConfig, checkpoint: Checkpoint) -> Dataset | None:
    """Return the dataset that calibrates the int8 form, or None."""
    if config.int8 is None:
        return None
    if len(checkpoint.members) > 1:
        raise InputError(
            f"--int8 takes a single network, but {config.checkpoint} is an ensemble; export its "
            f"members one by one, such as {config.checkpoint}/0."
        )
    data = open_dataset(config.int8)
    check_classes(config.checkpoint, checkpoint.class_names, data.class_names)
    for split in ("train", "val"):
        data.check_split(split)
    return data


def _export(
    config: ExportConfig, checkpoint: Checkpoint, data: Dataset | None, output: Reservation
) -> dict[str, Any]:
    output.begin()
    files = {MODEL: onnx.to_onnx(checkpoint)}
    faces = convert_images(draw_faces(NUM_CHECKED, seed=0)[0], checkpoint.shape)
    expected = Predictor(checkpoint, engine="float32").predict_probs(faces)
    result = {
        "model": storage.join(config.output, MODEL),
        "id": checkpoint.id,
        "bytes": len(files[MODEL]),
        "largest_difference": onnx.check_onnx(files[MODEL], faces, expected),
    }
    if data:
        (member,) = checkpoint.members
        files[INT8_GRAPH] = calibrate_int8(member, data)
        scores = OnnxEngine(replace(member, int8=files[INT8_GRAPH]), name="int8").int8_scores
        result["int8"] = {**asdict(scores), "is_proven": scores.is_proven}
    result["seconds"] = round(output.elapsed_seconds, 2)
    shape = ["batch", *checkpoint.shape.array]
    summary = {
        **result,
        "input": {"name": onnx.INPUT, "dtype": "uint8", "shape": shape},
        "output": {"name": onnx.OUTPUT, "dtype": "float32", "class_names": checkpoint.class_names},
        "opset": onnx.OPSET,
        "config": asdict(config),
    }
    output.commit(summary, files)
    return result
