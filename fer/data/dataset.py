"""The Parquet schema of a dataset: writing its parts, its summary, reading its splits."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from fer import storage
from fer.data.emotions import EMOTIONS, OFFICIAL_COUNTS, SPLITS
from fer.errors import InputError
from fer.vision.decode import IMAGE_SIZE

SCHEMA_VERSION = 1
NUM_VOTES = 10
"""FER+ votes of an example: eight emotions, unknown, and not a face (arXiv 1608.01041)."""

ROWS_PER_FILE = 4096
"""Examples a Parquet file: about 9.5 MB, a good size for one request to an object store."""

SAMPLES_PER_CLASS = 10
"""Examples of each class in the picture of samples."""

_EXAMPLE_FIELDS = (
    pa.field("image", pa.list_(pa.uint8(), IMAGE_SIZE * IMAGE_SIZE), nullable=False),
    pa.field("label", pa.int8(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),
)
_VOTES_FIELD = pa.field("votes", pa.list_(pa.int8(), NUM_VOTES))

PIXEL_ENCODING = {
    "use_dictionary": ["label", "split"],
    "column_encoding": {"image.list.element": "BYTE_STREAM_SPLIT"},
}
"""Parquet keeps a byte as a number of 32 bits: split into bytes, the three that are zero vanish in
compression, at half the cost of a dictionary of the 256 values."""

REJECT_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string())])


def example_schema(class_names: Sequence[str] = EMOTIONS, *, with_votes: bool = False) -> pa.Schema:
    """Return the schema of ``examples``, its version and class names in the metadata."""
    metadata = {"schema_version": str(SCHEMA_VERSION), "class_names": json.dumps(class_names)}
    fields = [*_EXAMPLE_FIELDS, *([_VOTES_FIELD] if with_votes else [])]
    return pa.schema(fields, metadata=metadata)


# Writing.


@dataclass
class DatasetTally:
    """What is counted while the parts of a dataset are written; 34 bytes an example.

    Attributes:
        digests: SHA-256 of each example's pixels, 32 bytes each, a part after another.
        labels: Label of each example, a byte each.
        splits: Index into ``SPLITS`` of each example, a byte each.
        split_from: How many examples got their split from where.
        reasons: How many were rejected for each reason, without what differs from one to the next.
        ignored: Files that are neither images nor tables nor archives.
        last_row: Number of the last row that a CSV file held.
        files: The parts that belong to the dataset.
        samples: Some examples of each label, as pairs of digest and pixels.
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
        """Add what was counted elsewhere."""
        self.digests += other.digests
        self.labels += other.labels
        self.splits += other.splits
        self.split_from += other.split_from
        self.reasons += other.reasons
        self.ignored += other.ignored
        self.last_row = max(self.last_row, other.last_row)
        self.files |= other.files
        for label, samples in other.samples.items():
            kept = sorted({*self.samples.get(label, []), *samples})
            self.samples[label] = kept[:SAMPLES_PER_CLASS]

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
        """Count the images whose pixels stand in the dataset more than once.

        Returns:
            ``images``: examples beyond the first of the same pixels; ``within_splits`` and
            ``across_splits``: different images that stand twice in one split, or in several;
            ``conflicting_labels``: those whose examples do not have the same label.
        """
        digests = np.frombuffer(self.digests, "V32")
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
        """Return a digest of all pixels, labels and splits, whatever the order of the files."""
        columns = [("sha256", "V32"), ("label", "u1"), ("split", "u1")]
        rows = np.empty(self.num_examples, columns)
        rows["sha256"] = np.frombuffer(self.digests, "V32")
        rows["label"] = np.frombuffer(self.labels, np.uint8)
        rows["split"] = np.frombuffer(self.splits, np.uint8)
        return hashlib.sha256(np.sort(rows.view("V34")).tobytes()).hexdigest()


