import numpy as np
import pytest
import torch
from torch import nn

from fer.errors import InputError
from fer.models.architectures import build_model, count_multiply_adds, count_parameters
from fer.models.checkpoint import load_checkpoint
from fer.models.onnx import check_onnx, to_onnx
from fer.models.predictor import Predictor
from fer.models.residual import ResidualBlock
from fer.models.torch_engine import fold_batch_norm
from fer.models.transforms import standardize

COSTS = {
    "resnet10-w32": (1_227_623, 35_557_120),
    "resnet10-w48": (2_758_423, 79_877_760),
}
"""Parameters and multiply-adds for seven classes, counted by hand."""


@pytest.mark.parametrize("name", COSTS)
def test_size_and_cost(name):
    model = build_model(name)
    assert (count_parameters(model), count_multiply_adds(model)) == COSTS[name]


@pytest.mark.parametrize("num_blocks", range(1, 9))
@pytest.mark.parametrize("width", [32, 48])
def test_names_count_the_layers_with_weights_and_the_first_filters(num_blocks, width):
    model = build_model(f"resnet{2 * num_blocks + 2}-w{width}").eval()
    blocks = [layer for layer in model.modules() if isinstance(layer, ResidualBlock)]
    weighted = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3))
    ]
    assert (len(blocks), len(weighted)) == (num_blocks, 2 * num_blocks + 2)
    num_stages = min(num_blocks, 4)
    maps = model.blocks(model.stem(torch.zeros(1, 1, 48, 48)))
    assert maps.shape[1:] == (width * 2 ** (num_stages - 1), *[24 // 2 ** (num_stages - 1)] * 2)


def test_further_blocks_go_into_the_last_stages():
    widths = [block.first[0].out_channels for block in build_model("resnet14-w32").blocks]
    assert widths == [32, 64, 128, 128, 256, 256]


def test_a_block_adds_its_input():
    model = build_model("resnet10-w32").eval()
    first, second, *_ = model.blocks
    assert (len(first.shortcut), len(second.shortcut)) == (0, 2)
    with torch.no_grad():
        for block in (first, second):
            block.second[1].weight.zero_()
        maps = torch.randn(2, 32, 24, 24)
        torch.testing.assert_close(first(maps), maps.relu())
        torch.testing.assert_close(second(maps), second.shortcut(maps).relu())


@pytest.mark.parametrize("name", ["resnet4-w32", "resnet10-w48", "resnet18-w32"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_every_weight_gets_a_gradient(name, batch_norm):
    torch.manual_seed(0)
    model = build_model(name, batch_norm=batch_norm)
    model(torch.randn(8, 1, 48, 48)).logsumexp(dim=1).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_layers_can_be_chosen():
    model = build_model("resnet10-w32", activation="silu", first_kernel=5, dropout=0.3)
    assert model.stem[0].kernel_size == (5, 5)
    assert len([layer for layer in model.modules() if isinstance(layer, nn.SiLU)]) == 9
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.3]
    assert model.stem(torch.zeros(2, 1, 48, 48)).shape == (2, 32, 24, 24)


def test_a_checkpoint_and_its_export_answer_as_the_network_does(save_network, faces, tmp_path):
    save_network(tmp_path, "resnet10-w32")
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.id.startswith("resnet10-w32-")
    assert checkpoint.configs[0].parameters == 1_227_623
    torch.manual_seed(0)
    network, images = build_model("resnet10-w32").eval(), torch.tensor(faces[0])
    with torch.no_grad():
        expected = network(standardize(images)).softmax(dim=1).numpy()
    probs = Predictor(checkpoint, engine="float32").predict_probs(faces[0])
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    assert check_onnx(to_onnx(checkpoint), faces[0], expected) < 1e-5


def test_refuses_pooling():
    with pytest.raises(InputError, match="fractional pooling does not apply"):
        build_model("resnet10-w32", pooling="fractional")


def test_all_batch_norm_is_folded():
    torch.manual_seed(0)
    model = build_model("resnet12-w32")
    images = torch.randn(64, 1, 48, 48)
    model(images)
    model.eval()
    folded = fold_batch_norm(model)
    assert not [layer for layer in folded.modules() if isinstance(layer, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-4)
