"""Stages that several jobs are built from: read pieces or examples, hand back counts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.expressions import col

from fer import storage
from fer.dataset import Dataset
from fer.sources import Piece, read_pieces

BLOCK_BYTES = 16 * 2**20
"""Size of the blocks of pieces that a task takes at once: some 1,800 rows of FER2013's CSV."""

MAX_PIECES = 256
"""Pieces a batch, however small: a task on files that are still to be fetched stays short."""

PIECE_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("data", pa.binary()),
        ("first_row", pa.int64()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("reason", pa.string()),
    ]
)


def read(locations: Sequence[str], limit: int | None = None) -> ray.data.Dataset:
    """Return the pieces of sources as rows of ``PIECE_SCHEMA``, read in one task a source.

    Args:
        locations: What ``fer.sources.read_pieces`` reads.
        limit: Number of pieces of each source to stop after, without those that are ignored.
    """
    sources = ray.data.from_arrow(pa.table({"location": list(locations)}))
    sources.context.target_max_block_size = BLOCK_BYTES
    return sources.repartition(len(locations)).map_batches(
        _read,
        fn_kwargs={"limit": limit},
        batch_format="pyarrow",
        batch_size=1,
        # A reader waits more than it computes, and another need keeps it apart from what follows.
        num_cpus=0,
    )


def read_split(data: Dataset, split: str, columns: Sequence[str]) -> ray.data.Dataset:
    """Return the examples of a split of a dataset as rows, read in a task a few files.

    Args:
        data: The dataset.
        split: Whose examples.
        columns: Those of the columns that the dataset has are read.
    """
    filesystem, path = storage.filesystem(storage.join(data.location, "examples"))
    examples = ray.data.read_parquet(path, filesystem=filesystem)
    return examples.filter(expr=col("split") == split).select_columns(data.held_columns(*columns))


def _read(sources: pa.Table, limit: int | None) -> Iterator[pa.Table]:
    for location in sources["location"].to_pylist():
        for pieces in _batched(_first(read_pieces(location), limit)):
            yield pa.Table.from_pylist([vars(piece) for piece in pieces], PIECE_SCHEMA)


def _first(pieces: Iterator[Piece], limit: int | None) -> Iterator[Piece]:
    taken = 0
    while taken != limit and (piece := next(pieces, None)):
        taken += piece.kind != "ignored"
        yield piece


def _batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size_bytes = 0
    for piece in pieces:
        batch.append(piece)
        size_bytes += len(piece.data or b"")
        if len(batch) >= MAX_PIECES or size_bytes >= BLOCK_BYTES // 4:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def tally_batch(tally: object) -> dict[str, np.ndarray]:
    """Return what a task counted as a batch of one row."""
    column = np.empty(1, object)
    column[0] = tally
    return {"tally": column}


def tallies(counted: ray.data.Dataset) -> Iterator[Any]:
    """Run a pipeline that ends in ``tally_batch`` and yield what was counted as it comes."""
    for batch in counted.iter_batches(batch_size=None, batch_format="numpy"):
        yield from batch["tally"]
