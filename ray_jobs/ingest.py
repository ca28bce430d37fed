"""Ingest: turn FER2013 and image archives into a dataset.

1. Read: walk through each source and cut it into items: images, and runs of CSV rows.
2. Parse and write: turn items into examples and rejects, write them to Parquet, count them.
3. Finish: draw the pictures, then write the summary that makes the dataset complete.
"""

import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer import storage
from fer.data import copies, dataset
from fer.data.emotions import FER2013_CLASSES, SPLITS, ClassList
from fer.data.ferplus import Votes, read_votes
from fer.data.kinds import commonest, describe_ignored, ending
from fer.data.numbering import misfit_with_fer2013
from fer.data.parsing import (
    FORMATS,
    NUM_PIXELS,
    SPLIT_SOURCES,
    Example,
    Ignored,
    Outcome,
    Reject,
    Rules,
    parse_item,
)
from fer.data.sources import SourceItem, check_source
from fer.data.tally import SAMPLES_PER_CLASS, DatasetTally, RejectGroup
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

ORIGINS = ("formats", "numbers_as", "split_from", "copies_dropped", "copies_of_train")
"""Entries of the summary that the RESULT line repeats: what was made of the sources."""

PARSED_SCHEMA = pa.schema(
    [
        ("pixels", pa.binary(NUM_PIXELS)),
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
    rules = Rules(classes, config.split_from, config.val_fraction)
    for source in config.source:
        check_source(source, all_files=config.all_files)
    _check_no_overlap(config.source)
    votes = _read_votes(config)
    with OUTPUT.reserve(config, started=started) as output:
        session.connect()
        session.require_resources([{"CPU": 1}], "Tasks")
        output.begin()
        with session.unwrap_errors():
            tally = _ingest(config, rules, votes)
        _check_tally(tally, config, rules, votes)
        num_dropped = _drop_redundant_rows(tally, config.output)
        summary = _finish(tally, config, rules, num_dropped, output)
    _say_copies(summary)
    return {
        "output": config.output,
        "examples": tally.num_examples,
        "rejects": tally.num_rejects,
        "ignored": summary["ignored"],
        "counts": {split: sum(counts.values()) for split, counts in summary["counts"].items()},
        **{name: summary[name] for name in ORIGINS},
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


def _ingest(config: IngestConfig, rules: Rules, votes: Votes | None) -> DatasetTally:
    tally = DatasetTally()
    with progress("Ingesting", "examples") as advance:
        for file_tally in _ingest_files(config, rules, votes):
            tally.add(file_tally)
            advance(tally.num_examples, rejects=tally.num_rejects)
    return tally


def _ingest_files(
    config: IngestConfig, rules: Rules, votes: Votes | None
) -> Iterator[DatasetTally]:
    """Read, parse and write as one stream; yield the tally of each file."""
    counted = stages.read_sources(config.source, all_files=config.all_files).map_batches(
        parse_and_write,
        fn_kwargs={
            "rules": rules,
            "votes": votes,
            "output": config.output,
        },
        batch_format="pyarrow",
        batch_size=None,
    )
    yield from stages.tallies(counted)


def parse_and_write(
    items: pa.Table, rules: Rules, votes: Votes | None, output: str
) -> Iterator[dict[str, np.ndarray]]:
    """Parse items and write their files in one task, to keep parsed rows off the network.

    Args:
        items: A table of ``stages.ITEM_SCHEMA``.
        rules: How examples get their labels and splits.
        votes: FER+ votes of the rows, or None.
        output: Location of the dataset.

    Yields:
        The tally of each file.
    """
    parsed = parse(items, rules, votes)
    schema = dataset.example_schema(rules.classes.names, with_votes=bool(votes))
    for start in range(0, len(parsed), dataset.ROWS_PER_FILE):
        rows = parsed.slice(start, dataset.ROWS_PER_FILE)
        yield write(rows, output, schema)


def parse(table: pa.Table, rules: Rules, votes: Votes | None) -> pa.Table:
    """Parse a table of ``stages.ITEM_SCHEMA`` into one of ``PARSED_SCHEMA``."""
    by_kind: dict[type, list[Outcome]] = {Example: [], Reject: [], Ignored: []}
    parse_all = _parse_isolated if isolation.is_poison_suspect() else parse_item
    for row in table.to_pylist():
        for outcome in parse_all(SourceItem(**row), rules):
            by_kind[type(outcome)].append(outcome)
    tables = [_to_table(outcomes) for outcomes in by_kind.values() if outcomes]
    parsed = pa.concat_tables(tables)
    return _join_votes(parsed, votes) if votes else parsed


def _parse_isolated(item: SourceItem, rules: Rules) -> list[Outcome]:
    """Parse an item in a process of its own, which it may crash."""
    try:
        return list(isolation.run_isolated(_parse_to_list, item, rules))
    except ChildProcessError as error:
        return [Reject(item.source, "crash", str(error))]


def _parse_to_list(item: SourceItem, rules: Rules) -> list[Outcome]:
    return list(parse_item(item, rules))


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
    rejects = parsed.filter(pc.is_valid(parsed["reason"])).select(dataset.REJECT_COLUMNS)
    tally = _count(examples, rejects)
    tally.numbers = _numbers_by_format(parsed)
    tally.last_row = pc.max(parsed["row"]).as_py() or 0
    is_ignored = pc.and_(pc.is_null(parsed["pixels"]), pc.is_null(parsed["reason"]))
    tally.ignored = Counter(map(ending, parsed["source"].filter(is_ignored).to_pylist()))
    if len(examples):
        table = _to_examples(examples, schema)
        encoding = dataset.PIXEL_ENCODING
        name = parquet.write_keyed_table(output, "examples", table, key="source", **encoding)
        tally.files.add(name)
        tally.file_sizes[name] = len(table)
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
    tally = DatasetTally(
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
    for source, code, reason in zip(*(column.to_pylist() for column in rejects), strict=True):
        tally.add_rejects(code, RejectGroup(1, source, reason))
    return tally


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
    """Choose the examples of each label whose digests come first, however they were divided."""
    samples = {}
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        chosen = examples.take(rows[np.argsort(digests[rows])][:SAMPLES_PER_CLASS])
        columns = (chosen[name].to_pylist() for name in ("sha256", "pixels"))
        samples[label] = list(zip(*columns, strict=True))
    return samples


def _check_tally(
    tally: DatasetTally, config: IngestConfig, rules: Rules, votes: Votes | None
) -> None:
    _check_votes(tally, votes)
    _check_numbers(tally, rules)
    _check_splits(tally, config)
    _check_rejects(tally, config)
    if not tally.num_examples:
        files = describe_ignored(tally.ignored, all_files=config.all_files) or "; check --source"
        raise JobError(f"No example was found in {', '.join(config.source)}{files}.")


def _check_votes(tally: DatasetTally, votes: Votes | None) -> None:
    if votes and tally.last_row != len(votes):
        raise InputError(
            f"--votes has {len(votes):,} rows and the CSV file has {tally.last_row:,}; give the "
            "votes for the same rows."
        )


def _check_numbers(tally: DatasetTally, rules: Rules) -> None:
    """Refuse numbered classes that would be taken for FER2013's and can't be."""
    if rules.classes != FER2013_CLASSES:
        return
    tables = (tally.numbers.get(name, set()) for name in ("csv", "hugging_face"))
    misfit = misfit_with_fer2013(tally.numbers.get("class_folders", set()), set().union(*tables))
    if misfit:
        raise InputError(misfit)


def _check_splits(tally: DatasetTally, config: IngestConfig) -> None:
    """Refuse to mix examples whose splits the sources seem to tell, and a second ``val``."""
    if tally.unclear_names:
        names = ", ".join(map(repr, sorted(tally.unclear_names)))
        raise InputError(
            f"{names} may name a split, but which one is unclear: rename it to train, val or test, "
            "or give --split-from hash to mix all examples."
        )
    if config.val_fraction and tally.num_val:
        raise InputError(
            f"The sources have {tally.num_val:,} val examples of their own, which --val-fraction "
            "would mix with train examples; leave --val-fraction out."
        )


def _check_rejects(tally: DatasetTally, config: IngestConfig) -> None:
    total = tally.num_examples + tally.num_rejects
    if tally.num_rejects <= config.max_reject_fraction * total:
        return
    by_count = tally.rejects_by_count()
    kinds = ", ".join(f"{code.replace('_', ' ')} ({n.count:,})" for code, n in by_count[:3])
    first = by_count[0][1]
    raise JobError(
        f"{tally.num_rejects:,} of {total:,} examples were rejected, more than "
        f"--max-reject-fraction {config.max_reject_fraction:g} allows: {kinds}; for example, "
        f"{first.source}: {first.reason.rstrip('.')}; see {config.output}/rejects."
    )


def _drop_redundant_rows(tally: DatasetTally, output: str) -> int:
    """Delete rows that only repeat those of a better table, and return how many there were."""
    redundant = tally.redundant()
    ends = np.cumsum([*tally.file_sizes.values()])
    for name, rows in zip([*tally.file_sizes], np.split(redundant, ends[:-1]), strict=True):
        if rows.any():
            tally.files.remove(name)
            tally.files |= _rewrite(output, name, ~rows)
    tally.keep(~redundant)
    return int(redundant.sum())


def _rewrite(output: str, name: str, kept: np.ndarray) -> set[str]:
    """Write some rows of a file of examples to a new file, and return its name."""
    store, path = storage.filesystem(storage.join(output, name))
    table = pq.read_table(path, filesystem=store).filter(pa.array(kept))
    if not len(table):
        return set()
    encoding = dataset.PIXEL_ENCODING
    return {parquet.write_keyed_table(output, "examples", table, key="source", **encoding)}


def _finish(
    tally: DatasetTally,
    config: IngestConfig,
    rules: Rules,
    num_dropped: int,
    output: Reservation,
) -> dict[str, Any]:
    """Delete the files of lost workers, draw the pictures, and write the summary last."""
    parquet.delete_all_except(config.output, ("examples", "rejects"), tally.files)
    from fer.reports import figures  # noqa: PLC0415 - workers need no matplotlib

    classes = rules.classes
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
        "rejects_by_reason": _describe_rejects(tally),
        "ignored_files": tally.ignored.total(),
        "ignored": commonest(tally.ignored),
        "counts": counts,
        "formats": tally.counts_by_format(),
        "label_from": tally.label_from(),
        "numbers_as": _numbers_as(tally, classes),
        "split_from": tally.split_from(),
        "duplicates": tally.duplicates(),
        "copies_of_train": tally.copies_of_train(),
        "copies_dropped": num_dropped,
        "official_fer2013": dataset.compare_with_official(counts),
        "fingerprint": tally.fingerprint(),
        "config": dataclasses.asdict(config),
        "seconds": round(output.elapsed_seconds, 2),
    }
    output.commit(summary, pictures)
    return summary


def _describe_rejects(tally: DatasetTally) -> dict[str, Any]:
    return {
        code: {"count": group.count, "example": {"source": group.source, "reason": group.reason}}
        for code, group in tally.rejects_by_count()
    }


def _numbers_as(tally: DatasetTally, classes: ClassList) -> str | None:
    """Return whose classes the numbers of the sources were taken for, if there were any."""
    if "number" not in tally.label_from():
        return None
    return "FER2013" if classes == FER2013_CLASSES else "--classes"


def _say_copies(summary: dict[str, Any]) -> None:
    """Say aloud that rows were dropped, and that examples of ``train`` stand in other splits."""
    if dropped := summary["copies_dropped"]:
        _say(f"{dropped:,} rows were left out, because they repeat rows of another table.")
    copied = [f"{count:,} {split}" for split, count in summary["copies_of_train"].items() if count]
    if copied:
        _say(f"{' and '.join(copied)} examples have the pixels of train examples.")


def _say(message: str) -> None:
    print(f"Ingesting: {message}", file=sys.stderr, flush=True)


def _samples(tally: DatasetTally) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(label, pixels) for label in tally.samples for _, pixels in tally.samples[label]]
    images = np.frombuffer(b"".join(pixels for _, pixels in pairs), np.uint8)
    labels = np.array([label for label, _ in pairs])
    return images.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), labels
