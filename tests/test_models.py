import pytest
import torch

from fer.errors import InputError
from fer.models import build_model, count_parameters


@pytest.mark.parametrize(("name", "parameters"), [("shallow", 4_927_111), ("deep", 4_474_759)])
def test_published_parameter_counts(name, parameters):
    assert count_parameters(build_model(name)) == parameters


@pytest.mark.parametrize(("name", "convolutions"), [("shallow", 2), ("deep", 4)])
def test_layers(name, convolutions):
    model = build_model(name)
    assert len(model.convolutions) == convolutions
    block = [type(layer).__name__ for layer in model.convolutions[0]]
    assert block == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Dropout"]
    assert model.eval()(torch.zeros(2, 1, 48, 48)).shape == (2, 7)


def test_unknown_name():
    with pytest.raises(InputError, match="choose one of shallow, deep"):
        build_model("wide")
