import numpy as np
import pytest

from fer.metrics import score, selection_metric, wilson_interval


def test_scores_of_a_perfect_network():
    scores = score(np.array([0, 1, 2]), np.eye(3), ["a", "b", "c"])
    assert (scores.accuracy.value, scores.macro_f1, scores.calibration_error) == (1, 1, 0)


def test_scores_of_an_unsure_network():
    """Expected by hand: one example is right with 0.8; the other gives its true class 0.3."""
    probs = np.array([[0.8, 0.2], [0.3, 0.7]])
    scores = score(np.array([0, 0]), probs, ["a", "b"])
    assert scores.accuracy.value == 0.5
    assert scores.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.3)) / 2)
    assert scores.brier == pytest.approx((2 * 0.2**2 + 2 * 0.7**2) / 2)
    # The bin of confidence 0.8 has accuracy 1, the bin of confidence 0.7 has accuracy 0.
    assert scores.calibration_error == pytest.approx((0.2 + 0.7) / 2)
    first = scores.classes[0]
    assert (first.recall.value, first.precision) == (0.5, 1.0)
    assert first.f1 == pytest.approx(2 / 3)


def test_scores_of_three_classes():
    probs = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    scores = score(np.array([0, 1, 2, 1]), probs, ["a", "b", "c"])
    assert scores.accuracy.value == 0.75
    squares = [0.4**2 + 0.3**2 + 0.1**2, 0.2**2 + 0.5**2 + 0.3**2]
    squares += [0.1**2 + 0.2**2 + 0.3**2, 0.5**2 + 0.6**2 + 0.1**2]
    assert scores.brier == pytest.approx(sum(squares) / 4)
    assert scores.log_loss == pytest.approx(-np.log([0.6, 0.5, 0.7, 0.4]).mean())
    assert scores.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_wilson_interval():
    interval = wilson_interval(5, 10)
    assert (interval.low, interval.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_epochs_are_ranked_without_copies_unless_one_is_too_old_to_know():
    old, new = {"val_accuracy": 0.5}, {"val_accuracy": 0.5, "val_accuracy_without_copies": 0.4}
    assert selection_metric("val_accuracy", []) == "val_accuracy_without_copies"
    assert selection_metric("val_accuracy", [new, new]) == "val_accuracy_without_copies"
    assert selection_metric("val_accuracy", [old, new]) == "val_accuracy"
