"""Every engine answers what the network itself answers."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from fer.data.synthetic import draw_faces
from fer.errors import InputError
from fer.models.architectures import MODELS, build_model
from fer.models.checkpoint import GRAPH, load_checkpoint
from fer.models.engine import build_engine, with_graphs
from fer.models.graph import make_graph
from fer.models.networks import build_network, load_networks
from fer.models.onnx_engine import OnnxEngine
from fer.models.predictor import Predictor
from fer.models.torch_engine import TorchEngine, fastest_precision, fold_batch_norm
from fer.models.transforms import PREPROCESSING, standardize

CPU = torch.device("cpu")
WITHOUT_BATCH_NORM = ("alexnet", "vgg11", "vgg16")


@pytest.fixture(scope="module")
def images():
    return draw_faces(256, seed=5)[0]


@torch.inference_mode()
def logits_of(network, images, preprocessing="standardize"):
    return network(PREPROCESSING[preprocessing](torch.tensor(images))).numpy()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT_BATCH_NORM])
def test_folding_batch_norm_does_not_change_the_logits(name, images):
    images = torch.tensor(images)
    torch.manual_seed(0)
    model = build_model(name).train()
    with torch.inference_mode():
        model(standardize(images[:64]))  # moves the statistics away from their initial values
        seen = model.eval()(standardize(images[:8]))
        torch.testing.assert_close(
            fold_batch_norm(model)(standardize(images[:8])), seen, rtol=1e-4, atol=1e-4
        )
    assert not any(
        "BatchNorm" in type(module).__name__ for module in fold_batch_norm(model).modules()
    )
    assert any("BatchNorm" in type(module).__name__ for module in model.modules())


@pytest.mark.parametrize(
    ("model", "layers", "preprocessing"),
    [
        ("shallow", {}, "equalize"),
        ("deep", {"pooling": "fractional"}, "standardize"),
        ("resnet4-w32", {"activation": "silu"}, "standardize"),
        ("conv3", {"batch_norm": False, "activation": "gelu", "first_kernel": 5}, "equalize"),
    ],
)
def test_a_graph_answers_as_its_network(
    save_network, tmp_path, images, model, layers, preprocessing
):
    save_network(tmp_path, model, layers=layers, preprocessing=preprocessing)
    (member,) = with_graphs(load_checkpoint(str(tmp_path))).members
    assert len(member.graph) < 100_000, "the weights stand in model.safetensors alone"
    (network,) = load_networks(str(tmp_path))
    engine = OnnxEngine(member)
    for size in (256, 1, 0):
        part = images[:size]
        expected = logits_of(network, part, preprocessing) if size else np.empty((0, 7))
        np.testing.assert_allclose(engine.logits(part), expected, atol=1e-4)


def test_any_onnx_runtime_opens_the_graph_in_its_folder(save_network, tmp_path, images):
    save_network(tmp_path)
    (member,) = load_checkpoint(str(tmp_path)).members
    (tmp_path / GRAPH).write_bytes(make_graph(member))
    session = onnxruntime.InferenceSession(tmp_path / GRAPH, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images})
    np.testing.assert_array_equal(logits, OnnxEngine(with_graph(member)).logits(images))


def with_graph(member):
    return replace(member, graph=make_graph(member))


def test_half_precision_is_cast_when_the_graph_is_opened(images):
    (member,) = load_checkpoint("bundled").members
    assert json.loads(member.weights[8 : member.weights.index(b"}}") + 2])["output.bias"][
        "dtype"
    ] == ("F16")
    expected = logits_of(build_network(member), images)
    np.testing.assert_allclose(OnnxEngine(member).logits(images), expected, atol=1e-4)


def test_a_graph_of_another_checkpoint_is_refused(save_network, tmp_path):
    members = []
    for seed in (0, 1):
        save_network(tmp_path, seed=seed)
        members += load_checkpoint(str(tmp_path)).members
    other = replace(members[0], graph=make_graph(members[1]))
    with pytest.raises(InputError, match=rf"graph.onnx of .* belongs to {members[1].config.id};"):
        OnnxEngine(other)


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_a_damaged_graph_is_refused(save_network, tmp_path, cut):
    save_network(tmp_path)
    (member,) = load_checkpoint(str(tmp_path)).members
    with pytest.raises(InputError, match=r"graph.onnx of shallow-\w+ is damaged; delete it, or"):
        OnnxEngine(replace(member, graph=make_graph(member)[:cut]))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_torch_agrees_with_the_graph(name, images):
    (member,) = load_checkpoint("bundled").members
    engine = TorchEngine(build_network(member), "standardize", CPU, name)
    assert engine.name == name
    probs = [
        torch.tensor(each.logits(images)).softmax(dim=1) for each in (engine, OnnxEngine(member))
    ]
    check_agreement(*probs)


def check_agreement(probs, expected):
    first, second = expected.topk(2, dim=1).values.unbind(dim=1)
    # Which of two that are as likely comes first is a matter of rounding.
    clear = first - second > 0.02
    assert clear.float().mean() > 0.9
    assert (probs.argmax(dim=1) == expected.argmax(dim=1))[clear].all()
    assert (probs - expected).abs().mean() < 0.005


def test_a_device_that_is_no_processor_runs_torch(images):
    (member,) = load_checkpoint("bundled").members
    engine = build_engine(member, "cpu:0")
    assert isinstance(engine, TorchEngine)
    np.testing.assert_allclose(
        engine.logits(images[:8]), OnnxEngine(member).logits(images[:8]), atol=0.1
    )


def test_float32_is_chosen_where_bfloat16_is_slow(monkeypatch):
    monkeypatch.setattr("fer.models.torch_engine.has_fast_bfloat16", lambda _device: False)
    assert fastest_precision(CPU) == "float32"


def test_a_prediction_on_a_processor_imports_no_torch():
    program = (
        "import sys, numpy as np; from fer import Predictor; "
        "probs = Predictor.load('bundled', 'cpu').predict_probs(np.zeros((40, 48, 48), np.uint8)); "
        "assert probs.shape == (40, 7); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_ensemble_of_graphs_equals_one_of_networks(save_network, tmp_path, images):
    for seed, name in enumerate("01"):
        save_network(tmp_path / name, seed=seed, temperature=1.5)
    (tmp_path / "config.json").write_text('{"members": ["0", "1"], "weights": [3, 1]}')
    networks = load_networks(str(tmp_path))
    probs = [
        torch.tensor(logits_of(network, images) / 1.5).softmax(dim=1).numpy()
        for network in networks
    ]
    found = Predictor.load(str(tmp_path), "cpu").predict_probs(images)
    np.testing.assert_allclose(found, 0.75 * probs[0] + 0.25 * probs[1], atol=1e-5)
