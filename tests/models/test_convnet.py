import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from fer.models.architectures import build_model, count_parameters
from fer.models.layers import ACTIVATIONS, Dropout, FractionalMaxPool

STATISTICS = "eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)"
FLATTEN = "Flatten(start_dim=1, end_dim=-1)"


def layers(name):
    """The description of every layer of a network, in the order in which they run."""
    model = build_model(name)
    return [str(layer) for layer in model.modules() if not list(layer.children())]


def convolution(channels, filters, kernel_size):
    size = (kernel_size, kernel_size)
    return [
        f"Conv2d({channels}, {filters}, kernel_size={size}, stride=(1, 1), padding=same)",
        f"BatchNorm2d({filters}, {STATISTICS}",
        "ReLU()",
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "Dropout(p=0.25, inplace=False)",
    ]


def fully_connected(inputs, outputs):
    return [
        f"Linear(in_features={inputs}, out_features={outputs}, bias=True)",
        f"BatchNorm1d({outputs}, {STATISTICS}",
        "ReLU()",
        "Dropout(p=0.25, inplace=False)",
    ]


def test_shallow_is_section_4_2():
    assert layers("shallow") == [
        *convolution(1, 64, 3),
        *convolution(64, 128, 5),
        FLATTEN,
        *fully_connected(128 * 12 * 12, 256),
        "Linear(in_features=256, out_features=7, bias=True)",
    ]


def test_deep_is_section_4_3():
    assert layers("deep") == [
        *convolution(1, 64, 3),
        *convolution(64, 128, 5),
        *convolution(128, 512, 3),
        *convolution(512, 512, 3),
        FLATTEN,
        *fully_connected(512 * 3 * 3, 256),
        *fully_connected(256, 512),
        "Linear(in_features=512, out_features=7, bias=True)",
    ]


@pytest.mark.parametrize(("name", "parameters"), [("shallow", 4_927_111), ("deep", 4_474_759)])
def test_published_parameter_counts(name, parameters):
    assert count_parameters(build_model(name)) == parameters


@pytest.mark.parametrize("depth", range(1, 9))
def test_plain_networks_have_their_number_of_convolutions_and_end_in_small_maps(depth):
    model = build_model(f"conv{depth}").eval()
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    pools = [layer for layer in model.modules() if isinstance(layer, nn.MaxPool2d)]
    assert (len(convolutions), len(pools)) == (depth, min(depth, 4))
    assert model.convolutions(torch.zeros(1, 1, 48, 48)).shape[2] == 48 // 2 ** min(depth, 4)
    assert 1_700_000 < count_parameters(model) < 7_200_000


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_replaces_relu(activation):
    model = build_model("shallow", activation=activation)
    expected = type(ACTIVATIONS[activation]())
    found = [layer for layer in model.modules() if isinstance(layer, expected)]
    assert len(found) == 3
    assert count_parameters(model) == 4_927_111


def test_batch_norm_can_be_left_out():
    model = build_model("deep", batch_norm=False)
    assert not [layer for layer in model.modules() if "BatchNorm" in type(layer).__name__]
    scales_and_shifts = 2 * (64 + 128 + 512 + 512 + 256 + 512)
    assert count_parameters(model) == 4_474_759 - scales_and_shifts


@pytest.mark.parametrize("size", [48, 28, 16, 9, 47, 100])
def test_fractional_pooling_in_evaluation_is_torch_s_with_even_regions(size):
    maps = torch.randn(2, 3, size, size)
    samples = torch.full((2, 3, 2), 0.5)
    expected = F.fractional_max_pool2d(maps, 2, output_ratio=(0.6, 0.6), _random_samples=samples)
    torch.testing.assert_close(
        FractionalMaxPool(2, output_ratio=0.6).eval()(maps), expected, rtol=0, atol=0
    )


def test_fractional_pooling_is_random_in_training_only():
    model = build_model("shallow", pooling="fractional", dropout=0.0)
    images = torch.randn(4, 1, 48, 48)
    assert model.convolutions(images).shape == (4, 128, 16, 16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_zeroes_its_fraction_and_keeps_the_mean(layout):
    dropout, ones = Dropout(0.25), torch.ones(64, 3, 33, 35).contiguous(memory_format=layout)
    ones.requires_grad_()
    dropped = dropout(ones)
    dropped.sum().backward()
    # Five standard deviations of 221,760 draws.
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.0046)
    assert set(dropped.unique().tolist()) == {0, torch.tensor(4 / 3).item()}
    assert torch.equal(ones.grad, dropped)
    assert dropped.is_contiguous(memory_format=layout)
    assert torch.equal(dropout.eval()(ones), ones)


def test_dropout_depends_on_the_draw_and_the_seed():
    dropout, ones = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(ones), dropout(ones)
    torch.manual_seed(3)
    assert torch.equal(dropout(ones), first)
    assert 400 < (first != second).sum() < 600
