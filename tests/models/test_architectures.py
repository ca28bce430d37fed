from typing import get_args

import pytest
import torch

from fer.errors import InputError
from fer.models.architectures import (
    FAMILIES,
    MODELS,
    build_model,
    count_multiply_adds,
    family_of,
)
from fer.vision.shape import ImageShape
from ray_jobs.config import Model


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


@pytest.mark.parametrize("is_training", [False, True])
def test_multiply_adds_are_counted_without_changing_the_network(is_training):
    model = build_model("shallow").train(is_training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convolutions = 48**2 * 64 * 9 + 24**2 * 128 * 64 * 25
    assert count_multiply_adds(model) == convolutions + 12**2 * 128 * 256 + 256 * 7
    assert model.training == is_training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
