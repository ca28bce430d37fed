"""The shipped networks' probabilities on eight stored faces: a change of preprocessing can't pass.

``golden_faces.png`` holds the faces side by side. When a shipped checkpoint changes on purpose,
write its probabilities of these faces into ``golden_probs.json``.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer.models.engine import with_graphs
from fer.models.predictor import Predictor
from fer.models.shipped import SHIPPED

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_probs.json").read_text())
NUM_FACES = 8


@pytest.fixture(scope="module")
def faces():
    strip = np.asarray(Image.open(HERE / "golden_faces.png"))
    return np.stack(np.split(strip, NUM_FACES, axis=1))


@pytest.fixture(scope="module", params=list(SHIPPED))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def predictor(name):
    return Predictor.load(name, "cpu", engine="float32")


@pytest.fixture(scope="module")
def probs(name):
    return np.array(GOLDEN[name]["probabilities"], np.float32)


def test_checkpoint_is_the_one_that_was_shipped(predictor, name):
    assert predictor.id == GOLDEN[name]["checkpoint"]
    assert list(predictor.class_names) == GOLDEN["class_names"]


def test_probabilities_of_arrays(predictor, faces, probs):
    np.testing.assert_allclose(predictor.predict_probs(faces), probs, atol=1e-4)


def test_probabilities_of_files(predictor, faces, png, probs):
    predictions = predictor.predict([png(face) for face in faces])
    found = [list(prediction.probabilities.values()) for prediction in predictions]
    np.testing.assert_allclose(found, probs, atol=1e-4)


def test_equalized_pixels_would_not_pass(predictor, faces, probs):
    """The tolerance is tight enough: the other preprocessing moves some probability by a tenth."""
    (member,) = predictor.checkpoint.members
    equalizing = replace(member.config, preprocessing="equalize")
    other = replace(predictor.checkpoint, members=(replace(member, config=equalizing, graph=None),))
    found = Predictor(with_graphs(other), engine="float32").predict_probs(faces)
    assert np.abs(found - probs).max() > 0.1
