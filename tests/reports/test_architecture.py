import pytest
import torch

from fer.models.architectures import build_model
from fer.reports.architecture import draw_architecture, trace_blocks


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


@pytest.mark.parametrize("name", ["shallow", "resnet10-w48"])
def test_drawing_leaves_the_network_as_it_was(name):
    model = build_model(name).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert draw_architecture(model, name).startswith(b"\x89PNG")
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
