"""FER+ votes (Barsoum et al. 2016, arXiv 1608.01041) for the rows of FER2013's CSV file."""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer import storage
from fer.emotions import split_from_usage
from fer.errors import InputError

COLUMNS = (
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

    def of_row(self, row: int, split: str) -> np.ndarray:
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
        votes = table[list(COLUMNS)].to_numpy(np.int8)
        splits = tuple(split_from_usage(usage) for usage in table["Usage"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{location} holds no FER+ votes: expected a CSV file with the columns Usage, "
            f"{', '.join(COLUMNS)}."
        ) from error
    return Votes(votes, splits)


def label_probs_from_votes(
    votes: np.ndarray | None, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """Estimate how probable each label is, given what ten people voted.

    FER2013's labels are those that most people vote for in 65 % of its training images only, so
    votes can't stand in for labels. A logistic regression of the labels on the votes says instead
    what FER2013 would have called a face that got such votes: a teacher that sees votes rather than
    pixels (Lopez-Paz et al. 2016, arXiv 1511.03643).

    Args:
        votes: int8 (N, 10), in the order of ``COLUMNS``; None if there are none.
        labels: int (N,), each of 0 to C - 1 at least once.
        num_classes: C.

    Returns:
        float32 (N, C); rows sum to 1.

    Raises:
        InputError: There are no votes.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow, and seldom needed

    if votes is None:
        raise InputError(
            "--votes-weight needs FER+ votes, and the dataset has none: ingest FER2013's CSV file "
            "with --votes, or leave the flag out."
        )
    share = votes.astype(np.float64) / 10
    # The root tells no vote from a few, the step tells a majority.
    seen = np.hstack([share, np.sqrt(share), share >= 0.5])
    learned = LogisticRegression(max_iter=2000).fit(seen, labels)
    probs = np.zeros((len(labels), num_classes), np.float32)
    probs[:, learned.classes_] = learned.predict_proba(seen)
    return probs
