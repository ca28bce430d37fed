import numpy as np
import pytest

from fer.metrics import score, wilson


def test_scores_of_a_perfect_network():
    scores = score(np.array([0, 1, 2]), np.eye(3), ["a", "b", "c"])
    assert (scores.accuracy.value, scores.macro_f1, scores.calibration_error) == (1, 1, 0)


def test_wilson():
    interval = wilson(5, 10)
    assert (interval.low, interval.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
