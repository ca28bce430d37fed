"""The int8 form of a network: calibrated on images, and scored against the network in float32.

Convolutions and linear layers compute with 8-bit integers, which processors do two to three times
as fast. The first and the last of them stay in float32: they cost little, and most of what int8
loses is lost there.
"""

import base64
import io
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer.data.dataset import Dataset
from fer.metrics import scores_from_confusion
from fer.models.checkpoint import Checkpoint, Member
from fer.models.engine import EngineName
from fer.models.graph import export, preprocessed_network
from fer.models.onnx_engine import (
    CROPS_KEY,
    ID_KEY,
    INPUT,
    OUTPUT,
    PROBS_KEY,
    SCORES_KEY,
    Int8Scores,
    OnnxEngine,
    softmax,
)
from fer.models.predictor import Predictor
from fer.models.seal import seal
from fer.vision.reshape import convert_images

NUM_CALIBRATION = 1024
"""Most images that the ranges of activations are measured on."""

CALIBRATION_BYTES = 3 * 2**30
"""Most memory for the activations of these images, since the calibrator keeps all of them until it
has seen the last one. In the paper's deep network, 1,024 images of 48x48 pixels take 2.7 GiB."""

NUM_SCORED = 10_000
"""Most images that the int8 form is scored on."""

SCORED_BYTES = 512 * 2**20
"""Most memory for the pixels of these images."""

PERCENTILE = 99.999
"""Share of the activations within the range that int8 covers, in percent: a few large ones would
make the steps of all others coarse."""

NUM_CROPS = 16
"""Images that are stored with their float32 probabilities, for processes to check themselves by."""

BATCH_SIZE = 8
"""Images in a batch of calibration; what does not fill one is left out."""

OPERATORS = ["Conv", "Gemm", "Add", "Relu", "Clip", "MaxPool"]
"""Operators that compute in int8. Clip is EfficientNet's ReLU6."""


