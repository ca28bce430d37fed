"""The int8 form answers nearly as float32 does, says how nearly, and is left where it does not."""

import json
import logging
import math
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest

from fer.data.synthetic import draw_faces
from fer.errors import InputError
from fer.models.checkpoint import load_checkpoint
from fer.models.engine import build_engine, with_graphs
from fer.models.onnx_engine import ID_KEY, PROBS_KEY, SCORES_KEY, Int8Scores, OnnxEngine, softmax
from fer.models.quantization import activation_bytes, make_int8, num_calibrated
from fer.vision.reshape import convert_images
from fer.vision.shape import ImageShape


@pytest.fixture(scope="module")
def bundled():
    """The bundled network, which ships with its int8 form."""
    (member,) = load_checkpoint("bundled").members
    return member


@pytest.fixture(scope="module")
def images():
    return draw_faces(128, seed=5)[0]


def with_metadata(member, **changes):
    """Return a member whose int8 form has other metadata, and no seal."""
    graph = onnx.load_from_string(member.int8)
    metadata = {entry.key: entry.value for entry in graph.metadata_props if entry.key != "sha256"}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {**metadata, **changes})
    return replace(member, int8=graph.SerializeToString())


def test_the_shipped_form_is_proven_and_chosen(bundled, images):
    engine = build_engine(bundled, "cpu", num_threads=1)
    assert engine.name == "int8"
    assert engine.int8_scores.num_images == 3309
    assert engine.int8_scores.agreement > 0.99
    assert engine.measure_drift() < 0.01
    int8, float32 = (
        softmax(each.logits(images)) for each in (engine, OnnxEngine(bundled, num_threads=1))
    )
    assert (int8.argmax(axis=1) == float32.argmax(axis=1)).mean() > 0.95
    assert np.abs(int8 - float32).mean() < 0.01
    assert np.abs(int8 - float32).max() > 0, "it is another computation"


def test_float32_is_chosen_on_request(bundled):
    assert build_engine(bundled, "cpu", "float32").name == "float32"


@pytest.mark.parametrize(
    "change",
    [
        {"agreement": 0.979},
        {"accuracy_loss": 0.0031},
        {"macro_f1_loss": 0.0031},
        {"agreement": math.nan},
        {"accuracy_loss": math.nan},
        {"macro_f1_loss": math.nan},
    ],
)
def test_a_form_that_loses_too_much_is_taken_on_request_only(bundled, change):
    scores = {**asdict(Int8Scores(1000, 0.98, 0.003, 0.003)), **change}
    assert Int8Scores(1000, 0.98, 0.003, 0.003).is_proven
    member = with_metadata(bundled, **{SCORES_KEY: json.dumps(scores)})
    assert build_engine(member, "cpu").name == "float32"
    assert build_engine(member, "cpu", "int8").name == "int8"


@pytest.mark.parametrize("factor", [1, math.nan])
def test_a_processor_that_answers_otherwise_runs_float32(bundled, caplog, factor):
    probs = factor * np.roll(json.loads(onnx_metadata(bundled)[PROBS_KEY]), 1, axis=1)
    member = with_metadata(bundled, **{PROBS_KEY: json.dumps(probs.tolist())})
    with caplog.at_level(logging.WARNING):
        assert build_engine(member, "cpu").name == "float32"
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{bundled.config.id} runs in float32: its probabilities")
    assert "where 0.020 is allowed" in record.getMessage()


def onnx_metadata(member):
    return {entry.key: entry.value for entry in onnx.load_from_string(member.int8).metadata_props}


def test_a_form_of_another_checkpoint_or_a_damaged_one_is_refused(bundled):
    with pytest.raises(InputError, match=r"graph.int8.onnx of \S+ belongs to deep-2; delete"):
        build_engine(with_metadata(bundled, **{ID_KEY: "deep-2"}), "cpu")
    with pytest.raises(InputError, match=r"graph.int8.onnx of \S+ is damaged; delete it"):
        build_engine(replace(bundled, int8=bundled.int8[:-100]), "cpu")