def compare_with_official(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Compare counts with those of the official FER2013.

    Returns:
        ``complete``: whether every class of every split has the official number of examples;
        ``differences``: for each split that does not, the number found less the official one by
        class. Other classes than FER2013's have nothing to be compared.
    """
    if any(tuple(found) != EMOTIONS for found in counts.values()):
        return {"complete": False, "differences": {}}
    differences: dict[str, dict[str, int]] = {}
    for split, official in OFFICIAL_COUNTS.items():
        found = counts[split]
        gaps = {
            emotion: found[emotion] - number
            for emotion, number in zip(EMOTIONS, official, strict=True)
            if found[emotion] != number
        }
        if gaps:
            differences[split] = gaps
    return {"complete": not differences, "differences": differences}


# Reading.


def images_from_table(examples: pa.Table) -> np.ndarray:
    """Return the column ``image`` of a table of examples as uint8 (N, 48, 48)."""
    pixels = examples["image"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    images: np.ndarray = pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    return images


def _labels_of(examples: pa.Table) -> np.ndarray:
    labels: np.ndarray = examples["label"].to_numpy().astype(np.int64)
    return labels


def _votes_of(examples: pa.Table) -> np.ndarray | None:
    if "votes" not in examples.column_names:
        return None
    votes = examples["votes"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    column: np.ndarray = votes.reshape(-1, NUM_VOTES)
    return column


@dataclass(frozen=True)
class Examples:
    """Examples in memory.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: int64 (N,).
        sources: Where each came from, N strings, if that was read.
        votes: FER+ votes int8 (N, 10), where the dataset has them.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: list[str] | None = None
    votes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Examples":
        """Return some of the examples."""
        return Examples(
            self.images[part],
            self.labels[part],
            self.sources and self.sources[part],
            None if self.votes is None else self.votes[part],
        )


def examples_from_table(table: pa.Table) -> Examples:
    """Return a table of examples as arrays."""
    return Examples(
        images=images_from_table(table),
        labels=_labels_of(table),
        sources=table["source"].to_pylist() if "source" in table.column_names else None,
        votes=_votes_of(table),
    )


@dataclass(frozen=True)
class Dataset:
    """A finished dataset.

    Attributes:
        location: Its folder.
        class_names: Name of each label.
        summary: The content of ``summary.json``.
    """

    location: str
    class_names: tuple[str, ...]
    summary: dict[str, Any]

    def counts(self, split: str) -> dict[str, int]:
        """Return the number of examples of a split by class name."""
        counts: dict[str, int] = self.summary["counts"].get(split, {})
        return counts

    def check_split(self, split: str, *, every_class: bool = False) -> None:
        """Refuse a split that has no examples, or none of some class.

        Raises:
            InputError: It is one of those.
        """
        counts = self.counts(split)
        if not any(counts.values()):
            held = [name for name in SPLITS if any(self.counts(name).values())]
            raise InputError(
                f"{self.location} has no {split} examples: it holds {', '.join(held) or 'none'}; "
                "ingest a source that has some, or with --split-from hash."
            )
        absent = [name for name in self.class_names if not counts.get(name)]
        if every_class and absent:
            raise InputError(
                f"{self.location} has no {split} examples of {', '.join(absent)}: "
                "a network can't learn a class that it never sees; add some."
            )

    def read_split(self, split: str) -> Examples:
        """Read all examples of a split into memory, 2.3 kB each, in the order of their digests.

        Raises:
            InputError: The split is empty.
        """
        self.check_split(split)
        columns = self.existing_columns("image", "label", "source", "sha256", "votes")
        table = self._files().to_table(columns, filter=pads.field("split") == split)
        return examples_from_table(
            table.sort_by([("sha256", "ascending"), ("source", "ascending")])
        )

    def read_labels(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the labels int64 (N,) of a split, and the votes int8 (N, 10) where it has them."""
        columns = self.existing_columns("label", "votes")
        table = self._files().to_table(columns, filter=pads.field("split") == split)
        return _labels_of(table), _votes_of(table)

    def stream_split(
        self, split: str, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Examples]:
        """Yield the examples of one reader's share of the files, up to a batch at a time.

        Args:
            split: Whose examples.
            batch_size: Examples at a time.
            rank: Number of this reader, from 0.
            world_size: Number of readers, of which each reads every so many-th file.
        """
        columns = self.existing_columns("image", "label", "source", "votes")
        for file in sorted(self._files().get_fragments(), key=lambda file: file.path)[
            rank::world_size
        ]:
            batches = file.to_batches(
                columns=columns, filter=pads.field("split") == split, batch_size=batch_size
            )
            for batch in filter(len, batches):
                yield examples_from_table(pa.Table.from_batches([batch]))

    def read_images(self, digests: Sequence[str]) -> np.ndarray:
        """Return the images uint8 (N, 48, 48) whose pixels have these digests, in their order."""
        wanted = pads.field("sha256").isin(list(digests))
        table = self._files().to_table(["image", "sha256"], filter=wanted)
        by_digest = dict(zip(table["sha256"].to_pylist(), images_from_table(table), strict=True))
        faces = [by_digest[digest] for digest in digests]
        return np.stack(faces) if faces else np.empty((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

    def existing_columns(self, *names: str) -> list[str]:
        """Return those of the columns that the dataset has: it may be without votes."""
        held = set(self._files().schema.names)
        return [name for name in names if name in held]

    def _files(self) -> pads.Dataset:
        store, path = storage.filesystem(storage.join(self.location, "examples"))
        return pads.dataset(path, filesystem=store, format="parquet")


def open_dataset(location: str) -> Dataset:
    """Open a dataset that ``ingest`` finished.

    Raises:
        InputError: The folder is not one, or of another schema version.
    """
    try:
        summary = json.loads(storage.read_bytes(storage.join(location, "summary.json")))
        version, class_names = summary["schema_version"], tuple(summary["class_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{location} is not a finished dataset: expected summary.json and examples/ as "
            "`fer ingest` writes them."
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{location} has the dataset schema {version}: this version reads {SCHEMA_VERSION}; "
            "ingest it again."
        )
    return Dataset(location, class_names, summary)
