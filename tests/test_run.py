"""A run, without the processes that it is divided among."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import RECIPE

from fer.dataset import Examples
from fer.errors import JobError
from fer.feeds import DeviceExamples, ResidentFeed
from fer.run import Run

CPU = torch.device("cpu")


def test_weights_that_explode_in_the_last_step(faces):
    """The loss of an epoch's only step is that of the weights before."""
    images, labels = faces
    examples = DeviceExamples.place(Examples(images, labels.astype(np.int64)), 7, CPU)
    recipe = replace(RECIPE, batch_size=len(labels), lr=1e30)
    architecture = {"name": "conv1", "arguments": {"num_classes": 7}}
    run = Run.begin(recipe, architecture, CPU)
    feed = ResidentFeed(recipe, examples, examples, 0, 1)
    with pytest.raises(JobError) as caught:
        list(run.epochs(run.network, feed, lambda *_: None))
    assert str(caught.value) == (
        "The loss of epoch 1 is not finite, no epoch was good: train anew with a lower --lr."
    )
    assert run.history == []