def test_a_checkpoint_without_it_cannot_run_it(bundled):
    with pytest.raises(InputError, match=r"has no graph.int8.onnx; make one with `fer export"):
        build_engine(replace(bundled, int8=None), "cpu", "int8")


def test_gpus_have_none(bundled):
    with pytest.raises(InputError, match="GPUs have no int8 engine; choose auto or float32"):
        build_engine(bundled, "cuda", "int8")


@pytest.mark.parametrize("model", ["shallow", "resnet4-w32"])
def test_a_form_is_made_and_scored(save_network, tmp_path, images, model, capfd):
    save_network(tmp_path, model)
    (member,) = with_graphs(load_checkpoint(str(tmp_path))).members
    labels = np.arange(len(images)) % 7
    made = replace(member, int8=make_int8(member, images[:70], images, labels))
    assert capfd.readouterr().out == "", "the quantizer's own lines are no user's"
    assert len(made.int8) < 0.3 * len(member.weights) + 70_000, "a byte a weight, and the crops"
    engine = OnnxEngine(made, 1, "int8")
    assert engine.int8_scores.num_images == len(images)
    assert engine.measure_drift() < 0.01
    int8, float32 = (softmax(each.logits(images)) for each in (engine, OnnxEngine(member, 1)))
    assert np.abs(int8 - float32).mean() < 0.01
    agreement = (int8.argmax(axis=1) == float32.argmax(axis=1)).mean()
    assert engine.int8_scores.agreement == pytest.approx(agreement)
    right = [(probs.argmax(axis=1) == labels).mean() for probs in (float32, int8)]
    assert engine.int8_scores.accuracy_loss == pytest.approx(right[0] - right[1])


@pytest.mark.slow
def test_networks_in_color_with_relu6_have_a_form(save_network, tmp_path, images):
    shape = ImageShape(32, 3)
    save_network(tmp_path, "efficientnet-lite0", shape=shape, preprocessing="imagenet")
    (member,) = with_graphs(load_checkpoint(str(tmp_path))).members
    colored = convert_images(images[:32], shape)
    made = replace(member, int8=make_int8(member, colored, colored, np.arange(32) % 7))
    assert OnnxEngine(made, 1, "int8").measure_drift() < 0.01
    operators = [node.op_type for node in onnx.load_from_string(made.int8).graph.node]
    assert operators.count("Clip") == 1, "all but that of the first layer, which stays in float32"


def convolution(channels, size):
    """Return a model of one convolution with 8 filters of 3x3 pixels, and ReLU."""
    weights = onnx.numpy_helper.from_array(np.ones((8, channels, 3, 3), np.float32), "weights")
    ends = [
        onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, ["batch", depth, size, size]
        )
        for name, depth in (("images", channels), ("maps", 8))
    ]
    nodes = [
        onnx.helper.make_node("Conv", ["images", "weights"], ["sums"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["sums"], ["maps"]),
    ]
    graph = onnx.helper.make_graph(nodes, "convolution", ends[:1], ends[1:], [weights])
    return onnx.helper.make_model(graph)


@pytest.mark.parametrize(
    ("channels", "size", "number"), [(3, 1024, 40), (3, 512, 161), (1, 48, 20_560)]
)
def test_ranges_are_measured_on_as_many_images_as_memory_holds(channels, size, number):
    model = convolution(channels, size)
    assert activation_bytes(model) == 4 * (channels + 8 + 8) * size**2
    assert num_calibrated(model) == number


def test_the_first_and_the_last_layer_stay_in_float32(bundled):
    graph = onnx.load_from_string(bundled.int8).graph
    producers = {output: node for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    is_int8 = [
        layer.input[1] in producers and producers[layer.input[1]].op_type == "DequantizeLinear"
        for layer in layers
    ]
    assert is_int8 == [False, *[True] * (len(layers) - 2), False]
