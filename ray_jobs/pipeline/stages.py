"""Stages that several jobs are built from: read items or examples, hand back counts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.expressions import col

from fer import storage
from fer.data.dataset import Dataset
from fer.data.sources import SourceItem, read_items
from fer.errors import JobError
from ray_jobs.cluster import session

BLOCK_BYTES = 16 * 2**20
"""Size of the blocks of items that a task takes at once: some 1,800 rows of FER2013's CSV."""

MAX_ITEMS = 256
"""Items a batch, however small: a task on files that are still to be fetched stays short."""

ITEM_SCHEMA = pa.schema(
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


def read(locations: Sequence[str]) -> ray.data.Dataset:
    """Return the items of sources as rows of ``ITEM_SCHEMA``, read in one task a source.

    Args:
        locations: What ``fer.data.sources.read_items`` reads.
    """
    sources = ray.data.from_arrow(pa.table({"location": list(locations)}))
    sources.context.target_max_block_size = BLOCK_BYTES
    return sources.repartition(len(locations)).map_batches(
        _read,
        batch_format="pyarrow",
        batch_size=1,
        # A reader waits more than it computes, and another need keeps it apart from what follows.
        num_cpus=0,
        **session.avoid_head(),
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
    return examples.filter(expr=col("split") == split).select_columns(
        data.existing_columns(*columns)
    )


def _read(sources: pa.Table) -> Iterator[pa.Table]:
    for location in sources["location"].to_pylist():
        for items in batch_items(read_items(location)):
            yield to_table(items)


def to_table(items: Iterable[SourceItem]) -> pa.Table:
    """Return items as a table of ``ITEM_SCHEMA``."""
    return pa.Table.from_pylist([vars(item) for item in items], ITEM_SCHEMA)


def pack(table: pa.Table) -> bytes:
    """Return a table as one value, which no stage cuts in two."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def unpack(value: bytes) -> pa.Table:
    """Return the table that was packed."""
    with pa.ipc.open_stream(value) as stream:
        return stream.read_all()


def batch_items(items: Iterable[SourceItem]) -> Iterator[list[SourceItem]]:
    """Yield items some at a time: as many as a task takes."""
    batch: list[SourceItem] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        size_bytes += len(item.data or b"")
        if len(batch) >= MAX_ITEMS or size_bytes >= BLOCK_BYTES // 4:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def on_packed_tables(work: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    """Return what does some work on each packed table of rows of ``chunk`` and ``table``."""

    def on_chunks(chunks: pa.Table) -> pa.Table:
        tables = [pack(work(unpack(value))) for value in chunks["table"].to_pylist()]
        packed = pa.array(tables, pa.large_binary())
        return pa.table({"chunk": chunks["chunk"], "table": packed})

    return on_chunks


@contextmanager
def explain_write_errors(output: str) -> Iterator[None]:
    """Raise a failure to write to an output that can be resumed as one sentence that names it."""
    try:
        yield
    except OSError as error:
        storage.check_store(output)
        raise JobError(
            f"{output} can't be written to: {storage.describe_error(error)}; see to that, and go on with "
            "--resume."
        ) from error


def tally_batch(tally: object) -> dict[str, np.ndarray]:
    """Return what a task counted as a batch of one row."""
    column = np.empty(1, object)
    column[0] = tally
    return {"tally": column}


def tallies(counted: ray.data.Dataset) -> Iterator[Any]:
    """Run a pipeline that ends in ``tally_batch`` and yield what was counted as it comes."""
    for batch in counted.iter_batches(batch_size=None, batch_format="numpy"):
        yield from batch["tally"]
