"""Ingest: turn FER2013 and image archives into a dataset.

1. Read: walk through each source and cut it into items: images, and runs of CSV rows.
2. Parse and write: turn items into examples and rejects, write them to Parquet, count them.
3. Finish: draw the pictures, then write the summary that makes the dataset complete.
"""

import dataclasses
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer import storage
from fer.data import dataset
from fer.data.emotions import FER2013_CLASSES, SPLITS, ClassList
from fer.data.ferplus import Votes, read_votes
from fer.data.parsing import (
    NUM_PIXELS,
    Example,
    Ignored,
    Outcome,
    Reject,
    SplitFrom,
    parse_item,
)
from fer.data.sources import SourceItem, check_source
from fer.data.tally import SAMPLES_PER_CLASS, DatasetTally
from fer.errors import InputError, JobError
from fer.storage import parquet
from fer.vision.decode import IMAGE_SIZE
from ray_jobs.cluster import isolation, session
from ray_jobs.config import IngestConfig
from ray_jobs.pipeline import locations, stages
from ray_jobs.pipeline.outputs import OutputSpec, Reservation
from ray_jobs.pipeline.progress import progress

OUTPUT = OutputSpec(
    completed_by="summary.json",
    contents=("examples", "rejects", "class_counts.png", "samples.png"),
)

PARSED_SCHEMA = pa.schema(
    [
        ("pixels", pa.binary(NUM_PIXELS)),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("split_from", pa.string()),
        ("source", pa.string()),
        ("sha256", pa.binary(32)),
        ("row", pa.int64()),
        ("votes", pa.list_(pa.int8(), dataset.NUM_VOTES)),
        ("reason", pa.string()),
    ]
)
"""Examples have pixels, rejects have a reason, and ignored files have neither."""


