"""Datasets: their Parquet schema, and reading their splits."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from fer import storage
from fer.data.emotions import EMOTIONS, OFFICIAL_COUNTS, SPLITS
from fer.errors import InputError
from fer.vision.shape import FER2013_SHAPE, ImageShape

SCHEMA_VERSION = 1
NUM_VOTES = 10
"""Columns of FER+ votes: eight emotions, unknown, and not a face (arXiv 1608.01041)."""

ROWS_PER_FILE = 4096
"""Examples of 48x48 gray pixels per Parquet file: about 9.5 MB, a good size for one request to an
object store. Files of larger images have fewer."""

REJECT_COLUMNS = ["source", "code", "reason"]

_OTHER_FIELDS = (
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
"""Encoding of pixels. Parquet stores a uint8 as a 32-bit number. Byte stream splitting groups the
three zero bytes of all values, so they compress to almost nothing, at half the cost of a dictionary
of the 256 values."""


def example_schema(
    class_names: Sequence[str] = EMOTIONS,
    shape: ImageShape = FER2013_SHAPE,
    *,
    with_votes: bool = False,
) -> pa.Schema:
    """Return the schema of ``examples``.

    Its metadata are the schema's version, the class names, and the images' side and channels where
    they are not FER2013's.
    """
    metadata = {"schema_version": str(SCHEMA_VERSION), "class_names": json.dumps(class_names)}
    if shape != FER2013_SHAPE:
        metadata |= {"image_size": str(shape.size), "channels": str(shape.channels)}
    image = pa.field("image", pa.list_(pa.uint8(), shape.num_bytes), nullable=False)
    fields = [image, *_OTHER_FIELDS, *([_VOTES_FIELD] if with_votes else [])]
    return pa.schema(fields, metadata=metadata)


def rows_per_file(shape: ImageShape) -> int:
    """Return the number of examples per Parquet file, which is at least 1."""
    return max(1, ROWS_PER_FILE * FER2013_SHAPE.num_bytes // shape.num_bytes)


def compare_with_official(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Compare a dataset's counts with those of the official FER2013.

    Args:
        counts: Number of examples by split and class name.

    Returns:
        ``complete``: whether every class of every split has the official number of examples,
        whatever the size of the images.
        ``differences``: by split and class, the number of examples minus the official number,
        without zeros. It is empty for datasets with other classes than FER2013's.
    """
    if any(tuple(by_class) != EMOTIONS for by_class in counts.values()):
        return {"complete": False, "differences": {}}
    differences: dict[str, dict[str, int]] = {}
    for split, official in OFFICIAL_COUNTS.items():
        by_class = counts[split]
        split_differences = {
            emotion: by_class[emotion] - number
            for emotion, number in zip(EMOTIONS, official, strict=True)
            if by_class[emotion] != number
        }
        if split_differences:
            differences[split] = split_differences
    return {"complete": not differences, "differences": differences}


# Reading.


