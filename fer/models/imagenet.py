"""Networks that made ImageNet's history, with the parameter names of torchvision's weights.

They take images of any size from ``MIN_SIZES`` on, in gray or color. Their layers are those of the
published weights, so of ``Layers`` only the dropout applies to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from fer.errors import InputError
from fer.models.layers import Dropout, Layers, Network
from fer.vision.shape import ImageShape

MIN_SIZES = {"alexnet": 63, "vgg11": 32, "vgg16": 32}
"""Smallest side in pixels of the images that a network takes, if the others take smaller ones."""

HIDDEN = 4096
"""Neurons of each hidden layer of AlexNet and VGG."""


def only_dropout(name: str, layers: Layers) -> float:
    """Return the dropout of a network whose other layers its published weights fix.

    Raises:
        InputError: Another option of ``layers`` differs from its default.
    """
    changed = [
        field.name
        for field in fields(layers)
        if field.name != "dropout" and getattr(layers, field.name) != field.default
    ]
    if changed:
        flag = changed[0].replace("_", "-")
        raise InputError(
            f"{name} has the layers of its published weights, so --{flag} does not apply to it; "
            "leave the flag out or choose another --model."
        )
    return layers.dropout


class FeatureNetwork(Network):
    """Convolutions, adaptive pooling and three fully connected layers.

    This is the form of AlexNet and VGG in torchvision. A map that is smaller than what the
    pooling makes is repeated.
    """

    output_name: ClassVar[str] = "classifier.6"

    def __init__(
        self,
        features: Callable[[int], list[nn.Module]],
        pooled: int,
        drops_first: bool,
        name: str,
        num_classes: int,
        shape: ImageShape,
        layers: Layers,
    ) -> None:
        super().__init__(shape)
        dropout = only_dropout(name, layers)
        self.features = nn.Sequential(*features(shape.channels))
        *_, last = (layer for layer in self.features if isinstance(layer, nn.Conv2d))
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        hidden = [nn.Linear(last.out_channels * pooled**2, HIDDEN), nn.Linear(HIDDEN, HIDDEN)]
        # AlexNet drops the input of a layer, VGG its output.
        blocks = [
            [Dropout(dropout), layer, nn.ReLU()]
            if drops_first
            else [layer, nn.ReLU(), Dropout(dropout)]
            for layer in hidden
        ]
        self.classifier = nn.Sequential(
            *(layer for block in blocks for layer in block), nn.Linear(HIDDEN, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images (B, C, H, W) float to logits (B, num_classes) float."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def _alexnet_features(channels: int) -> list[nn.Module]:
    """Return AlexNet's convolutions (Krizhevsky 2014, arXiv 1404.5997)."""
    return [
        *(nn.Conv2d(channels, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    ]


def _vgg_features(channels: int, repeats: Sequence[int]) -> list[nn.Module]:
    """Return VGG's convolutions (Simonyan & Zisserman 2014, arXiv 1409.1556, table 1).

    Args:
        channels: Of the images.
        repeats: Number of convolutions in each of the five stages.
    """
    modules: list[nn.Module] = []
    for width, number in zip((64, 128, 256, 512, 512), repeats, strict=True):
        for _ in range(number):
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        modules.append(nn.MaxPool2d(2, 2))
    return modules


class ResNet18(Network):
    """ResNet-18 as in torchvision (He et al. 2015, arXiv 1512.03385, table 1)."""

    output_name: ClassVar[str] = "fc"

    def __init__(self, num_classes: int, shape: ImageShape, layers: Layers) -> None:
        super().__init__(shape)
        self.conv1 = nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = Dropout(only_dropout("resnet18", layers))
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images (B, C, H, W) float to logits (B, num_classes) float."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        logits: Tensor = self.fc(self.dropout(self.avgpool(maps).flatten(1)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to the block's input."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU()
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )
            if stride != 1
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map features (B, channels, H, W) to (B, filters, H / stride, W / stride)."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        added = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps))))) + shortcut
        activated: Tensor = self.relu(added)
        return activated


FEATURE_NETWORKS: dict[str, Callable[[int, ImageShape, Layers], Network]] = {
    "alexnet": partial(FeatureNetwork, _alexnet_features, 6, True, "alexnet"),
    "vgg11": partial(
        FeatureNetwork, partial(_vgg_features, repeats=(1, 1, 2, 2, 2)), 7, False, "vgg11"
    ),
    "vgg16": partial(
        FeatureNetwork, partial(_vgg_features, repeats=(2, 2, 3, 3, 3)), 7, False, "vgg16"
    ),
}
"""What builds AlexNet and each VGG, by its name."""