def calibrate_int8(member: Member, data: Dataset) -> bytes:
    """Return the int8 form of a network, a self-contained ONNX file.

    Its metadata hold the checkpoint's id, its ``Int8Scores``, and crops to check processors by.

    Args:
        member: The network, with its graph.
        data: A dataset with the network's classes. Ranges are measured on examples of ``train``;
            scores are computed on ``val``, without the images that ``train`` holds too.

    Raises:
        InputError: The network can't be built, or a split has no examples.
    """
    shape = member.config.shape
    calibration = convert_images(data.sample_split("train", NUM_CALIBRATION).images, shape)
    num_scored = min(NUM_SCORED, SCORED_BYTES // data.shape.num_bytes)
    val = data.sample_split("val", num_scored)
    copies = data.copies_of_train("val")
    assert val.digests is not None
    rows = np.array([digest not in copies for digest in val.digests])
    rows |= not rows.any()
    images = convert_images(val.images[rows], shape)
    return make_int8(member, calibration, images, val.labels[rows])


def make_int8(
    member: Member, calibration: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> bytes:
    """Return the int8 form of a network, as ``calibrate_int8`` does.

    Args:
        member: The network, with its graph.
        calibration: uint8 (M, *shape), images to measure the ranges of activations on: the first
            of them whose activations ``CALIBRATION_BYTES`` hold.
        images: uint8 (N, *shape), images to score it on.
        labels: int (N,), their classes.
    """
    import onnx  # noqa: PLC0415 - slow, and rarely needed

    exported = export(preprocessed_network(member), member.config.shape, OUTPUT, fold=True)
    quantized = onnx.load_from_string(_quantize(exported, calibration[: num_calibrated(exported)]))
    crops = calibration[:NUM_CROPS]
    metadata = {ID_KEY: member.config.id, SCORES_KEY: json.dumps(None)}
    onnx.helper.set_model_props(quantized, metadata)
    draft = replace(member, int8=quantized.SerializeToString())
    scores = _compare(draft, images, labels)
    probs = softmax(OnnxEngine(member).logits(crops))
    metadata[SCORES_KEY] = json.dumps(asdict(scores))
    metadata[CROPS_KEY] = base64.b64encode(crops.tobytes()).decode()
    metadata[PROBS_KEY] = json.dumps(probs.round(5).tolist())
    onnx.helper.set_model_props(quantized, metadata)
    return seal(quantized.SerializeToString())


def num_calibrated(exported: Any) -> int:  # noqa: ANN401 - onnx is untyped
    """Return how many images' activations ``CALIBRATION_BYTES`` hold, at least 1."""
    return max(1, CALIBRATION_BYTES // activation_bytes(exported))


def activation_bytes(exported: Any) -> int:  # noqa: ANN401 - onnx is untyped
    """Return the bytes that the calibrator keeps of an image: what ``OPERATORS`` take and return.

    Args:
        exported: A float32 ONNX model whose first dimension is the batch.
    """
    import onnx  # noqa: PLC0415 - slow, and rarely needed

    graph = onnx.shape_inference.infer_shapes(exported).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    nodes = [node for node in graph.node if node.op_type in OPERATORS]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    weights = {tensor.name for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    kept = (shapes[name] for name in names & shapes.keys() - weights)
    # Few dimensions are unknown to the inference, and those are 1.
    return 4 * sum(math.prod(dim.dim_value or 1 for dim in dims[1:]) for dims in kept)


def _quantize(exported: Any, calibration: np.ndarray) -> bytes:  # noqa: ANN401 - onnx is untyped
    """Quantize a float32 ONNX model, with the ranges that its activations have on some images."""
    import onnx  # noqa: PLC0415 - slow, and rarely needed
    from onnxruntime import quantization  # noqa: PLC0415

    layers = [node.name for node in exported.graph.node if node.op_type in ("Conv", "Gemm")]
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder, _silence():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(exported, source)
        quantization.quantize_static(
            source,
            target,
            _calibration_reader(calibration),
            op_types_to_quantize=OPERATORS,
            nodes_to_exclude=[layers[0], layers[-1]],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Processors without VNNI add products in 16 bits, which overflow with 8-bit weights.
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )
        return target.read_bytes()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the quantizer's progress off the terminal: it prints, warns and logs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _calibration_reader(images: np.ndarray) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    from onnxruntime import quantization  # noqa: PLC0415 - slow, and rarely needed

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _batches(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    return Reader()


def _batches(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of one size, as the calibrator needs them; images that fill none are left."""
    size = min(BATCH_SIZE, len(images))
    for start in range(0, len(images) - size + 1, size):
        yield {INPUT: np.ascontiguousarray(images[start : start + size])}


def _compare(member: Member, images: np.ndarray, labels: np.ndarray) -> Int8Scores:
    """Score a network in int8 against itself in float32."""
    engines: tuple[EngineName, EngineName] = ("float32", "int8")
    preds = [_predictor(member, name).predict_probs(images).argmax(axis=1) for name in engines]
    (accuracy, macro_f1), (int8_accuracy, int8_macro_f1) = (
        scores_from_confusion(_confusion(labels, each, len(member.config.class_names)))
        for each in preds
    )
    return Int8Scores(
        num_images=len(images),
        agreement=float((preds[0] == preds[1]).mean()),
        accuracy_loss=accuracy - int8_accuracy,
        macro_f1_loss=macro_f1 - int8_macro_f1,
    )


def _confusion(labels: np.ndarray, preds: np.ndarray, num_classes: int) -> np.ndarray:
    cells = np.bincount(labels * num_classes + preds, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _predictor(member: Member, engine: EngineName) -> Predictor:
    alone = replace(member, share=1.0)
    checkpoint = Checkpoint(member.config.id, member.config.class_names, (alone,))
    return Predictor(checkpoint, engine=engine)
