"""Ingest: turn FER2013 and image archives into a dataset.

1. Read: walk through each source and cut it into items: images, and runs of CSV rows.
2. Parse and write: turn items into examples and rejects, write them to Parquet, count them.
3. Finish: draw the pictures, then write the summary that makes the dataset complete.
"""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fer import storage
from fer.data import checks, dataset, parsed
from fer.data.emotions import FER2013_CLASSES, ClassList
from fer.data.ferplus import Votes, read_votes
from fer.data.framing import Framing
from fer.data.items import SourceItem
from fer.data.kinds import commonest, describe_ignored
from fer.data.parsing import Outcome, Reject, Rules, parse_item
from fer.data.sources import check_source
from fer.data.tally import SAMPLES_PER_CLASS, DatasetTally
from fer.errors import InputError, JobError
from fer.storage import parquet
from fer.vision.detector import FaceDetector, detector_id, load_detector_weights
from fer.vision.shape import ImageShape
from ray_jobs.cluster import isolation, metrics, session
from ray_jobs.config import IngestConfig
from ray_jobs.pipeline import locations, outputs, stages
from ray_jobs.pipeline.outputs import OutputSpec, Reservation
from ray_jobs.pipeline.progress import progress

OUTPUT = OutputSpec(
    completed_by="summary.json",
    contents=("examples", "rejects", "class_counts.png", "samples.png"),
)

ORIGINS = ("formats", "numbers_as", "split_from", "copies_dropped", "copies_of_train")
"""Entries of the summary that the RESULT line repeats: what was made of the sources."""


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
    rules = Rules(classes, config.split_from, config.val_fraction, _framing(config))
    for source in config.source:
        check_source(source, all_files=config.all_files)
        locations.check_outside(config.output, "source", source)
    _check_no_overlap(config.source)
    votes = _read_votes(config)
    with OUTPUT.reserve(config, started=started) as output:
        session.connect()
        session.require_resources([{"CPU": 1}], "Tasks")
        output.begin()
        with session.unwrap_errors():
            tally = _ingest(config, rules, votes)
        _check(tally, config, rules, votes)
        with _explain_write_errors(config.output):
            num_dropped = _drop_redundant_rows(tally, config.output)
            summary = _finish(tally, config, rules, num_dropped, output)
    _say_findings(tally, summary)
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


def _framing(config: IngestConfig) -> Framing:
    """Return how images become examples, once the detector has been checked."""
    shape = ImageShape(config.image_size, 3 if config.color else 1)
    if config.detector == "none":
        return Framing(shape)
    weights = load_detector_weights(config.detector_weights)
    FaceDetector(weights)
    return Framing(shape, weights)


def _check_no_overlap(sources: Sequence[str]) -> None:
    """Refuse sources whose examples would be counted twice."""
    for first, second in itertools.combinations(sorted(sources), 2):
        if second == first:
            raise InputError(f"--source {first} is given twice; give it once.")
        if second.startswith(f"{first}/"):
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
            metrics.INGEST_EXAMPLES.add(file_tally.num_examples)
            metrics.INGEST_REJECTS.add(file_tally.num_rejects)
            advance(tally.num_examples, rejects=tally.num_rejects)
    return tally


def _ingest_files(
    config: IngestConfig, rules: Rules, votes: Votes | None
) -> Iterator[DatasetTally]:
    """Read, parse and write as one stream; yield the tally of each file."""
    counted = stages.read_sources(config.source, all_files=config.all_files).map_batches(
        parse_and_write,
        fn_kwargs={"rules": rules, "votes": votes, "output": config.output},
        batch_format="pyarrow",
        batch_size=None,
    )
    yield from stages.tallies(counted)


def parse_and_write(
    chunks: pa.Table, rules: Rules, votes: Votes | None, output: str
) -> Iterator[dict[str, np.ndarray]]:
    """Parse items and write their files in one task, to keep parsed rows off the network.

    Args:
        chunks: Rows of ``stages.read_sources``, normally one.
        rules: How examples get their labels and splits.
        votes: FER+ votes of the rows, or None.
        output: Location of the dataset.

    Yields:
        The tally of each file.
    """
    shape = rules.framing.shape
    schema = dataset.example_schema(rules.classes.names, shape, with_votes=bool(votes))
    num_rows = dataset.rows_per_file(shape)
    for packed in chunks["table"].to_pylist():
        rows = parse(stages.unpack(packed), rules, votes)
        for start in range(0, len(rows), num_rows):
            yield write(rows.slice(start, num_rows), output, schema)


def parse(table: pa.Table, rules: Rules, votes: Votes | None) -> pa.Table:
    """Parse a table of ``stages.ITEM_SCHEMA`` into one of ``parsed.PARSED_SCHEMA``."""
    parse_all = _parse_isolated if isolation.is_poison_suspect() else parse_item
    items = (SourceItem(**row) for row in table.to_pylist())
    outcomes = itertools.chain.from_iterable(parse_all(item, rules) for item in items)
    return parsed.to_table(outcomes, votes)