def images_from_table(examples: pa.Table, shape: ImageShape) -> np.ndarray:
    """Return the images of a table of examples, uint8 (N, *shape.array)."""
    pixels = examples["image"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return shape.unpack(pixels)


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
        images: uint8 (N, size, size), or (N, size, size, 3) for color.
        labels: int64 (N,).
        sources: Source of each example, N strings; None if the column was not read.
        votes: FER+ votes int8 (N, 10); None if the dataset has none.
        digests: SHA-256 of each image's pixels, N strings; None if the column was not read.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: list[str] | None = None
    votes: np.ndarray | None = None
    digests: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Examples":
        """Return a slice of the examples."""
        return Examples(
            self.images[rows],
            self.labels[rows],
            self.sources and self.sources[rows],
            None if self.votes is None else self.votes[rows],
            self.digests and self.digests[rows],
        )


def examples_from_table(table: pa.Table, shape: ImageShape) -> Examples:
    """Convert a table of examples to arrays."""
    return Examples(
        images=images_from_table(table, shape),
        labels=_labels_of(table),
        sources=table["source"].to_pylist() if "source" in table.column_names else None,
        votes=_votes_of(table),
        digests=table["sha256"].to_pylist() if "sha256" in table.column_names else None,
    )


@dataclass(frozen=True)
class Dataset:
    """A dataset that ``ingest`` finished.

    Attributes:
        location: Folder of the dataset.
        class_names: Name of each label.
        shape: Shape of its images.
        summary: Content of ``summary.json``.
    """

    location: str
    class_names: tuple[str, ...]
    shape: ImageShape
    summary: dict[str, Any]

    def counts(self, split: str) -> dict[str, int]:
        """Return the number of examples of a split by class name."""
        counts: dict[str, int] = self.summary["counts"].get(split, {})
        return counts

    def check_split(self, split: str, *, every_class: bool = False) -> None:
        """Check that a split has examples.

        Args:
            split: Name of the split.
            every_class: Whether it must have examples of every class.

        Raises:
            InputError: The split has no examples, or none of a class.
        """
        counts = self.counts(split)
        if not any(counts.values()):
            nonempty = [name for name in SPLITS if any(self.counts(name).values())]
            raise InputError(
                f"{self.location} has no {split} examples: it holds "
                f"{', '.join(nonempty) or 'none'}; {_how_to_get(split, nonempty)}."
            )
        missing = [name for name in self.class_names if not counts.get(name)]
        if every_class and missing:
            raise InputError(
                f"{self.location} has no {split} examples of {', '.join(missing)}: a network can't "
                "learn a class without examples; add some."
            )

    def read_split(self, split: str) -> Examples:
        """Read all examples of a split into memory, in the order of their digests.

        An image of 48x48 gray pixels takes 2.3 kB.

        Raises:
            InputError: The split has no examples.
        """
        self.check_split(split)
        return self._read_examples(pads.field("split") == split)

    def sample_split(self, split: str, size: int) -> Examples:
        """Read up to ``size`` examples of a split, always the same ones, in a random order.

        They are those with the smallest digests, which are as good as random numbers. Files hold
        no index of them, but the other examples' images are not kept in memory.

        Raises:
            InputError: The split has no examples.
        """
        self.check_split(split)
        rows = pads.field("split") == split
        # Twice as many as wanted on average, so that there are enough of them.
        share = 2 * size / sum(self.counts(split).values())
        if share < 1:
            rows &= pads.field("sha256") < f"{int(share * 16**8):08x}"
        return self._read_examples(rows)[:size]

    def _read_examples(self, rows: pads.Expression) -> Examples:
        """Read the examples of some rows, in the order of their digests."""
        columns = self.existing_columns("image", "label", "source", "sha256", "votes")
        table = self._files().to_table(columns, filter=rows)
        return examples_from_table(
            table.sort_by([("sha256", "ascending"), ("source", "ascending")]), self.shape
        )

    def read_labels(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the labels int64 (N,) of a split and its votes int8 (N, 10), None if it has none."""
        columns = self.existing_columns("label", "votes")
        table = self._files().to_table(columns, filter=pads.field("split") == split)
        return _labels_of(table), _votes_of(table)

    def stream_split(
        self, split: str, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Examples]:
        """Yield one reader's share of a split, in batches of up to ``batch_size`` examples.

        Args:
            split: Name of the split.
            batch_size: Maximum size of a batch. Batches do not span files.
            rank: Index of this reader, from 0.
            world_size: Number of readers. The files are dealt out to them in turn.
        """
        columns = self.existing_columns("image", "label", "source", "sha256", "votes")
        files = sorted(self._files().get_fragments(), key=lambda file: file.path)
        for file in files[rank::world_size]:
            batches = file.to_batches(
                columns=columns, filter=pads.field("split") == split, batch_size=batch_size
            )
            for batch in filter(len, batches):
                yield examples_from_table(pa.Table.from_batches([batch]), self.shape)

    def read_images(self, digests: Sequence[str]) -> np.ndarray:
        """Return the images uint8 (N, *shape.array) with some SHA-256 digests, in their order."""
        is_requested = pads.field("sha256").isin(pa.array(list(digests), pa.string()))
        table = self._files().to_table(["image", "sha256"], filter=is_requested)
        images = images_from_table(table, self.shape)
        by_digest = dict(zip(table["sha256"].to_pylist(), images, strict=True))
        found = [by_digest[digest] for digest in digests]
        return np.stack(found) if found else np.empty((0, *self.shape.array), np.uint8)

    def copies_of_train(self, split: str) -> frozenset[str]:
        """Return the SHA-256 digests of a split's images that ``train`` holds too.

        A model has seen these images, so it scores higher on them than on others. FER2013 has such
        copies in its official splits. ``train`` itself has none: its images are no copies.
        """
        if split == "train":
            return frozenset()
        # Only the digests of the split are held in memory: train may be larger than that.
        own = self._read_column("sha256", pads.field("split") == split)
        is_copy = (pads.field("split") == "train") & pads.field("sha256").isin(own)
        return frozenset(self._read_column("sha256", is_copy).to_pylist())

    def _read_column(self, name: str, rows: pads.Expression) -> pa.Array:
        return self._files().to_table([name], filter=rows)[name].combine_chunks()

    def existing_columns(self, *names: str) -> list[str]:
        """Return the given columns without those that the dataset lacks, such as ``votes``."""
        existing = set(self._files().schema.names)
        return [name for name in names if name in existing]

    def _files(self) -> pads.Dataset:
        store, path = storage.filesystem(storage.join(self.location, "examples"))
        return pads.dataset(path, filesystem=store, format="parquet")


def _how_to_get(split: str, nonempty: Sequence[str]) -> str:
    """Say how to get examples of a split. A test split is never to be mixed into the others."""
    if split == "val" and "train" in nonempty:
        return "ingest again with --val-fraction 0.1, which takes them out of train"
    source = f"ingest a source that has {split} examples"
    return source if "test" in nonempty else f"{source}, or use --split-from hash"


def open_dataset(location: str) -> Dataset:
    """Open a dataset that ``ingest`` finished.

    Raises:
        InputError: The folder is not a finished dataset, or has another schema version.
    """
    try:
        summary = json.loads(storage.read_bytes(storage.join(location, "summary.json")))
        version, class_names = summary["schema_version"], tuple(summary["class_names"])
        # Datasets of 48x48 gray images need not say so.
        size, channels = summary.get("image_size", FER2013_SHAPE.size), summary.get("channels", 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{location} is not a finished dataset: expected summary.json and examples/ as "
            "`fer ingest` writes them."
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{location} has the dataset schema {version}: this version reads {SCHEMA_VERSION}; "
            "run fer ingest again."
        )
    return Dataset(location, class_names, ImageShape(size, channels), summary)
