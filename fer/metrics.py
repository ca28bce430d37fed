"""Compute accuracy, macro-F1, scores by class and calibration from labels and probabilities.

Shapes: N examples, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

NUM_BINS = 15
"""Number of calibration bins of equal width, as in Guo et al. 2017 (arXiv 1706.04599)."""

WITHOUT_COPIES = "_without_copies"
"""Suffix of a score on the images of a split that ``train`` does not hold too."""

VAL_SCORES = tuple(
    score + suffix for suffix in ("", WITHOUT_COPIES) for score in ("val_accuracy", "val_macro_f1")
)
"""Names of an epoch's scores on ``val``."""


@dataclass(frozen=True)
class Interval:
    """A proportion and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognized.

    Attributes:
        name: Name of the class.
        support: Number of its examples.
        recall: Share of its examples that were recognized. The paper's Table 1 calls this accuracy.
            Without examples the value is nan and the interval is 0 to 1.
        precision: Share of correct predictions among all predictions of the class; 0 if it was
            never predicted.
        f1: Harmonic mean of precision and recall.
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
        count: Number of these examples.
        confidence: Their mean confidence.
        accuracy: Share of them that were predicted correctly.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """The scores of a network on a split.

    Attributes:
        num_examples: N.
        accuracy: Share of correct predictions, with Wilson's score interval (Wilson 1927).
        macro_f1: Mean F1 of the classes that have examples.
        log_loss: Mean negative log of the probability of the true class, in nats.
        brier: Mean squared distance between the probabilities and the one-hot label, 0 to 2.
        calibration_error: Expected calibration error over ``NUM_BINS`` bins, 0 to 1.
        classes: Scores by class, in the order of the labels.
        confusion: int64 (C, C), with the true classes in rows.
        bins: The calibration bins that hold examples.
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
    """Score predicted probabilities against labels.

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
    # Rows of a float32 softmax sum to 1 within about 1e-7, and scikit-learn warns about the rest.
    exact = probs.astype(np.float64) / probs.sum(axis=1, dtype=np.float64, keepdims=True)
    return Scores(
        num_examples=len(labels),
        accuracy=wilson_interval(round(accuracy * len(labels)), len(labels)),
        macro_f1=macro_f1,
        log_loss=float(log_loss(labels, exact, labels=columns)),
        brier=float(((exact - truth) ** 2).sum(axis=1).mean()),
        calibration_error=expected_calibration_error(bins),
        classes=_class_scores(confusion, class_names),
        confusion=confusion,
        bins=bins,
    )


def scores_from_confusion(confusion: np.ndarray) -> tuple[float, float]:
    """Return accuracy and macro-F1 of a confusion matrix (C, C) with the true classes in rows."""
    _, f1 = _precision_and_f1(confusion)
    present = confusion.sum(axis=1) > 0
    accuracy = confusion.trace() / max(confusion.sum(), 1)
    return float(accuracy), float(f1[present].mean()) if present.any() else 0.0


def selection_metric(select_by: str, epochs: Iterable[Mapping[str, object]]) -> str:
    """Return the name of the metric that ranks epochs: a score without copies of ``train``.

    Args:
        select_by: Name of a score on ``val``.
        epochs: Metrics of the epochs so far. If one lacks the score without copies, which earlier
            versions did not compute, all are ranked by the score with them.
    """
    name = select_by + WITHOUT_COPIES
    return name if all(name in epoch for epoch in epochs) else select_by


def wilson_interval(successes: int, trials: int) -> Interval:
    """Return the proportion of successes with Wilson's 95 % score interval (Wilson 1927).

    Without trials the value is nan and the interval is 0 to 1.
    """
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    share, spread = successes / trials, Z_95**2 / trials
    center = (share + spread / 2) / (1 + spread)
    margin = Z_95 * np.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return Interval(share, max(0.0, float(center - margin)), min(1.0, float(center + margin)))


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> tuple[CalibrationBin, ...]:
    """Sort examples into bins of equal width by confidence; empty bins are left out.

    Args:
        confidence: float (N,), in [0, 1].
        correct: bool (N,), whether each prediction is correct.
    """
    index = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return tuple(
        CalibrationBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            count=int(in_bin.sum()),
            confidence=float(confidence[in_bin].mean()),
            accuracy=float(correct[in_bin].mean()),
        )
        for number in range(NUM_BINS)
        if (in_bin := index == number).any()
    )


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean distance between confidence and accuracy of the bins, weighted by count.

    This is the expected calibration error of Naeini et al. 2015.
    """
    total = sum(bin_.count for bin_ in bins)
    gaps = (abs(bin_.confidence - bin_.accuracy) * bin_.count for bin_ in bins)
    return sum(gaps) / max(total, 1)


def _precision_and_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    correct, predicted, support = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    precision = correct / np.maximum(predicted, 1)
    return precision, 2 * correct / np.maximum(predicted + support, 1)


def _class_scores(confusion: np.ndarray, class_names: Sequence[str]) -> tuple[ClassScore, ...]:
    precision, f1 = _precision_and_f1(confusion)
    support = confusion.sum(axis=1)
    return tuple(
        ClassScore(
            name=name,
            support=int(support[label]),
            recall=wilson_interval(int(confusion[label, label]), int(support[label])),
            precision=float(precision[label]),
            f1=float(f1[label]),
        )
        for label, name in enumerate(class_names)
    )
