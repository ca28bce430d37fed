"""FER2013 and image archives to a dataset.

1. Read: walk through each source and cut it into pieces.
2. Parse: turn pieces into examples and rejects.
3. Write: examples and rejects to Parquet, a file at a time, and count them.
4. Finish: the pictures, and the summary that makes the dataset complete.
"""

import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer import dataset, parts, storage
from fer.dataset import SAMPLES_PER_CLASS, Tally
from fer.emotions import EMOTIONS, SPLITS
from fer.errors import InputError, JobError
from fer.images import IMAGE_SIZE
from fer.sources import NUM_PIXELS, Example, Piece, check_source, parse_piece
from fer.votes import Votes, read_votes
from ray_jobs import cluster, stages
from ray_jobs.config import IngestConfig

PARTS = ("examples", "rejects", "class_counts.png", "samples.png")

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
"""Examples, whose reason is null; rejects; and files that were ignored, which have neither."""


def run(config: IngestConfig) -> dict[str, Any]:
    """Make a dataset.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: A source or the output is not as it must be.
        JobError: Too much was rejected, or there is no example.
    """
    start = time.monotonic()
    config = cluster.resolve_locations(config)
    for source in config.source:
        check_source(source)
    votes = _read_votes(config)
    cluster.claim_output(config, "summary.json", PARTS)
    cluster.connect()
    with cluster.sentences():
        tally = _write_parts(config, votes)
    _check(tally, config, votes)
    summary = _finish(tally, config, time.monotonic() - start)
    return {
        "output": config.output,
        "examples": tally.num_examples,
        "rejects": tally.num_rejects,
        "counts": {split: sum(counts.values()) for split, counts in summary["counts"].items()},
        "complete_fer2013": summary["official_fer2013"]["complete"],
        "seconds": summary["seconds"],
    }


def _read_votes(config: IngestConfig) -> Votes | None:
    if config.votes is None:
        return None
    if len(config.source) > 1 or storage.is_folder(config.source[0]):
        raise InputError(
            "--votes belong to the rows of FER2013's CSV file: expected that file, or the archive "
            "that holds it, as the only --source."
        )
    return read_votes(config.votes)


def _write_parts(config: IngestConfig, votes: Votes | None) -> Tally:
    tally = Tally()
    with cluster.progress("Ingesting", "examples") as advance:
        for part in _parts(config, votes):
            tally.add(part)
            advance(tally.num_examples, rejects=tally.num_rejects)
    return tally


def _parts(config: IngestConfig, votes: Votes | None) -> Iterator[Tally]:
    """Read, parse and write as one stream, and yield what was counted a file at a time."""
    counted = (
        stages.read(config.source)
        .map_batches(
            partial(parse, split_from=config.split_from, votes=votes),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=1,
        )
        .map_batches(
            partial(write, output=config.output, with_votes=votes is not None),
            batch_format="pyarrow",
            batch_size=dataset.ROWS_PER_FILE,
            # A writer waits more than it computes, and another need keeps it apart.
            num_cpus=0,
        )
    )
    yield from stages.tallies(counted)


def parse(table: pa.Table, split_from: Any, votes: Votes | None) -> pa.Table:  # noqa: ANN401
    """Parse pieces: a table of ``PIECE_SCHEMA`` to one of ``PARSED_SCHEMA``."""
    columns: dict[str, list[Any]] = {name: [] for name in PARSED_SCHEMA.names}
    for row in table.to_pylist():
        piece = Piece(**row)
        parsed = [None] if piece.kind == "ignored" else parse_piece(piece, split_from)
        for outcome in parsed:
            for name, values in columns.items():
                values.append(getattr(outcome, name, None))
            if votes and isinstance(outcome, Example):
                columns["votes"][-1] = _votes_of(outcome, votes)
    return pa.table(columns, PARSED_SCHEMA)


def _votes_of(example: Example, votes: Votes) -> np.ndarray:
    if not example.row or example.split_from != "usage":
        raise InputError(
            f"--votes belong to the rows of FER2013's CSV file, but {example.source} is not one."
        )
    return votes.of_row(example.row, example.split)


