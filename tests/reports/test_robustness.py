"""Counts of predictions under conditions add up, and give the scores that they should."""

import numpy as np
import pytest

from fer.metrics import calibration_bins, expected_calibration_error, scores_from_confusion
from fer.reports import score_figures
from fer.reports.robustness import CLEAN, NUM_VIEWS, RobustnessTally

NAMES = ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def predictions():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 500)
    logits = generator.normal(size=(500, 2, NUM_VIEWS, 3))
    logits[np.arange(500), :, :, labels] += 1
    logits[:, 1, 3, 2] += 4  # the second network calls nearly all sad under the third condition
    powers = np.exp(logits)
    return labels, powers / powers.sum(axis=3, keepdims=True)


def test_counts_add_up(predictions):
    labels, probs = predictions
    whole = RobustnessTally.count(labels, probs)
    parts = RobustnessTally.count(labels[:123], probs[:123]) + RobustnessTally.count(
        labels[123:], probs[123:]
    )
    for name in ("confusion", "bins", "correct"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name))


def test_scores_are_those_of_the_predictions(predictions):
    labels, probs = predictions
    tally = RobustnessTally.count(labels, probs)
    for network in range(2):
        scores = tally.scores(network, NAMES)
        assert (len(scores), scores[0].name, scores[1].name) == (
            NUM_VIEWS,
            CLEAN,
            "face width: 32 pixels",
        )
        for view, found in enumerate(scores):
            each = probs[:, network, view]
            preds, confidence = each.argmax(axis=1), each.max(axis=1)
            confusion = np.zeros((3, 3), int)
            np.add.at(confusion, (labels, preds), 1)
            accuracy, macro_f1 = scores_from_confusion(confusion)
            bins = calibration_bins(confidence, preds == labels)
            assert found.accuracy == pytest.approx(accuracy)
            assert found.macro_f1 == pytest.approx(macro_f1)
            assert found.confidence == pytest.approx(confidence.mean())
            assert found.calibration_error == pytest.approx(expected_calibration_error(bins))
    favorite = tally.scores(1, NAMES)[3]
    assert favorite.most_predicted == "sad"
    assert favorite.most_predicted_share > 0.8


def test_pictures(predictions, faces):
    scores = RobustnessTally.count(*predictions).scores(0, NAMES)
    assert score_figures.plot_robustness({"deep": scores}).startswith(b"\x89PNG")
    assert score_figures.plot_conditions(faces[0][:3]).startswith(b"\x89PNG")
