"""The tally of a dataset: what is counted and collected while it is written."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fer.data.emotions import EMOTIONS, SPLITS

SAMPLES_PER_CLASS = 10
"""Examples of each class in the picture of samples that ingest draws."""


@dataclass
class DatasetTally:
    """Counts and digests that are collected while a dataset is written, 34 bytes per example.

    Attributes:
        digests: SHA-256 of each example's pixels, 32 bytes each, concatenated.
        labels: Label of each example, one byte each.
        splits: Index into ``SPLITS`` of each example, one byte each.
        split_from: Number of examples by the source of their split.
        reasons: Number of rejects by reason, without the numbers and names that vary.
        ignored: Number of files that are neither images nor CSV files nor archives.
        last_row: Highest row number read from a CSV file.
        files: Names of the files that belong to the dataset.
        samples: Up to ``SAMPLES_PER_CLASS`` examples of each label, as pairs of digest and pixels.
    """

    digests: bytearray = field(default_factory=bytearray)
    labels: bytearray = field(default_factory=bytearray)
    splits: bytearray = field(default_factory=bytearray)
    split_from: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    last_row: int = 0
    files: set[str] = field(default_factory=set)
    samples: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)

    def add(self, other: "DatasetTally") -> None:
        """Add the counts of another tally to this one."""
        self.digests += other.digests
        self.labels += other.labels
        self.splits += other.splits
        self.split_from += other.split_from
        self.reasons += other.reasons
        self.ignored += other.ignored
        self.last_row = max(self.last_row, other.last_row)
        self.files |= other.files
        for label, samples in other.samples.items():
            # The smallest digests are chosen, so the samples do not depend on the order of files.
            merged = sorted({*self.samples.get(label, []), *samples})
            self.samples[label] = merged[:SAMPLES_PER_CLASS]

    @property
    def num_examples(self) -> int:
        """Number of examples so far."""
        return len(self.labels)

    @property
    def num_rejects(self) -> int:
        """Number of rejects so far."""
        return self.reasons.total()

    def counts(self, class_names: Sequence[str] = EMOTIONS) -> dict[str, dict[str, int]]:
        """Return the number of examples by split and class name."""
        splits, labels = (np.frombuffer(column, np.uint8) for column in (self.splits, self.labels))
        size = len(class_names)
        cells = np.bincount(splits.astype(int) * size + labels, minlength=len(SPLITS) * size)
        return {
            split: dict(zip(class_names, row.tolist(), strict=True))
            for split, row in zip(SPLITS, cells.reshape(len(SPLITS), -1), strict=True)
        }

    def duplicates(self) -> dict[str, int]:
        """Count the examples that have the same pixels as another example.

        Returns:
            ``images``: examples with the same pixels as an earlier one.
            ``within_splits`` and ``across_splits``: distinct images that occur more than once in
            one split, or in more than one split.
            ``conflicting_labels``: distinct images whose examples have different labels.
        """
        digests = np.frombuffer(self.digests, "V32")
        # For each distinct image, its first example and number of examples; for each example, the
        # index of its image.
        _, first, image, times = np.unique(
            digests, return_index=True, return_inverse=True, return_counts=True
        )
        splits, labels = (np.frombuffer(column, np.uint8) for column in (self.splits, self.labels))
        per_split = np.zeros((len(first), len(SPLITS)), np.int32)
        np.add.at(per_split, (image, splits), 1)
        conflicting = np.zeros(len(first), bool)
        conflicting[image[labels != labels[first][image]]] = True
        return {
            "images": int((times - 1).sum()),
            "within_splits": int((per_split > 1).any(axis=1).sum()),
            "across_splits": int(((per_split > 0).sum(axis=1) > 1).sum()),
            "conflicting_labels": int(conflicting.sum()),
        }

    def fingerprint(self) -> str:
        """Return a digest of all pixels, labels and splits that ignores the order of examples."""
        columns = [("sha256", "V32"), ("label", "u1"), ("split", "u1")]
        rows = np.empty(self.num_examples, columns)
        rows["sha256"] = np.frombuffer(self.digests, "V32")
        rows["label"] = np.frombuffer(self.labels, np.uint8)
        rows["split"] = np.frombuffer(self.splits, np.uint8)
        return hashlib.sha256(np.sort(rows.view("V34")).tobytes()).hexdigest()
