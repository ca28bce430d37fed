"""What a training may start from."""

import pytest

from fer.data.dataset import Dataset
from fer.errors import InputError
from fer.vision.shape import ImageShape
from ray_jobs.config import TrainConfig
from ray_jobs.training import starts


def check(model, checkpoint, shape):
    config = TrainConfig(dataset="data", output="out", model=model, from_checkpoint=checkpoint)
    data = Dataset("data", ("calm", "tense"), shape, {})
    return starts.check_checkpoint(config, checkpoint, data)


@pytest.mark.parametrize("shape", [ImageShape(48), ImageShape(96), ImageShape(224, 3)])
def test_residual_networks_start_from_faces_of_any_shape(shape):
    assert check("resnet10-w48", "bundled", shape).startswith("resnet10-w48-")


def test_plain_networks_start_from_faces_of_their_size():
    assert check("deep", "paper-deep", ImageShape(48, 3)).startswith("deep-")
    with pytest.raises(InputError) as caught:
        check("deep", "paper-deep", ImageShape(96, 3))
    assert str(caught.value) == (
        "paper-deep takes 48x48 gray faces, and deep has other layers for the 96x96 color faces of "
        "data; ingest them with --image-size 48, or train a residual network, which takes any size."
    )
