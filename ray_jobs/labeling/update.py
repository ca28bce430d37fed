"""Updates: which files of a source are new or changed, and which label rows they replace.

A file is unchanged if the listing and its label rows have the same ETag. A manifest need not give
ETags; a file without one counts as unchanged. Files that could not be fetched are always tried
again.

An update has two steps. ``select_unlabeled`` compares the listing with the labels before new files
are labeled, and records which label rows will be outdated. ``drop_replaced`` removes those rows
afterwards. Labels that a crash leaves in between hold both, and a resumed run finishes the work.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.data.items import SourceItem, containing_file, kind_by_content
from fer.labels.catalog import record_removed
from fer.labels.files import read_rows, read_tally, write_labels
from fer.labels.manifests import is_bad_row
from fer.labels.schema import FAILED_STATUSES
from fer.storage import listing, parquet
from ray_jobs.labeling import videos
from ray_jobs.labeling.write import file_of_chunk
from ray_jobs.pipeline import stages

REPLACED = "replaced"
"""Folder of the records of outdated rows: tables of ``file`` and ``labeled_in``."""

FILES_PER_PARTITION = 200_000
"""Number of files, listed or labeled, that one task compares."""

COMPARED_SCHEMA = pa.schema(
    [*stages.ITEM_SCHEMA, ("file", pa.string()), ("labeled_in", pa.string())]
)
"""Items of the listing, and items as the labels record them.

