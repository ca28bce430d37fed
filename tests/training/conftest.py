"""Faces on the device that trains on them."""

import numpy as np
import pytest
from recipes import CPU

from fer.data.dataset import Examples
from fer.training.batches import DeviceExamples


@pytest.fixture(scope="module")
def examples(faces):
    images, labels = faces
    split = Examples(images, labels.astype(np.int64))
    return DeviceExamples.from_examples(split, 7, CPU)
