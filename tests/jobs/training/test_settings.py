"""What the flags of a training say about its memory."""

import pytest

from fer.data.dataset import Dataset
from fer.vision.shape import FER2013_SHAPE, ImageShape
from ray_jobs.config import TrainConfig
from ray_jobs.training.settings import is_streamed


@pytest.mark.parametrize(
    ("shape", "num_examples", "streamed"),
    [
        (FER2013_SHAPE, 900_000, False),
        (FER2013_SHAPE, 930_000, True),
        (ImageShape(224, 3), 14_000, False),
        (ImageShape(224, 3), 15_000, True),
    ],
)
def test_datasets_are_streamed_by_the_size_of_their_images(shape, num_examples, streamed):
    counts = {"train": {"happy": num_examples - 100}, "val": {"happy": 100}}
    data = Dataset("data", ("happy",) * 7, shape, {"counts": counts})
    assert is_streamed(TrainConfig(dataset="data", output="out"), data) is streamed
