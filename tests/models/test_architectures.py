import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from fer.errors import InputError
from fer.models.architectures import (
    FAMILIES,
    MODELS,
    build_model,
    count_multiply_adds,
    count_parameters,
    family_of,
)
from fer.models.imagenet import MIN_SIZES
from fer.vision.shape import FER2013_SHAPE, MIN_SIZE, ImageShape
from ray_jobs.config import Model

PAGE = Path(__file__).parents[2] / "docs" / "train.md"
COSTS = re.compile(r"^\| `([\w-]+)`[^|]* \|(?: (\d+) \|)? ([\d,]+) \| ([\d,.]+) million \|", re.M)
"""Rows of the page's tables: a network, the smallest size of those for color, parameters and
multiply-adds."""


def test_the_command_line_offers_every_model():
    assert get_args(Model) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_one_logit_per_class(name):
    model = build_model(name, num_classes=5, shape=ImageShape(64)).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


def test_rejects_unknown_names():
    with pytest.raises(InputError, match="choose one of shallow, deep.*resnet10-w48"):
        build_model("wide")
    with pytest.raises(InputError, match="Unknown model 'wide'"):
        family_of("wide")


def test_networks_of_one_family_are_of_one_class():
    classes = {(family_of(name), type(build_model(name, shape=ImageShape(64)))) for name in MODELS}
    assert len(classes) == len(FAMILIES) == len({network for _, network in classes})


@pytest.mark.parametrize("name", MODELS)
def test_the_docs_say_what_a_network_costs(name):
    ((_, smallest, parameters, multiply_adds),) = (
        row for row in COSTS.findall(PAGE.read_text()) if row[0] == name
    )
    with torch.device("meta"):
        model = build_model(name, shape=ImageShape(112, 3) if smallest else FER2013_SHAPE)
        assert parameters == f"{count_parameters(model):,}"
        assert multiply_adds == f"{count_multiply_adds(model) / 1e6:,.1f}"
    assert smallest in ("", f"{MIN_SIZES.get(name, MIN_SIZE)}")


@pytest.mark.parametrize("is_training", [False, True])
def test_multiply_adds_are_counted_without_changing_the_network(is_training):
    model = build_model("shallow").train(is_training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convolutions = 48**2 * 64 * 9 + 24**2 * 128 * 64 * 25
    assert count_multiply_adds(model) == convolutions + 12**2 * 128 * 256 + 256 * 7
    assert model.training == is_training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
