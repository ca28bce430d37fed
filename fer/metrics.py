"""Confusion matrix and probabilities to accuracy, macro-F1, recall by class and calibration.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above it."""

NUM_BINS = 15
"""Bins of equal width for calibration, as in Guo et al. 2017 (arXiv 1706.04599)."""


@dataclass(frozen=True)
class Interval:
    """A fraction and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognised.

    Attributes:
        name: The class.
        support: Number of its examples.
        recall: Share of its examples that were recognised, what the paper's Table 1 calls
            accuracy; nan (and 0 to 1) where there are none.
        precision: Share of right answers among those that named it; 0 where none did.
        f1: Harmonic mean of both.
    """

    name: str
    support: int
    recall: Interval
    precision: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """The examples whose confidence falls between two bounds.

    Attributes:
        low: Lower bound, in [0, 1).
        high: Upper bound, in (0, 1].
        count: Number of the examples.
        confidence: Their mean confidence.
        accuracy: Share of them that was right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """What a network scores on a split.

    Attributes:
        num_examples: N.
        accuracy: Share of right answers with Wilson's interval (Wilson 1927).
        macro_f1: Mean of the classes' F1; a class without examples does not count.
        log_loss: Mean of -log of the probability of the truth, in nats.
        brier: Mean squared distance of the probabilities from the truth, 0 to 2.
        calibration_error: Expected calibration error over ``NUM_BINS`` bins, 0 to 1.
        classes: Scores by class, in the order of the labels.
        confusion: int64 (C, C), the truth in rows.
        bins: The calibration's bins that hold examples.
    """

    num_examples: int
    accuracy: Interval
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float
    classes: tuple[ClassScore, ...]
    confusion: np.ndarray
    bins: tuple[CalibrationBin, ...]


def score(labels: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Score probabilities against the truth.

    Args:
        labels: int (N,), 0 to C - 1; N at least 1.
        probs: float (N, C), rows that sum to 1.
        class_names: C names.
    """
    # Training's workers use the rest of this module, and would wait for it.
    from sklearn.metrics import confusion_matrix, log_loss  # noqa: PLC0415

    columns = range(len(class_names))
    preds = probs.argmax(axis=1)
    confusion = confusion_matrix(labels, preds, labels=columns)
    accuracy, macro_f1 = scores_from_confusion(confusion)
    truth = np.eye(len(class_names))[labels]
    bins = calibration_bins(probs.max(axis=1), preds == labels)
    # float32 softmax rounds the sum of a row by some 1e-7, which the library would warn of.
    exact = probs.astype(np.float64) / probs.sum(axis=1, dtype=np.float64, keepdims=True)
    return Scores(
        num_examples=len(labels),
        accuracy=wilson(round(accuracy * len(labels)), len(labels)),
        macro_f1=macro_f1,
        log_loss=float(log_loss(labels, exact, labels=columns)),
        brier=float(((exact - truth) ** 2).sum(axis=1).mean()),
        calibration_error=expected_calibration_error(bins),
        classes=_class_scores(confusion, class_names),
        confusion=confusion,
        bins=bins,
    )


def scores_from_confusion(confusion: np.ndarray) -> tuple[float, float]:
    """Return accuracy and macro-F1 of a confusion matrix (C, C), the truth in rows."""
    _, f1 = _precision_and_f1(confusion)
    present = confusion.sum(axis=1) > 0
    accuracy = confusion.trace() / max(confusion.sum(), 1)
    return float(accuracy), float(f1[present].mean()) if present.any() else 0.0


def wilson(successes: int, trials: int) -> Interval:
    """Return a proportion with Wilson's score interval at 95 % (Wilson 1927)."""
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    share, spread = successes / trials, Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * np.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> tuple[CalibrationBin, ...]:
    """Sort examples by confidence (N,) into bins of equal width; empty ones are left out."""
    index = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return tuple(
        CalibrationBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            count=int(chosen.sum()),
            confidence=float(confidence[chosen].mean()),
            accuracy=float(correct[chosen].mean()),
        )
        for number in range(NUM_BINS)
        if (chosen := index == number).any()
    )


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean distance of confidence from accuracy (Naeini et al. 2015)."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.confidence - part.accuracy) for part in bins) / max(total, 1)


def _precision_and_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right, named, support = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    return right / np.maximum(named, 1), 2 * right / np.maximum(named + support, 1)


def _class_scores(confusion: np.ndarray, class_names: Sequence[str]) -> tuple[ClassScore, ...]:
    precision, f1 = _precision_and_f1(confusion)
    support = confusion.sum(axis=1)
    return tuple(
        ClassScore(
            name=name,
            support=int(support[label]),
            recall=wilson(int(confusion[label, label]), int(support[label])),
            precision=float(precision[label]),
            f1=float(f1[label]),
        )
        for label, name in enumerate(class_names)
    )
