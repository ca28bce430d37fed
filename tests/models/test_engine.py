"""Every engine predicts what the network itself predicts."""

import shutil

import pytest
import torch

from fer.data.synthetic import draw_faces
from fer.models.architectures import MODELS, build_model
from fer.models.checkpoint import load_checkpoint
from fer.models.engine import Engine, choose_engine, fold_batch_norm
from fer.models.transforms import standardize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    """The bundled network, a trained one, whose predictions are worth comparing."""
    (model,) = load_checkpoint("bundled").models
    return model


@pytest.fixture(scope="module")
def images():
    return torch.tensor(draw_faces(256, seed=5)[0])


@pytest.fixture(scope="module")
def expected(network, images):
    return probs_of(lambda part: network(standardize(part)), images)


@torch.inference_mode()
def probs_of(logits, images):
    return torch.cat([logits(part).softmax(dim=1) for part in images.split(64)])


@pytest.mark.parametrize("name", [*MODELS])
def test_folding_batch_norm_does_not_change_the_logits(name, images):
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


@pytest.mark.parametrize("name", ["auto", "float32", "bfloat16"])
def test_an_engine_agrees_with_the_network_in_float32(name, network, images, expected):
    engine = Engine(network, "standardize", CPU, name)
    if name != "auto":
        assert str(engine.dtype) == f"torch.{name}"
    check_agreement(probs_of(engine.logits, images), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # raised by torch's compiler about torch itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiled_engine_agrees_with_the_network_in_float32(network, images, expected):
    engine = Engine(network, "standardize", CPU, "compiled")
    check_agreement(probs_of(engine.logits, images), expected)
    for size in (130, 1):
        probs = engine.logits(images[:size]).softmax(dim=1)
        assert (probs - expected[:size]).abs().mean() < 0.005
    counters = torch._dynamo.utils.counters["stats"]
    assert counters["unique_graphs"] == 1


def check_agreement(probs, expected):
    first, second = expected.topk(2, dim=1).values.unbind(dim=1)
    # Which of two that are as likely comes first is a matter of rounding.
    clear = first - second > 0.02
    assert clear.float().mean() > 0.9
    assert (probs.argmax(dim=1) == expected.argmax(dim=1))[clear].all()
    assert (probs - expected).abs().mean() < 0.005


def test_float32_is_chosen_where_bfloat16_is_slow(monkeypatch):
    monkeypatch.setattr("fer.models.engine.has_fast_bfloat16", lambda _device: False)
    assert choose_engine(CPU) == "float32"
