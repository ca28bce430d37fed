"""A run, without the processes that it is divided among."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_loop import RECIPE

from fer.data.dataset import Examples
from fer.errors import JobError
from fer.training.batches import DeviceExamples, InMemoryBatches
from fer.training.run import Run

CPU = torch.device("cpu")


def test_weights_that_explode_in_the_last_step(faces):
    """The loss of an epoch's only step is that of the weights before."""
    images, labels = faces
    examples = DeviceExamples.from_examples(Examples(images, labels.astype(np.int64)), 7, CPU)
    recipe = replace(RECIPE, batch_size=len(labels), lr=1e30)
    architecture = {"name": "conv1", "arguments": {"num_classes": 7}}
    run = Run.create(recipe, architecture, CPU)
    batches = InMemoryBatches(recipe, examples, examples, 0, 1)
    with pytest.raises(JobError) as caught:
        list(run.epochs(run.network, batches, lambda *_: None))
    assert str(caught.value) == "Loss became non-finite in epoch 1; retrain with a lower --lr."
    assert run.history == []
