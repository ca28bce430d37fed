"""FER+ votes (Barsoum et al. 2016, arXiv 1608.01041) for the rows of FER2013's CSV file."""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer import storage
from fer.data.emotions import split_from_usage
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
"""The order of the votes, that of ``fer2013new.csv``; NF is "not a face"."""


@dataclass(frozen=True)
class Votes:
    """The votes of ten people on each row of FER2013, in its order.

    Attributes:
        votes: int8 (N, 10).
        splits: Split of each row.
    """

    votes: np.ndarray
    splits: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.splits)

    def for_row(self, row: int, split: str) -> np.ndarray:
        """Return the votes int8 (10,) of a row, counted from 1.

        Raises:
            InputError: There is no such row, or it belongs to another split.
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
        InputError: The file is not there, or lacks a column.
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


MAX_LEARNED = 200_000
"""Examples that a reader learns from, drawn at random where there are more."""


@dataclass(frozen=True)
class VoteModel:
    """Estimates how probable each label is, given what ten people voted.

    FER2013's labels are those that most people vote for in 65 % of its training images only, so
    votes can't stand in for labels. A logistic regression of the labels on the votes says instead
    what FER2013 would have called a face that got such votes: a teacher that sees votes rather than
    pixels (Lopez-Paz et al. 2016, arXiv 1511.03643).

    Attributes:
        coefficients: float64 (C, 30), of what is seen of the votes.
        intercepts: float64 (C,).
    """

    coefficients: np.ndarray
    intercepts: np.ndarray

    @classmethod
    def fit(cls, votes: np.ndarray, labels: np.ndarray, num_classes: int) -> "VoteModel":
        """Learn from votes int8 (N, 10), in the order of ``VOTE_COLUMNS``, and labels int (N,).

        Each of the C = ``num_classes`` labels must stand there at least once.
        """
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow, seldom needed

        some = np.random.default_rng(0).permutation(len(labels))[:MAX_LEARNED]
        some.sort()
        learned = LogisticRegression(max_iter=2000).fit(_seen(votes[some]), labels[some])
        coefficients, intercepts = learned.coef_, learned.intercept_
        if num_classes == 2:
            # Of two classes scikit-learn tells how much more the second is, in a single row.
            coefficients = np.vstack([0 * coefficients, coefficients])
            intercepts = np.hstack([0 * intercepts, intercepts])
        return cls(coefficients, intercepts)

    def predict_probs(self, votes: np.ndarray) -> np.ndarray:
        """Return how probable each label is, float32 (N, C), for votes int8 (N, 10)."""
        logits = _seen(votes) @ self.coefficients.T + self.intercepts
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs: np.ndarray = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return probs


def _seen(votes: np.ndarray) -> np.ndarray:
    """Return votes as shares, their roots, which tell no vote from a few, and majorities."""
    share = votes.astype(np.float64) / 10
    return np.hstack([share, np.sqrt(share), share >= 0.5])