``labeled_in`` is the label file that records an item; it is null for items of the listing. ``file``
is the file that holds an item, as labels name it: the image itself, or the archive.
"""


def select_unlabeled(
    listed: ray.data.Dataset,
    output: str,
    done: Mapping[str, int],
    lost: Collection[str] = (),
) -> ray.data.Dataset:
    """Return the listed items that are new or have changed since they were labeled.

    The label rows that they replace are recorded in the output.

    Args:
        listed: Rows of ``stages.ITEM_SCHEMA``, with archives unopened.
        output: Folder of the labels.
        done: Number of images in each chunk that has a label file, by the name of the chunk.
        lost: Names of label files that were there and are gone.
    """
    label_files = sorted(map(file_of_chunk, done))
    labeled = (
        ray.data.from_blocks([pa.table({"file": label_files})])
        .repartition(target_num_rows_per_block=64)
        .map_batches(
            _read_labeled,
            fn_kwargs={"output": output},
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=0.25,
        )
    )
    # The number of listed items must be known, because it sets the number of partitions.
    listed = listed.materialize()
    num_files = listed.count() + sum(done.values())
    both = listed.map_batches(_add_file, batch_format="pyarrow", num_cpus=0.25).union(labeled)
    # Repartitioning by key puts all rows of a file into one block, as Ray Data's groupby does.
    return both.repartition(1 + num_files // FILES_PER_PARTITION, keys=["file"]).map_batches(
        _compare,
        fn_kwargs={"output": output, "lost": frozenset(map(videos.part_of, lost))},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.25,
    )


def _add_file(listed: pa.Table) -> pa.Table:
    rows = listed.to_pylist()
    for row in rows:
        row["file"] = containing_file(storage.strip_access_mode(row["source"]))
    return pa.Table.from_pylist(rows, COMPARED_SCHEMA)


def _read_labeled(label_files: pa.Table, output: str) -> Iterator[pa.Table]:
    for file in label_files["file"].to_pylist():
        rows = read_rows(storage.join(output, file), ["image", "etag", "status"])
        states = {(containing_file(row["image"]), _kind(row), row["etag"]) for row in rows}
        items = [
            {"kind": kind, "file": holder, "etag": etag, "labeled_in": file}
            for holder, kind, etag in states
        ]
        yield pa.Table.from_pylist(items, COMPARED_SCHEMA)


def _kind(row: dict[str, Any]) -> str:
    """Return the kind of a labeled item: ``rejected`` if it could not be fetched."""
    is_fetched = row["etag"] is not None or row["status"] not in FAILED_STATUSES
    return "image" if is_fetched else "rejected"


def _compare(both: pa.Table, output: str, lost: Collection[str] = ()) -> pa.Table:
    """Return the listed items that are new or changed, and record the rows that they replace.

    Args:
        both: Rows of ``COMPARED_SCHEMA``: all of some files.
        output: Folder of the labels.
        lost: What ``videos.part_of`` says of the label files that are gone.
    """
    labeled = defaultdict(list)
    for row in (rows := both.to_pylist()):
        if row["labeled_in"]:
            labeled[row["file"]].append(row)
    new = [
        row
        for row in rows
        if not row["labeled_in"] and not _is_unchanged(row, labeled[row["file"]], lost)
    ]
    outdated = {row["file"] for row in new} | _no_longer_named(rows)
    replaced = [
        {name: old[name] for name in ("file", "labeled_in")}
        for file in sorted(outdated)
        for old in labeled[file]
    ]
    for row in new:
        row["kind"] = _kind_by_content(row)
    # The first run has already counted the files that are not images, and they have no rows.
    items = [row for row in new if row["kind"] != "ignored"]
    if replaced:
        with stages.explain_write_errors(output):
            parquet.write_keyed_table(output, REPLACED, pa.Table.from_pylist(replaced), key="file")
    return pa.Table.from_pylist(items, stages.ITEM_SCHEMA)


def _no_longer_named(rows: Sequence[dict[str, Any]]) -> set[str]:
    """Return what the labels reject and the listing does not name, though no file has gone.

    A folder is listed by its files once it may be read, and the row of a manifest by what it names
    once it is right.
    """
    listed = {row["file"] for row in rows if not row["labeled_in"]}
    rejected = {row["file"] for row in rows if row["labeled_in"] and row["kind"] == "rejected"}
    return {file for file in rejected - listed if file.endswith("/") or is_bad_row(file)}


def _kind_by_content(row: dict[str, Any]) -> str:
    """Return the kind of a listed item, by its content where its name does not tell."""
    if row["kind"] == "unknown":
        return kind_by_content(row["source"])
    is_program = row["kind"] == "video" and videos.is_program(SourceItem(**_item(row)))
    return "ignored" if is_program else str(row["kind"])


def _item(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in stages.ITEM_SCHEMA.names}


def _is_unchanged(
    item: dict[str, Any], labeled: list[dict[str, Any]], lost: Collection[str]
) -> bool:
    """Tell whether the labels have an item as it is now.

    Args:
        item: A listed item.
        labeled: What the labels record of its file.
        lost: See ``_compare``.
    """
    if not labeled or any(row["kind"] == "rejected" for row in labeled):
        return False
    # An image has all its rows in one file; an archive or a long video may lack some of them.
    parts = {videos.part_of(row["labeled_in"]) for row in labeled}
    if any(part in lost for part in parts if part or item["kind"] == "archive"):
        return False
    return item["etag"] is None or {row["etag"] for row in labeled} == {item["etag"]}


def drop_replaced(
    output: str, generation: int, class_names: Sequence[str], formats: Collection[str]
) -> bool:
    """Remove the outdated rows from the label files, and return whether there were any.

    The images whose rows are removed are recorded first.

    Args:
        output: Folder of the labels.
        generation: Number of the generation of labels that replaces the rows.
        class_names: Class of each probability.
        formats: Formats of the labels in addition to Parquet.
    """
    names = sorted(listing.child_names(storage.join(output, REPLACED)))
    if not names:
        return False
    rewritten = (
        ray.data.from_blocks([pa.table({"name": names})])
        .map_batches(
            _read_records, fn_kwargs={"output": output}, batch_format="pyarrow", batch_size=1
        )
        .repartition(len(names), keys=["labeled_in"])
        .map_batches(
            _rewrite,
            fn_kwargs={
                "output": output,
                "generation": generation,
                "class_names": class_names,
                "formats": formats,
            },
            batch_format="pyarrow",
            batch_size=None,
        )
    )
    return sum(1 for _ in stages.tallies(rewritten)) > 0


def _read_records(names: pa.Table, output: str) -> pa.Table:
    (name,) = names["name"].to_pylist()
    return pa.Table.from_pylist(read_rows(storage.join(output, REPLACED, name)))


def _rewrite(
    replaced: pa.Table,
    output: str,
    generation: int,
    class_names: Sequence[str],
    formats: Collection[str],
) -> Iterator[dict[str, Any]]:
    outdated = defaultdict(set)
    for row in replaced.to_pylist():
        outdated[row["labeled_in"]].add(row["file"])
    for name, files in outdated.items():
        location = storage.join(output, name)
        # That of a chunk that could not be read may be deleted by now.
        if not storage.exists(location):
            continue
        rows = read_rows(location)
        kept = [row for row in rows if containing_file(row["image"]) not in files]
        removed = {row["image"] for row in rows} - {row["image"] for row in kept}
        if removed:
            tally = read_tally(location).recounted(kept)
            with stages.explain_write_errors(output):
                record_removed(output, generation, name, removed)
                write_labels(output, name, kept, tally, class_names, formats)
        yield stages.tally_batch(name)
