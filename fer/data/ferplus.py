"""FER+ votes on the images of FER2013 (Barsoum et al. 2016, arXiv 1608.01041)."""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer import storage
from fer.data.splits import split_from_usage
from fer.errors import InputError

VOTE_COLUMNS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
"""Columns of votes in ``fer2013new.csv``, in its order. NF means "not a face"."""


@dataclass(frozen=True)
class Votes:
    """The votes of ten people on each row of FER2013's CSV file, in the order of the rows.

    Attributes:
        votes: Number of votes by row and column of ``VOTE_COLUMNS``, int8 (N, 10).
        splits: Split of each row.
    """

    votes: np.ndarray
    splits: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.splits)

    def for_row(self, row: int, split: str) -> np.ndarray:
        """Return the votes int8 (10,) on a row of FER2013's CSV file.

        Args:
            row: Number of the row, counted from 1.
            split: Split of the row in the CSV file, to check that both files match.

        Raises:
            InputError: There are no votes on the row, or they are on a row of another split.
        """
        if row > len(self):
            raise InputError(
                f"The votes end at row {len(self):,} but the CSV file goes on: expected the votes "
                "of the same rows."
            )
        if self.splits[row - 1] != split:
            raise InputError(
                f"Row {row:,} is {split} in the CSV file and {self.splits[row - 1]} in the votes: "
                "expected the votes of the same rows in the same order."
            )
        votes: np.ndarray = self.votes[row - 1]
        return votes


def read_votes(location: str) -> Votes:
    """Read ``fer2013new.csv``.

    Raises:
        InputError: The file cannot be read, or lacks a column.
    """
    try:
        table = pd.read_csv(io.BytesIO(storage.read_bytes(location)))
        votes = table[list(VOTE_COLUMNS)].to_numpy(np.int8)
        splits = tuple(split_from_usage(usage) for usage in table["Usage"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{location} holds no FER+ votes: expected a CSV file with the columns Usage, "
            f"{', '.join(VOTE_COLUMNS)}."
        ) from error
    return Votes(votes, splits)


MAX_FIT_EXAMPLES = 200_000
"""A vote model is fit on at most this many examples, drawn at random."""


@dataclass(frozen=True)
class VoteModel:
    """A logistic regression that predicts FER2013's label of a face from its FER+ votes.

    The majority of votes agrees with FER2013's label for only 65 % of the training images, so votes
    can't replace labels. The model instead estimates the probability of each label given the votes.
    It acts as a teacher that sees votes rather than pixels (Lopez-Paz et al. 2016,
    arXiv 1511.03643).

    Attributes:
        coefficients: float64 (C, 30), one for each label and feature of ``_features``.
        intercepts: float64 (C,).
    """

    coefficients: np.ndarray
    intercepts: np.ndarray

    @classmethod
    def fit(cls, votes: np.ndarray, labels: np.ndarray, num_classes: int) -> "VoteModel":
        """Fit the model.

        Args:
            votes: int8 (N, 10), in the order of ``VOTE_COLUMNS``.
            labels: int (N,). Every label must occur at least once.
            num_classes: Number of labels, C.
        """
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow, rarely needed

        rows = np.random.default_rng(0).permutation(len(labels))[:MAX_FIT_EXAMPLES]
        rows.sort()
        regression = LogisticRegression(max_iter=2000).fit(_features(votes[rows]), labels[rows])
        coefficients, intercepts = regression.coef_, regression.intercept_
        if num_classes == 2:
            # For two classes, scikit-learn returns a single row: the second class's logit relative
            # to the first's.
            coefficients = np.vstack([0 * coefficients, coefficients])
            intercepts = np.hstack([0 * intercepts, intercepts])
        return cls(coefficients, intercepts)

    def predict_probs(self, votes: np.ndarray) -> np.ndarray:
        """Return the probability of each label, float32 (N, C), for votes int8 (N, 10)."""
        logits = _features(votes) @ self.coefficients.T + self.intercepts
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs: np.ndarray = (exps / exps.sum(axis=1, keepdims=True)).astype(np.float32)
        return probs


def _features(votes: np.ndarray) -> np.ndarray:
    """Return the features float64 (N, 30) of votes int8 (N, 10).

    They are the share of votes in each column, its square root, which separates no votes from few,
    and whether the column has at least half the votes.
    """
    share = votes.astype(np.float64) / 10
    return np.hstack([share, np.sqrt(share), share >= 0.5])
