"""The tally of a dataset: what is counted and collected while it is written."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer.data.copies import TABLE_DTYPE, find_redundant
from fer.data.emotions import EMOTIONS, SPLITS
from fer.data.parsing import FORMATS, SPLIT_SOURCES

SAMPLES_PER_CLASS = 10
"""Examples of each class in the picture of samples that ingest draws."""

MAX_UNCLEAR_NAMES = 5
"""Names that seem to tell a split of which a message shows the first."""

_PER_EXAMPLE = {
    "digests": 32,
    "labels": 1,
    "splits": 1,
    "split_sources": 1,
    "formats": 1,
    "is_numbered": 1,
    "has_usage": 1,
    "tables": 8,
}
"""Columns with a value for each example, and the bytes of a value."""


@dataclass
class RejectGroup:
    """The rejects of one kind.

    Attributes:
        count: Their number.
        source: The first of their sources in alphabetical order.
        reason: Reason why that one was rejected.
    """

    count: int
    source: str
    reason: str

    def add(self, other: "RejectGroup") -> None:
        """Add another group to this one."""
        self.count += other.count
        if other.source < self.source:
            self.source, self.reason = other.source, other.reason


@dataclass
class DatasetTally:
    """Counts and digests that are collected while a dataset is written, 46 bytes per example.

    Attributes:
        digests: SHA-256 of each example's pixels, 32 bytes each, concatenated.
        labels: Label of each example, one byte each.
        splits: Index into ``SPLITS`` of each example, one byte each.
        split_sources: Index into ``SPLIT_SOURCES`` of each example, one byte each.
        formats: Index into ``FORMATS`` of each example, one byte each.
        is_numbered: Whether a number instead of a name tells the class, one byte each.
        has_usage: Whether each example is a row with a split in ``Usage``, one byte each.
        tables: Identifies the CSV table of each example, 8 bytes each (``fer.data.copies``).
        file_sizes: Number of examples by file, in the order of the examples.
        numbers: Numbers that stand for classes, by format.
        unclear_names: Names, and values of ``Usage``, that seem to tell a split but are not
            understood.
        rejects: Rejects by code.
        ignored: Number of files that are neither images nor tables nor archives, by the ends of
            their names.
        last_row: Highest row number read from a CSV file.
        files: Names of the files that belong to the dataset.
        samples: Up to ``SAMPLES_PER_CLASS`` examples of each label, as pairs of digest and pixels.
    """

    digests: bytearray = field(default_factory=bytearray)
    labels: bytearray = field(default_factory=bytearray)
    splits: bytearray = field(default_factory=bytearray)
    split_sources: bytearray = field(default_factory=bytearray)
    formats: bytearray = field(default_factory=bytearray)
    is_numbered: bytearray = field(default_factory=bytearray)
    has_usage: bytearray = field(default_factory=bytearray)
    tables: bytearray = field(default_factory=bytearray)
    file_sizes: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, set[int]] = field(default_factory=dict)
    unclear_names: set[str] = field(default_factory=set)
    rejects: dict[str, RejectGroup] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    last_row: int = 0
    files: set[str] = field(default_factory=set)
    samples: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)

    def add(self, other: "DatasetTally") -> None:
        """Add the counts of another tally to this one."""
        for name in _PER_EXAMPLE:
            getattr(self, name).extend(getattr(other, name))
        self.file_sizes |= other.file_sizes
        self.ignored += other.ignored
        self.last_row = max(self.last_row, other.last_row)
        self.files |= other.files
        self.unclear_names = {*sorted(self.unclear_names | other.unclear_names)[:MAX_UNCLEAR_NAMES]}
        for form, numbers in other.numbers.items():
            self.numbers[form] = self.numbers.get(form, set()) | numbers
        for code, group in other.rejects.items():
            self.add_rejects(code, group)
        for label, samples in other.samples.items():
            # The smallest digests are chosen, so the samples do not depend on the order of files.
            merged = sorted({*self.samples.get(label, []), *samples})
            self.samples[label] = merged[:SAMPLES_PER_CLASS]

    def add_rejects(self, code: str, group: RejectGroup) -> None:
        """Add rejects of one kind."""
        if code in self.rejects:
            self.rejects[code].add(group)
        else:
            self.rejects[code] = group

    def rejects_by_count(self) -> list[tuple[str, RejectGroup]]:
        """Return the kinds of rejects and their groups, the largest group first."""
        return sorted(self.rejects.items(), key=lambda item: (-item[1].count, item[0]))

    def describe_rejects(self) -> dict[str, dict[str, Any]]:
        """Return the number of rejects and an example by code, the largest group first."""
        return {
            code: {
                "count": group.count,
                "example": {"source": group.source, "reason": group.reason},
            }
            for code, group in self.rejects_by_count()
        }

    def keep(self, kept: np.ndarray) -> None:
        """Leave out of the columns of examples those that are not in the mask, bool (N,)."""
        for name, size in _PER_EXAMPLE.items():
            column = np.frombuffer(getattr(self, name), f"V{size}")
            setattr(self, name, bytearray(column[kept].tobytes()))

    @property
    def num_examples(self) -> int:
        """Number of examples so far."""
        return len(self.labels)

    @property
    def num_val(self) -> int:
        """Number of examples in ``val``, without those that were taken out of ``train``."""
        taken = self.split_from().get("val_fraction", 0)
        return self.splits.count(SPLITS.index("val")) - taken

    def num_without_usage(self) -> int:
        """Return the number of rows without ``Usage`` in tables that have it for other rows."""
        tables = np.frombuffer(self.tables, TABLE_DTYPE)
        has_usage = np.frombuffer(self.has_usage, bool)
        return int((np.isin(tables, np.unique(tables[has_usage])) & ~has_usage).sum())

    @property
    def num_rejects(self) -> int:
        """Number of rejects so far."""
        return sum(group.count for group in self.rejects.values())

    def redundant(self) -> np.ndarray:
        """Mark the rows that only repeat rows of a better table: see ``fer.data.copies``."""
        return find_redundant(
            np.frombuffer(self.digests, "V32"),
            np.frombuffer(self.tables, TABLE_DTYPE),
            np.frombuffer(self.has_usage, bool),
        )

    def split_from(self) -> dict[str, int]:
        """Return the number of examples by the source of their split."""
        return _count_names(self.split_sources, SPLIT_SOURCES)

    def label_from(self) -> dict[str, int]:
        """Return the number of examples whose class is told by a ``name`` or a ``number``."""
        return _count_names(self.is_numbered, ("name", "number"))

    def counts_by_format(self) -> dict[str, int]:
        """Return the number of examples by format."""
        return _count_names(self.formats, FORMATS)

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
        labels = np.frombuffer(self.labels, np.uint8)
        per_split = self._count_per_split(image, len(first))
        conflicting = np.zeros(len(first), bool)
        conflicting[image[labels != labels[first][image]]] = True
        return {
            "images": int((times - 1).sum()),
            "within_splits": int((per_split > 1).any(axis=1).sum()),
            "across_splits": int(((per_split > 0).sum(axis=1) > 1).sum()),
            "conflicting_labels": int(conflicting.sum()),
        }

    def copies_of_train(self) -> dict[str, int]:
        """Return the number of examples of ``val`` and ``test`` whose pixels ``train`` has too."""
        distinct, image = np.unique(np.frombuffer(self.digests, "V32"), return_inverse=True)
        per_split = self._count_per_split(image, len(distinct))
        copied = per_split[per_split[:, 0] > 0].sum(axis=0)
        return {split: int(copied[SPLITS.index(split)]) for split in SPLITS if split != "train"}

    def _count_per_split(self, image: np.ndarray, num_images: int) -> np.ndarray:
        """Return how often each distinct image occurs in each split, int32 (num_images, 3)."""
        per_split = np.zeros((num_images, len(SPLITS)), np.int32)
        np.add.at(per_split, (image, np.frombuffer(self.splits, np.uint8)), 1)
        return per_split

    def fingerprint(self) -> str:
        """Return a digest of all pixels, labels and splits that ignores the order of examples."""
        columns = [("sha256", "V32"), ("label", "u1"), ("split", "u1")]
        rows = np.empty(self.num_examples, columns)
        rows["sha256"] = np.frombuffer(self.digests, "V32")
        rows["label"] = np.frombuffer(self.labels, np.uint8)
        rows["split"] = np.frombuffer(self.splits, np.uint8)
        return hashlib.sha256(np.sort(rows.view("V34")).tobytes()).hexdigest()


def _count_names(indexes: bytearray, names: Sequence[str]) -> dict[str, int]:
    """Return how often each name's index occurs, without names that do not."""
    counts = np.bincount(np.frombuffer(indexes, np.uint8), minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}
