"""Scores of networks on faces that photographs degrade, and the counts that add up to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer.metrics import NUM_BINS, scores_from_confusion
from fer.vision.conditions import CONDITIONS

CLEAN = "as they are"
"""Name of the images without a condition."""

NUM_VIEWS = 1 + len(CONDITIONS)
"""The clean image, then the image under each condition."""


@dataclass(frozen=True)
class RobustnessTally:
    """Counts of the predictions of K networks for some images under all conditions.

    Attributes:
        confusion: int64 (K, V, C, C) for V views of each image, with the true classes in rows.
        bins: float64 (K, V, 15, 2), number of images and sum of their confidence, by confidence.
        correct: int64 (K, V, 15), number of these that were predicted correctly.
    """

    confusion: np.ndarray
    bins: np.ndarray
    correct: np.ndarray

    @classmethod
    def count(cls, labels: np.ndarray, probs: np.ndarray) -> "RobustnessTally":
        """Count predictions.

        Args:
            labels: int (N,).
            probs: float (N, K, V, C).
        """
        _, networks, views, num_classes = probs.shape
        confusion = np.zeros((networks, views, num_classes, num_classes), np.int64)
        bins = np.zeros((networks, views, NUM_BINS, 2))
        correct = np.zeros((networks, views, NUM_BINS), np.int64)
        preds, confidence = probs.argmax(axis=3), probs.max(axis=3)
        rows = np.broadcast_to(labels[:, None, None], preds.shape)
        places = np.broadcast_to(np.indices((networks, views))[:, None], (2, *preds.shape))
        index = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
        np.add.at(confusion, (*places, rows, preds), 1)
        np.add.at(bins, (*places, index), np.stack([np.ones_like(confidence), confidence], axis=-1))
        np.add.at(correct, (*places, index), preds == rows)
        return cls(confusion, bins, correct)

    def __add__(self, other: "RobustnessTally") -> "RobustnessTally":
        return RobustnessTally(
            self.confusion + other.confusion, self.bins + other.bins, self.correct + other.correct
        )

    def scores(self, network: int, class_names: Sequence[str]) -> "list[ConditionScore]":
        """Return the scores of a network, given by its number: the clean images first."""
        names = [("", CLEAN), *((condition.kind, condition.level) for condition in CONDITIONS)]
        return [self._score(network, view, *name, class_names) for view, name in enumerate(names)]

    def _score(
        self, network: int, view: int, kind: str, level: str, class_names: Sequence[str]
    ) -> "ConditionScore":
        confusion, bins = self.confusion[network, view], self.bins[network, view]
        accuracy, macro_f1 = scores_from_confusion(confusion)
        predicted = confusion.sum(axis=0)
        total = max(int(predicted.sum()), 1)
        return ConditionScore(
            kind=kind,
            level=level,
            accuracy=accuracy,
            macro_f1=macro_f1,
            confidence=float(bins[:, 1].sum() / total),
            # The gap of a bin times its number of images is the gap of the sums.
            calibration_error=float(np.abs(bins[:, 1] - self.correct[network, view]).sum() / total),
            most_predicted=class_names[int(predicted.argmax())],
            most_predicted_share=float(predicted.max() / total),
        )


@dataclass(frozen=True)
class ConditionScore:
    """The scores of a network under one condition.

    Attributes:
        kind: What degrades the faces; empty for clean images.
        level: How much.
        accuracy: Share of correct predictions.
        macro_f1: Mean F1 of the classes.
        confidence: Mean confidence.
        calibration_error: Expected calibration error over 15 bins (Naeini et al. 2015).
        most_predicted: The class that is predicted most often.
        most_predicted_share: Its share of all predictions.
    """

    kind: str
    level: str
    accuracy: float
    macro_f1: float
    confidence: float
    calibration_error: float
    most_predicted: str
    most_predicted_share: float

    @property
    def name(self) -> str:
        """Kind and level together."""
        return f"{self.kind}: {self.level}" if self.kind else self.level
