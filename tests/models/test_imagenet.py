"""AlexNet, VGG, ResNet-18 and EfficientNet-Lite0: the published networks, layer by layer."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fer.errors import InputError
from fer.models.architectures import build_model, count_multiply_adds, count_parameters
from fer.vision.shape import ImageShape

PUBLISHED = {
    "alexnet": (61_100_840, 0.714),
    "vgg11": (132_863_336, 7.61),
    "vgg16": (138_357_544, 15.47),
    "resnet18": (11_689_512, 1.81),
    "efficientnet-lite0": (4_652_008, 0.385),
}
"""Parameters, and billions of multiply-adds, for 1,000 classes and 224x224 pixels, as torchvision's
documentation and efficientnet_lite's README give them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        model = build_model(name, 1000, ImageShape(224, 3))
        assert count_parameters(model) == PUBLISHED[name][0]
        assert count_multiply_adds(model) / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.01)


SMALLEST = {"alexnet": 63, "vgg11": 32, "vgg16": 32, "resnet18": 24, "efficientnet-lite0": 24}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALLEST)
def test_every_network_takes_images_from_its_smallest_size_on(name, channels):
    shape = ImageShape(SMALLEST[name], channels)
    model = build_model(name, 7, shape).eval()
    assert model.last_layer.out_features == 7
    with torch.inference_mode():
        assert model(torch.zeros(2, channels, shape.size, shape.size)).shape == (2, 7)


def test_a_size_that_a_network_cannot_take_is_named():
    with pytest.raises(InputError) as caught:
        build_model("alexnet", 7, ImageShape(48, 3))
    assert str(caught.value) == (
        "alexnet takes images of 63x63 to 224x224 pixels, but these are 48x48 color; ingest them "
        "with a larger --image-size, or choose another --model."
    )


@pytest.mark.parametrize("layer", [{"batch_norm": False}, {"first_kernel": 5}])
def test_layers_that_the_weights_fix(layer):
    name = next(iter(layer)).replace("_", "-")
    with pytest.raises(InputError, match=f"so --{name} does not apply to it"):
        build_model("vgg11", 7, ImageShape(48), **layer)


def random_weights(model):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(tensor.shape, generator=generator) * 0.1
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }


def forward(name, weights, images):
    """Compute logits from the weights' names alone, as the papers describe the networks."""

    def convolve(maps, layer, **options):
        return F.conv2d(maps, weights[f"{layer}.weight"], weights.get(f"{layer}.bias"), **options)

    def fully_connect(maps, layer):
        return F.linear(maps, weights[f"{layer}.weight"], weights[f"{layer}.bias"])

    maps = images
    if name == "alexnet":
        plan = [(0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False), (8, 1, 1, False)]
        for layer, stride, padding, is_pooled in [*plan, (10, 1, 1, True)]:
            maps = convolve(maps, f"features.{layer}", stride=stride, padding=padding).relu()
            maps = F.max_pool2d(maps, 3, 2) if is_pooled else maps
        hidden, pooled = ("classifier.1", "classifier.4"), 6
    else:
        stages = {"vgg11": [[0], [3], [6, 8], [11, 13], [16, 18]]}
        stages["vgg16"] = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]
        for stage in stages[name]:
            for layer in stage:
                maps = convolve(maps, f"features.{layer}", padding=1).relu()
            maps = F.max_pool2d(maps, 2)
        hidden, pooled = ("classifier.0", "classifier.3"), 7
    values = F.adaptive_avg_pool2d(maps, pooled).flatten(1)
    for layer in hidden:
        values = fully_connect(values, layer).relu()
    return fully_connect(values, "classifier.6")


@pytest.mark.parametrize(("name", "size"), [("alexnet", 64), ("vgg11", 40), ("vgg16", 40)])
@torch.inference_mode()
def test_weights_in_torchvision_s_layout_give_a_plain_forward_pass_s_logits(name, size):
    model = build_model(name, 5, ImageShape(size, 3)).eval()
    weights = random_weights(model)
    model.load_state_dict(weights)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(images), forward(name, weights, images))


@torch.inference_mode()
def test_same_padding_is_tensorflow_s():
    """Of an odd number of pixels, the larger part is at the right and at the bottom."""
    model = build_model("efficientnet-lite0", 7, ImageShape(48, 3))
    stem = model.get_submodule("_conv_stem")
    nn.init.ones_(stem.weight)
    counted = stem(torch.ones(1, 3, 48, 48))[0, 0]
    assert counted.shape == (24, 24)
    assert counted[0, 0] == 27
    assert counted[-1, -1] == 12


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-lite0"])
def test_statistics_follow_a_fine_tuning_of_forty_steps(name):
    """Otherwise the network that is evaluated would not be the one that was trained."""
    network, seen = build_model(name, 7, ImageShape(64, 3)).train(), []
    norm = next(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 9 + 5
    with torch.no_grad():
        for _ in range(40):
            network(images)
    mean, variance = seen[-1].mean((0, 2, 3)), seen[-1].var((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean, rtol=0.05, atol=0.01)
    torch.testing.assert_close(norm.running_var, variance, rtol=0.05, atol=0.1)