def run(config: IngestConfig) -> dict[str, Any]:
    """Make a dataset.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: A source or the output is not as the job needs it.
        JobError: Too many examples were rejected, or there is none.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    classes = ClassList.parse(config.classes) if config.classes else FER2013_CLASSES
    for source in config.source:
        check_source(source)
    _check_no_overlap(config.source)
    votes = _read_votes(config)
    with OUTPUT.reserve(config, started=started) as output:
        session.connect()
        session.require_resources([{"CPU": 1}], "Tasks")
        output.begin()
        with session.unwrap_errors():
            tally = _ingest(config, classes, votes)
        _check_tally(tally, config, votes)
        summary = _finish(tally, config, classes, output)
    return {
        "output": config.output,
        "examples": tally.num_examples,
        "rejects": tally.num_rejects,
        "counts": {split: sum(counts.values()) for split, counts in summary["counts"].items()},
        "complete_fer2013": summary["official_fer2013"]["complete"],
        "seconds": summary["seconds"],
    }


def _check_no_overlap(sources: Sequence[str]) -> None:
    """Refuse sources whose examples would be counted twice."""
    for first, second in itertools.combinations(sorted(sources), 2):
        if second == first or second.startswith(f"{first}/"):
            raise InputError(
                f"--source {second} is part of --source {first}; give only one of them."
            )


def _read_votes(config: IngestConfig) -> Votes | None:
    if config.votes is None:
        return None
    if config.classes or len(config.source) > 1 or storage.is_folder(config.source[0]):
        raise InputError(
            "--votes belong to the rows of FER2013's CSV file; give that file, or the archive that "
            "holds it, as the only --source, and leave --classes out."
        )
    return read_votes(config.votes)


def _ingest(config: IngestConfig, classes: ClassList, votes: Votes | None) -> DatasetTally:
    tally = DatasetTally()
    with progress("Ingesting", "examples") as advance:
        for file_tally in _ingest_files(config, classes, votes):
            tally.add(file_tally)
            advance(tally.num_examples, rejects=tally.num_rejects)
    return tally


def _ingest_files(
    config: IngestConfig, classes: ClassList, votes: Votes | None
) -> Iterator[DatasetTally]:
    """Read, parse and write as one stream; yield the tally of each file."""
    counted = stages.read_sources(config.source).map_batches(
        parse_and_write,
        fn_kwargs={
            "classes": classes,
            "split_from": config.split_from,
            "votes": votes,
            "output": config.output,
        },
        batch_format="pyarrow",
        batch_size=None,
    )
    yield from stages.tallies(counted)


def parse_and_write(
    items: pa.Table, classes: ClassList, split_from: SplitFrom, votes: Votes | None, output: str
) -> Iterator[dict[str, np.ndarray]]:
    """Parse items and write their files in one task, to keep parsed rows off the network.

    Args:
        items: A table of ``stages.ITEM_SCHEMA``.
        classes: The classes, in the order of their labels.
        split_from: Where an example's split is read from.
        votes: FER+ votes of the rows, or None.
        output: Location of the dataset.

    Yields:
        The tally of each file.
    """
    parsed = parse(items, classes, split_from, votes)
    for start in range(0, len(parsed), dataset.ROWS_PER_FILE):
        rows = parsed.slice(start, dataset.ROWS_PER_FILE)
        yield write(rows, output, dataset.example_schema(classes.names, with_votes=bool(votes)))


def parse(
    table: pa.Table, classes: ClassList, split_from: SplitFrom, votes: Votes | None
) -> pa.Table:
    """Parse a table of ``stages.ITEM_SCHEMA`` into one of ``PARSED_SCHEMA``."""
    by_kind: dict[type, list[Outcome]] = {Example: [], Reject: [], Ignored: []}
    parse_all = _parse_isolated if isolation.is_poison_suspect() else parse_item
    for row in table.to_pylist():
        for outcome in parse_all(SourceItem(**row), classes, split_from):
            by_kind[type(outcome)].append(outcome)
    tables = [_to_table(outcomes) for outcomes in by_kind.values() if outcomes]
    parsed = pa.concat_tables(tables)
    return _join_votes(parsed, votes) if votes else parsed


def _parse_isolated(item: SourceItem, classes: ClassList, split_from: SplitFrom) -> list[Outcome]:
    """Parse an item in a process of its own, which it may crash."""
    try:
        return list(isolation.run_isolated(_parse_to_list, item, classes, split_from))
    except ChildProcessError as error:
        return [Reject(item.source, str(error))]


def _parse_to_list(item: SourceItem, classes: ClassList, split_from: SplitFrom) -> list[Outcome]:
    return list(parse_item(item, classes, split_from))


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


def write(parsed: pa.Table, output: str, schema: pa.Schema) -> dict[str, np.ndarray]:
    """Write parsed rows: a table of ``PARSED_SCHEMA`` to at most two files, and their tally.

    Args:
        parsed: The rows.
        output: Location of the dataset.
        schema: Of its examples.
    """
    examples = parsed.filter(pc.is_valid(parsed["pixels"])).combine_chunks()
    rejects = parsed.filter(pc.is_valid(parsed["reason"])).select(["source", "reason"])
    tally = _count(examples, rejects)
    tally.last_row = pc.max(parsed["row"]).as_py() or 0
    tally.ignored = len(parsed) - len(examples) - len(rejects)
    if len(examples):
        table = _to_examples(examples, schema)
        encoding = dataset.PIXEL_ENCODING
        tally.files.add(
            parquet.write_keyed_table(output, "examples", table, key="source", **encoding)
        )
    if len(rejects):
        tally.files.add(parquet.write_keyed_table(output, "rejects", rejects, key="source"))
    return stages.tally_batch(tally)


def _to_examples(parsed: pa.Table, schema: pa.Schema) -> pa.Table:
    images = pa.FixedSizeListArray.from_arrays(pa.array(_bytes_of(parsed["pixels"])), NUM_PIXELS)
    hexes = pa.array([digest.hex() for digest in parsed["sha256"].to_pylist()])
    columns = {"image": images, "sha256": hexes}
    return pa.table(
        [columns[name] if name in columns else parsed[name] for name in schema.names], schema=schema
    )


def _bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of byte strings of one length, none of them null, as uint8 (N * length,)."""
    size = column.type.byte_width
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * size :][: len(chunk) * size]
        for chunk in column.chunks
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, np.uint8)


