"""Parsed examples as a table: to Parquet, and to the tally."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer.data import copies, dataset
from fer.data.emotions import SPLITS
from fer.data.ferplus import Votes
from fer.data.kinds import ending
from fer.data.parsing import (
    FORMATS,
    SPLIT_SOURCES,
    Example,
    Ignored,
    Outcome,
    Reject,
)
from fer.data.tally import SAMPLES_PER_CLASS, DatasetTally, RejectGroup
from fer.errors import InputError

PARSED_SCHEMA = pa.schema(
    [
        ("pixels", pa.binary()),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("split_from", pa.string()),
        ("source", pa.string()),
        ("sha256", pa.binary(32)),
        ("row", pa.int64()),
        ("has_usage", pa.bool_()),
        ("format", pa.string()),
        ("number", pa.int16()),
        ("unclear_name", pa.string()),
        ("votes", pa.list_(pa.int8(), dataset.NUM_VOTES)),
        ("code", pa.string()),
        ("reason", pa.string()),
    ]
)
"""Examples have pixels, rejects have a reason, and ignored files have neither."""


def to_table(outcomes: Iterable[Outcome], votes: Votes | None = None) -> pa.Table:
    """Return outcomes as a table of ``PARSED_SCHEMA``: examples, then rejects, then ignored files.

    Args:
        outcomes: At least one outcome.
        votes: FER+ votes of the rows, or None.

    Raises:
        InputError: The votes are not those of the rows.
    """
    by_kind: dict[type, list[Outcome]] = {Example: [], Reject: [], Ignored: []}
    for outcome in outcomes:
        by_kind[type(outcome)].append(outcome)
    parsed = pa.concat_tables(map(_to_table, filter(None, by_kind.values())))
    return _join_votes(parsed, votes) if votes else parsed


def _to_table(outcomes: list[Outcome]) -> pa.Table:
    """Return outcomes of one kind as a table, with nulls in the columns of the other kinds."""
    columns = dict(zip(outcomes[0]._fields, zip(*outcomes, strict=True), strict=True))
    nulls = [None] * len(outcomes)
    return pa.table({name: columns.get(name, nulls) for name in PARSED_SCHEMA.names}, PARSED_SCHEMA)


def _join_votes(parsed: pa.Table, votes: Votes) -> pa.Table:
    columns = (parsed[name].to_pylist() for name in ("source", "row", "split", "split_from"))
    joined = [
        None if split is None else _votes_of(votes, source, row, split, split_from)
        for source, row, split, split_from in zip(*columns, strict=True)
    ]
    field = PARSED_SCHEMA.field("votes")
    index = PARSED_SCHEMA.get_field_index("votes")
    return parsed.set_column(index, field, pa.array(joined, field.type))


def _votes_of(votes: Votes, source: str, row: int, split: str, split_from: str) -> np.ndarray:
    if not row or split_from != "usage":
        raise InputError(
            f"--votes belong to the rows of FER2013's CSV file, but {source} is not one."
        )
    return votes.for_row(row, split)


def examples_of(parsed: pa.Table) -> pa.Table:
    """Return the rows of a table of ``PARSED_SCHEMA`` that are examples."""
    return parsed.filter(pc.is_valid(parsed["pixels"])).combine_chunks()


def rejects_of(parsed: pa.Table) -> pa.Table:
    """Return the rejects of a table of ``PARSED_SCHEMA``, with the columns that a dataset keeps."""
    return parsed.filter(pc.is_valid(parsed["reason"])).select(dataset.REJECT_COLUMNS)


def to_dataset(examples: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return examples in the form that a dataset stores, with a schema of ``example_schema``."""
    num_bytes = schema.field("image").type.list_size
    pixels = pa.array(_bytes_of(examples["pixels"].cast(pa.binary(num_bytes))))
    images = pa.FixedSizeListArray.from_arrays(pixels, num_bytes)
    hexes = pa.array([digest.hex() for digest in examples["sha256"].to_pylist()])
    columns = {"image": images, "sha256": hexes}
    return pa.table(
        [columns[name] if name in columns else examples[name] for name in schema.names],
        schema=schema,
    )


def _bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of byte strings of one length, none of them null, as uint8 (N * length,)."""
    size = column.type.byte_width
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * size :][: len(chunk) * size]
        for chunk in column.chunks
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, np.uint8)


def count(parsed: pa.Table) -> DatasetTally:
    """Return the tally of a table of ``PARSED_SCHEMA``."""
    tally = _count_examples(examples_of(parsed))
    tally.numbers = _numbers_by_format(parsed)
    tally.last_row = pc.max(parsed["row"]).as_py() or 0
    is_ignored = pc.and_(pc.is_null(parsed["pixels"]), pc.is_null(parsed["reason"]))
    tally.ignored = Counter(map(ending, parsed["source"].filter(is_ignored).to_pylist()))
    for reject in rejects_of(parsed).to_pylist():
        tally.add_rejects(reject["code"], RejectGroup(1, reject["source"], reject["reason"]))
    return tally


def _count_examples(examples: pa.Table) -> DatasetTally:
    digests = _bytes_of(examples["sha256"])
    labels = examples["label"].to_numpy().astype(np.uint8)
    return DatasetTally(
        digests=bytearray(digests),
        labels=bytearray(labels),
        splits=_indexes(examples["split"], SPLITS),
        split_sources=_indexes(examples["split_from"], SPLIT_SOURCES),
        formats=_indexes(examples["format"], FORMATS),
        is_numbered=bytearray(examples["number"].is_valid().to_numpy().astype(np.uint8)),
        has_usage=bytearray(examples["has_usage"].to_numpy().astype(np.uint8)),
        tables=bytearray(_tables_of(examples).tobytes()),
        unclear_names={*examples["unclear_name"].drop_null().unique().to_pylist()},
        samples=_choose_samples(examples, digests.view("V32"), labels),
    )


def _indexes(column: pa.ChunkedArray, names: Sequence[str]) -> bytearray:
    indexes = pc.index_in(column, value_set=pa.array(names)).to_numpy()
    return bytearray(indexes.astype(np.uint8))


def _tables_of(examples: pa.Table) -> np.ndarray:
    """Return the table of each example, as ``fer.data.copies`` identifies them."""
    is_row = examples["row"].to_numpy() > 0
    locations = [source.rpartition("#")[0] for source in examples["source"].to_pylist()]
    ids = {location: copies.table_id(location) for location in set(locations)}
    tables = np.array([ids[location] for location in locations], copies.TABLE_DTYPE)
    return np.where(is_row, tables, 0).astype(copies.TABLE_DTYPE)


def _numbers_by_format(parsed: pa.Table) -> dict[str, set[int]]:
    """Return the numbers that stand for classes, of examples and of rejects alike."""
    numbered = parsed.filter(pc.is_valid(parsed["number"])).group_by(["format", "number"])
    numbers: dict[str, set[int]] = {}
    for row in numbered.aggregate([]).to_pylist():
        numbers.setdefault(row["format"], set()).add(row["number"])
    return numbers


def _choose_samples(
    examples: pa.Table, digests: np.ndarray, labels: np.ndarray
) -> dict[int, list[tuple[bytes, bytes]]]:
    """Choose the images of each label whose digests come first, however they were divided."""
    samples = {}
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        _, first = np.unique(digests[rows], return_index=True)
        chosen = examples.take(rows[first[:SAMPLES_PER_CLASS]])
        columns = (chosen[name].to_pylist() for name in ("sha256", "pixels"))
        samples[label] = list(zip(*columns, strict=True))
    return samples