def write(parsed: pa.Table, output: str, *, with_votes: bool) -> dict[str, np.ndarray]:
    """Write parsed rows: a table of ``PARSED_SCHEMA`` to at most two files, and their tally."""
    examples = parsed.filter(pc.is_valid(parsed["pixels"])).combine_chunks()
    rejects = parsed.filter(pc.is_valid(parsed["reason"])).select(["source", "reason"])
    tally = _count(examples, rejects)
    tally.ignored = len(parsed) - len(examples) - len(rejects)
    tally.last_row = pc.max(parsed["row"]).as_py() or 0
    if len(examples):
        table = _to_examples(examples, with_votes=with_votes)
        tally.files.add(parts.write_part(output, "examples", table, key="source"))
    if len(rejects):
        tally.files.add(parts.write_part(output, "rejects", rejects, key="source"))
    return stages.tally_batch(tally)


def _to_examples(parsed: pa.Table, *, with_votes: bool) -> pa.Table:
    pixels = b"".join(parsed["pixels"].to_pylist())
    images = pa.FixedSizeListArray.from_arrays(
        pa.array(np.frombuffer(pixels, np.uint8)), NUM_PIXELS
    )
    hexes = pa.array([digest.hex() for digest in parsed["sha256"].to_pylist()])
    schema = dataset.example_schema(with_votes=with_votes)
    columns = {"image": images, "sha256": hexes}
    return pa.table(
        [
            columns.get(name, parsed[name] if name in parsed.column_names else None)
            for name in schema.names
        ],
        schema=schema,
    )


def _count(examples: pa.Table, rejects: pa.Table) -> Tally:
    digests, labels, pixels = (examples[name].to_pylist() for name in ("sha256", "label", "pixels"))
    tally = Tally(
        digests=bytearray().join(digests),
        labels=bytearray(labels),
        splits=bytearray(SPLITS.index(split) for split in examples["split"].to_pylist()),
        split_from=Counter(examples["split_from"].to_pylist()),
        reasons=Counter(_kind_of(reason) for reason in rejects["reason"].to_pylist()),
    )
    for sample in sorted(zip(digests, pixels, labels, strict=True)):
        samples = tally.samples.setdefault(sample[2], [])
        if len(samples) < SAMPLES_PER_CLASS:
            samples.append(sample[:2])
    return tally


def _kind_of(reason: str) -> str:
    """Leave out of a reason what differs from one reject to the next: what is quoted, numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\b\d[\d,]*", "…", reason)


def _check(tally: Tally, config: IngestConfig, votes: Votes | None) -> None:
    if votes and tally.last_row != len(votes):
        raise InputError(
            f"The votes are {len(votes):,} and the CSV file has {tally.last_row:,} rows: expected "
            "the votes of the same rows."
        )
    total = tally.num_examples + tally.num_rejects
    often = "; ".join(f"{reason} ({n:,})" for reason, n in tally.reasons.most_common(3))
    if tally.num_rejects > config.max_reject_fraction * total:
        raise JobError(
            f"{tally.num_rejects:,} of {total:,} were rejected, more than --max-reject-fraction "
            f"{config.max_reject_fraction:g} allows: {often}; see {config.output}/rejects."
        )
    if not tally.num_examples:
        raise JobError(f"No example was found in {', '.join(config.source)}.")


def _finish(tally: Tally, config: IngestConfig, seconds: float) -> dict[str, Any]:
    """Drop what a lost worker wrote in vain, draw the pictures, and write the summary last."""
    parts.keep_only(config.output, ("examples", "rejects"), tally.files)
    from fer.reports import figures  # noqa: PLC0415 - every reader and writer would wait for it

    counts = tally.counts()
    pictures = {
        "class_counts.png": figures.class_counts(counts),
        "samples.png": figures.sample_grid(*_samples(tally), EMOTIONS, SAMPLES_PER_CLASS),
    }
    for name, png in pictures.items():
        storage.write_bytes(storage.join(config.output, name), png)
    summary = {
        "schema_version": dataset.SCHEMA_VERSION,
        "class_names": EMOTIONS,
        "examples": tally.num_examples,
        "rejects": tally.num_rejects,
        "rejects_by_reason": dict(tally.reasons.most_common()),
        "ignored_files": tally.ignored,
        "counts": counts,
        "split_from": dict(tally.split_from),
        "duplicates": tally.duplicates(),
        "official_fer2013": dataset.official_fer2013(counts),
        "fingerprint": tally.fingerprint(),
        "config": dataclasses.asdict(config),
        "seconds": round(seconds, 2),
    }
    content = json.dumps(summary, indent=2).encode()
    storage.write_bytes(storage.join(config.output, "summary.json"), content)
    return summary


def _samples(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(label, pixels) for label in tally.samples for _, pixels in tally.samples[label]]
    images = np.frombuffer(b"".join(pixels for _, pixels in pairs), np.uint8)
    labels = np.array([label for label, _ in pairs])
    return images.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), labels