def _parse_isolated(item: SourceItem, rules: Rules) -> list[Outcome]:
    """Parse an item in a process of its own, which it may crash."""
    try:
        return list(isolation.run_isolated(_parse_to_list, item, rules))
    except ChildProcessError as error:
        return [Reject(item.source, "crash", str(error))]


def _parse_to_list(item: SourceItem, rules: Rules) -> list[Outcome]:
    return list(parse_item(item, rules))


_explain_write_errors = partial(stages.explain_write_errors, advice="run the same command again")


def write(rows: pa.Table, output: str, schema: pa.Schema) -> dict[str, np.ndarray]:
    """Write a table of ``parsed.PARSED_SCHEMA`` to at most two files, and return their tally.

    Args:
        rows: The rows.
        output: Location of the dataset.
        schema: Of its examples.
    """
    examples, rejects = parsed.examples_of(rows), parsed.rejects_of(rows)
    tally = parsed.count(rows)
    with _explain_write_errors(output):
        if len(examples):
            name = _write_examples(output, parsed.to_dataset(examples, schema))
            tally.files.add(name)
            tally.file_sizes[name] = len(examples)
        if len(rejects):
            tally.files.add(parquet.write_keyed_table(output, "rejects", rejects, key="source"))
    return stages.tally_batch(tally)


def _write_examples(output: str, table: pa.Table) -> str:
    encoding = dataset.PIXEL_ENCODING
    return parquet.write_keyed_table(output, "examples", table, key="source", **encoding)


def _check(tally: DatasetTally, config: IngestConfig, rules: Rules, votes: Votes | None) -> None:
    """Refuse what can't become a dataset without guesses, or lost too many examples."""
    checks.check_votes(tally, votes)
    checks.check_numbers(tally, rules.classes)
    checks.check_splits(tally, rules)
    checks.check_rejects(tally, config.max_reject_fraction, config.output)
    if not tally.num_examples:
        files = describe_ignored(tally.ignored, all_files=config.all_files) or "; check --source"
        raise JobError(f"No example was found in {', '.join(config.source)}{files}.")


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
    """Write some rows of a file of examples to a new file, and return its name, if any are left."""
    store, path = storage.filesystem(storage.join(output, name))
    table = pq.read_table(path, filesystem=store).filter(pa.array(kept))
    return {_write_examples(output, table)} if len(table) else set()


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

    classes, framing = rules.classes, rules.framing
    counts = tally.counts(classes.names)
    images, labels = _samples(tally, framing.shape)
    pictures = {
        "class_counts.png": figures.plot_class_counts(counts),
        "samples.png": figures.plot_sample_grid(images, labels, classes.names, SAMPLES_PER_CLASS),
    }
    summary = {
        "schema_version": dataset.SCHEMA_VERSION,
        "class_names": classes.names,
        "image_size": framing.shape.size,
        "channels": framing.shape.channels,
        "detector": detector_id(framing.detector_weights),
        "examples": tally.num_examples,
        "rejects": tally.num_rejects,
        "rejects_by_reason": tally.describe_rejects(),
        "ignored_files": tally.ignored.total(),
        "ignored": commonest(tally.ignored),
        "counts": counts,
        "formats": tally.counts_by_format(),
        "label_from": tally.label_from(),
        "numbers_as": checks.numbers_as(tally, classes),
        "split_from": tally.split_from(),
        "duplicates": tally.duplicates(),
        "copies_of_train": tally.copies_of_train(),
        "copies_dropped": num_dropped,
        "official_fer2013": dataset.compare_with_official(counts),
        "fingerprint": tally.fingerprint(),
        "config": outputs.flags_of(config),
        "seconds": round(output.elapsed_seconds, 2),
    }
    output.commit(summary, pictures)
    return summary


def _say_findings(tally: DatasetTally, summary: dict[str, Any]) -> None:
    """Say aloud what may surprise: unread files, splits by chance, dropped rows, copies."""
    if unread := checks.describe_unread(tally):
        _say(unread)
    if (divided := summary["split_from"].get("hash")) and len(summary["split_from"]) > 1:
        _say(f"{divided:,} examples name no split, so a hash of their pixels chose it.")
    if dropped := summary["copies_dropped"]:
        _say(f"{dropped:,} rows were left out, because they repeat rows of another table.")
    copied = [f"{count:,} {split}" for split, count in summary["copies_of_train"].items() if count]
    if copied:
        _say(f"{' and '.join(copied)} examples have the pixels of train examples.")


def _say(message: str) -> None:
    print(f"Ingesting: {message}", file=sys.stderr, flush=True)


def _samples(tally: DatasetTally, shape: ImageShape) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(label, pixels) for label in tally.samples for _, pixels in tally.samples[label]]
    labels = np.array([label for label, _ in pairs])
    return shape.unpack(b"".join(pixels for _, pixels in pairs)), labels