def _count(examples: pa.Table, rejects: pa.Table) -> DatasetTally:
    digests = _bytes_of(examples["sha256"])
    labels = examples["label"].to_numpy().astype(np.uint8)
    splits = pc.index_in(examples["split"], value_set=pa.array(SPLITS)).to_numpy()
    return DatasetTally(
        digests=bytearray(digests),
        labels=bytearray(labels),
        splits=bytearray(splits.astype(np.uint8)),
        split_from=Counter(examples["split_from"].to_pylist()),
        reasons=Counter(_kind_of(reason) for reason in rejects["reason"].to_pylist()),
        samples=_choose_samples(examples, digests.view("V32"), labels),
    )


def _choose_samples(
    examples: pa.Table, digests: np.ndarray, labels: np.ndarray
) -> dict[int, list[tuple[bytes, bytes]]]:
    """Choose the examples of each label whose digests come first, however they were divided."""
    samples = {}
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        chosen = examples.take(rows[np.argsort(digests[rows])][:SAMPLES_PER_CLASS])
        columns = (chosen[name].to_pylist() for name in ("sha256", "pixels"))
        samples[label] = list(zip(*columns, strict=True))
    return samples


def _kind_of(reason: str) -> str:
    """Leave out of a reason what differs from one reject to the next: what is quoted, numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\b\d[\d,]*", "…", reason)


def _check_tally(tally: DatasetTally, config: IngestConfig, votes: Votes | None) -> None:
    if votes and tally.last_row != len(votes):
        raise InputError(
            f"--votes has {len(votes):,} rows and the CSV file has {tally.last_row:,}; give the "
            "votes for the same rows."
        )
    total = tally.num_examples + tally.num_rejects
    commonest = "; ".join(f"{reason} ({n:,})" for reason, n in tally.reasons.most_common(3))
    if tally.num_rejects > config.max_reject_fraction * total:
        raise JobError(
            f"{tally.num_rejects:,} of {total:,} examples were rejected, more than "
            f"--max-reject-fraction {config.max_reject_fraction:g} allows: {commonest}; see "
            f"{config.output}/rejects."
        )
    if not tally.num_examples:
        raise JobError(f"No example was found in {', '.join(config.source)}; check --source.")


def _finish(
    tally: DatasetTally, config: IngestConfig, classes: ClassList, output: Reservation
) -> dict[str, Any]:
    """Delete the files of lost workers, draw the pictures, and write the summary last."""
    parquet.delete_all_except(config.output, ("examples", "rejects"), tally.files)
    from fer.reports import figures  # noqa: PLC0415 - workers need no matplotlib

    counts = tally.counts(classes.names)
    pictures = {
        "class_counts.png": figures.plot_class_counts(counts),
        "samples.png": figures.plot_sample_grid(*_samples(tally), classes.names, SAMPLES_PER_CLASS),
    }
    summary = {
        "schema_version": dataset.SCHEMA_VERSION,
        "class_names": classes.names,
        "examples": tally.num_examples,
        "rejects": tally.num_rejects,
        "rejects_by_reason": dict(tally.reasons.most_common()),
        "ignored_files": tally.ignored,
        "counts": counts,
        "split_from": dict(tally.split_from),
        "duplicates": tally.duplicates(),
        "official_fer2013": dataset.compare_with_official(counts),
        "fingerprint": tally.fingerprint(),
        "config": dataclasses.asdict(config),
        "seconds": round(output.elapsed_seconds, 2),
    }
    output.commit(summary, pictures)
    return summary


def _samples(tally: DatasetTally) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(label, pixels) for label in tally.samples for _, pixels in tally.samples[label]]
    images = np.frombuffer(b"".join(pixels for _, pixels in pairs), np.uint8)
    labels = np.array([label for label, _ in pairs])
    return images.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), labels
