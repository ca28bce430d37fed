"""Types that flags of several jobs have."""

from typing import Annotated, Literal

import tyro

Location = Annotated[str, tyro.conf.arg(metavar="LOCATION")]
"""A path or URI. ``locations.resolve`` makes it absolute before a job begins."""

OptionalLocation = Annotated[str | None, tyro.conf.arg(metavar="LOCATION")]
"""A location that need not be given."""

OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT")]

OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]

OptionalUrl = Annotated[str | None, tyro.conf.arg(metavar="URL")]
"""An ``http://`` or ``https://`` URL that need not be given. It may hold a password."""

Locations = Annotated[tuple[Location, ...], tyro.conf.UseAppendAction]
"""One or more locations. ``--source a b`` and ``--source a --source b`` mean the same."""

Globs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""Any number of patterns of names."""

Model = Literal[
    "shallow", "deep", "conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8",
    "resnet4-w32", "resnet6-w32", "resnet8-w32", "resnet10-w32",
    "resnet12-w32", "resnet14-w32", "resnet16-w32", "resnet18-w32",
    "resnet4-w48", "resnet6-w48", "resnet8-w48", "resnet10-w48",
    "resnet12-w48", "resnet14-w48", "resnet16-w48", "resnet18-w48",
    "alexnet", "vgg11", "vgg16", "resnet18", "efficientnet-lite0",
]  # fmt: skip
"""``fer.models.architectures.MODELS``, repeated here because that module imports torch."""

Study = Literal[
    "search",
    "paper",
    "recipe",
    "votes",
    "depth",
    "pooling",
    "batch-norm",
    "activation",
    "loss",
    "pretrained",
]

BUNDLED = "bundled"
"""The checkpoint that the package ships, usable wherever a checkpoint's location is."""
