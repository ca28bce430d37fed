"""Pipeline stages that several jobs share: reading sources and datasets, packing, tallies."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.expressions import col

from fer import storage
from fer.data.annotations import read_labeled_items
from fer.data.dataset import Dataset
from fer.data.items import SourceItem
from fer.data.sources import names_of
from fer.errors import JobError
from ray_jobs.cluster import session

CHUNK_BYTES = 16 * 2**20
"""Bytes of items that one task of ``ingest`` processes: about 1,800 rows of FER2013's CSV."""

MAX_FETCHES = 256
"""Largest number of files that one task fetches. Their items carry no data yet."""

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
        ("code", pa.string()),
        ("format", pa.string()),
        ("label", pa.string()),
        ("usage", pa.string()),
        ("frames", pa.string()),
    ]
)


def read_sources(locations: Sequence[str], *, all_files: bool = False) -> ray.data.Dataset:
    """Read sources, one task for each, into chunks.

    Args:
        locations: Sources that ``fer.data.annotations.read_labeled_items`` can read.
        all_files: Whether files whose names do not say what they are may be images.

    Returns:
        Rows of ``table``, which is a packed table of ``ITEM_SCHEMA``.
    """
    named = pa.table({"location": list(locations), "name": names_of(locations)})
    sources = ray.data.from_blocks([named])
    # A block for each chunk. Of small ones, Ray Data would make a single block, and one task of it:
    # items of files that are still to be fetched are small, whatever the files are.
    sources.context.target_max_block_size = 1
    return sources.repartition(len(locations)).map_batches(
        _read_sources,
        fn_kwargs={"all_files": all_files},
        batch_format="pyarrow",
        batch_size=1,
        # Reading mostly waits. A reservation that differs from that of the next stage also keeps
        # Ray Data from fusing the two.
        num_cpus=0,
        **session.avoid_head(),
    )


def read_split(data: Dataset, split: str, columns: Sequence[str]) -> ray.data.Dataset:
    """Read the examples of a split of a dataset into rows.

    Args:
        data: The dataset.
        split: ``train``, ``val`` or ``test``.
        columns: Columns to read. Those that the dataset does not have are skipped.
    """
    filesystem, path = storage.filesystem(storage.join(data.location, "examples"))
    examples = ray.data.read_parquet(path, filesystem=filesystem)
    return examples.filter(expr=col("split") == split).select_columns(
        data.existing_columns(*columns)
    )


def _read_sources(sources: pa.Table, all_files: bool) -> Iterator[pa.Table]:
    for source in sources.to_pylist():
        for items in batch_items(read_labeled_items(**source, all_files=all_files), CHUNK_BYTES):
            yield pa.table({"table": pa.array([pack(to_table(items))], pa.large_binary())})


def to_table(items: Iterable[SourceItem]) -> pa.Table:
    """Convert items to a table of ``ITEM_SCHEMA``."""
    return pa.Table.from_pylist([vars(item) for item in items], ITEM_SCHEMA)


def pack(table: pa.Table) -> bytes:
    """Serialize a table into one value, which Ray Data cannot split between tasks."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def unpack(value: bytes) -> pa.Table:
    """Return the table that ``pack`` serialized."""
    with pa.ipc.open_stream(value) as stream:
        return stream.read_all()


def batch_items(
    items: Iterable[SourceItem], max_bytes: int = CHUNK_BYTES // 4
) -> Iterator[list[SourceItem]]:
    """Group items into batches of at most ``MAX_FETCHES`` without data, and some ``max_bytes``."""
    batch: list[SourceItem] = []
    size_bytes = num_fetches = 0
    for item in items:
        batch.append(item)
        size_bytes += len(item.data or b"")
        num_fetches += item.data is None
        if num_fetches >= MAX_FETCHES or size_bytes >= max_bytes:
            yield batch
            batch, size_bytes, num_fetches = [], 0, 0
    if batch:
        yield batch


def on_packed_tables(function: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    """Lift a function on tables to one on chunks: rows of ``chunk`` and a packed ``table``."""

    def on_chunks(chunks: pa.Table) -> pa.Table:
        tables = [pack(function(unpack(value))) for value in chunks["table"].to_pylist()]
        packed = pa.array(tables, pa.large_binary())
        return pa.table({"chunk": chunks["chunk"], "table": packed})

    return on_chunks


@contextmanager
def explain_write_errors(output: str, advice: str = "continue with --resume") -> Iterator[None]:
    """Turn a failure to write to an output into one sentence that says how to continue.

    Args:
        output: Location of the folder.
        advice: What to do once the cause is gone.

    Raises:
        JobError: The output cannot be written to.
    """
    try:
        yield
    except OSError as error:
        storage.check_store(output)
        raise JobError(
            f"{output} can't be written to: {storage.describe_error(error)}; fix that and {advice}."
        ) from error


def tally_batch(tally: object) -> dict[str, np.ndarray]:
    """Return a task's tally as a batch of one row."""
    column = np.empty(1, object)
    column[0] = tally
    return {"tally": column}


def tallies(pipeline: ray.data.Dataset) -> Iterator[Any]:
    """Run a pipeline whose last stage returns ``tally_batch``, and yield tallies as they arrive."""
    for batch in pipeline.iter_batches(batch_size=None, batch_format="numpy"):
        yield from batch["tally"]
