import pytest
import torch

from fer.models.architectures import build_model
from fer.reports.architecture import draw_architecture, trace_blocks
from fer.vision.shape import ImageShape


def test_stages_of_residual_networks_are_traced_as_blocks():
    blocks = trace_blocks(build_model("resnet14-w32", dropout=0.2))
    assert [(block.title, block.shape) for block in blocks] == [
        ("image", (1, 48, 48)),
        ("conv 3×3, 32, stride 2", (32, 24, 24)),
        ("residual block", (32, 24, 24)),
        ("residual block", (64, 12, 12)),
        ("2 residual blocks", (128, 6, 6)),
        ("2 residual blocks", (256, 3, 3)),
        ("fully connected 7", (7,)),
    ]
    assert blocks[1].followed_by == ["batch norm", "ReLU"]
    assert blocks[2].followed_by == ["conv 3×3, 32, same", "conv 3×3, 32, same", "+ the input"]
    assert blocks[5].followed_by == [
        *("conv 3×3, 256, stride 2", "conv 3×3, 256, same", "+ conv 1×1 of the input"),
        *("global average pool", "dropout 0.2"),
    ]


def test_layers_of_plain_networks_are_traced_in_their_order():
    blocks = trace_blocks(build_model("shallow"))
    assert [block.title for block in blocks] == [
        *("image", "conv 3×3, 64, same", "conv 5×5, 128, same"),
        *("fully connected 256", "fully connected 7"),
    ]
    pooled = ["batch norm", "ReLU", "max pool 2×2, stride 2", "dropout 0.25"]
    assert blocks[1].followed_by == blocks[2].followed_by == pooled


def test_stages_of_efficientnet_are_traced_as_blocks():
    blocks = trace_blocks(build_model("efficientnet-lite0", shape=ImageShape(64, 3)))
    assert [(block.title, block.shape) for block in blocks] == [
        ("image", (3, 64, 64)),
        ("conv 3×3, 32, stride 2", (32, 32, 32)),
        ("inverted residual block", (16, 32, 32)),
        ("2 inverted residual blocks", (24, 16, 16)),
        ("2 inverted residual blocks", (40, 8, 8)),
        ("3 inverted residual blocks", (80, 4, 4)),
        ("3 inverted residual blocks", (112, 4, 4)),
        ("4 inverted residual blocks", (192, 2, 2)),
        ("inverted residual block", (320, 2, 2)),
        ("conv 1×1, 1280, same", (1280, 2, 2)),
        ("fully connected 7", (7,)),
    ]
    assert blocks[2].followed_by == ["depthwise 3×3, same", "conv 1×1, 16, same"]
    assert blocks[3].followed_by == [
        *("conv 1×1, 96, same", "depthwise 3×3, stride 2", "conv 1×1, 24, same"),
        "+ the input in all but one",
    ]
    assert blocks[9].followed_by[-2:] == ["global average pool", "dropout 0.25"]


def test_stages_of_resnet18_are_traced_as_those_of_residual_networks():
    blocks = trace_blocks(build_model("resnet18", shape=ImageShape(64, 3)))
    shapes = [block.shape for block in blocks[2:6]]
    assert shapes == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert {block.title for block in blocks[2:6]} == {"2 residual blocks"}
    assert blocks[2].followed_by[-1] == "+ the input"
    assert blocks[3].followed_by[:3] == [
        *("conv 3×3, 128, stride 2", "conv 3×3, 128, same", "+ conv 1×1 of the input")
    ]


def test_what_alexnet_pools_to_is_named():
    blocks = trace_blocks(build_model("alexnet", shape=ImageShape(64, 3)))
    assert "average pool to 6×6" in blocks[5].followed_by
    assert blocks[1].title == "conv 11×11, 64, stride 4"


@pytest.mark.parametrize("name", ["shallow", "resnet10-w48"])
def test_drawing_leaves_the_network_as_it_was(name):
    model = build_model(name).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert draw_architecture(model, name).startswith(b"\x89PNG")
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
