"""A source that has grown: what of it is new or changed, and which old rows that replaces.

A file is as it was labeled if its ETag is the one that its rows have, or if its listing, being a
manifest, knows of none. What could not be fetched is always tried again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.data.sources import containing_file
from fer.labels.files import read_rows, read_tally, write_labels
from fer.labels.schema import FAILED_STATUSES
from fer.labels.tally import LabelTally
from fer.storage import listing, parquet
from ray_jobs.pipeline import stages

REPLACED = "replaced"
"""Folder of what labeling makes stale: tables of ``file`` and ``labeled_in``."""

IMAGES_A_PARTITION = 200_000
"""Files, those listed and those labeled, that a task compares at once."""

COMPARED_SCHEMA = pa.schema(
    [*stages.ITEM_SCHEMA, ("file", pa.string()), ("labeled_in", pa.string())]
)
"""Items as they are listed, and as files of labels have them, which ``labeled_in`` names.

``file`` is what holds an item, itself or an archive, as labels name it.
"""


def select_unlabeled(
    listed: ray.data.Dataset, output: str, held: Mapping[str, LabelTally]
) -> ray.data.Dataset:
    """Return those rows of a listing whose files the labels do not have as they are now.

    What they replace is written down in the output.

    Args:
        listed: Rows of ``stages.ITEM_SCHEMA``, archives unopened.
        output: Where the labels are.
        held: What was counted of each of their files.
    """
    names = sorted(file for tally in held.values() for file in tally.files)
    labeled = (
        ray.data.from_arrow(pa.table({"file": names}))
        .repartition(target_num_rows_per_block=64)
        .map_batches(
            _labeled,
            fn_kwargs={"output": output},
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=0.25,
        )
    )
    # How much was listed decides in how many parts it is compared.
    listed = listed.materialize()
    num_files = listed.count() + sum(tally.images for tally in held.values())
    together = listed.map_batches(_compared, batch_format="pyarrow", num_cpus=0.25).union(labeled)
    # All rows of a file come to lie in one block, as groupby of Ray Data has it too.
    return together.repartition(1 + num_files // IMAGES_A_PARTITION, keys=["file"]).map_batches(
        _left, fn_kwargs={"output": output}, batch_format="pyarrow", batch_size=None, num_cpus=0.25
    )


def _compared(listed: pa.Table) -> pa.Table:
    rows = listed.to_pylist()
    for row in rows:
        row["file"] = containing_file(storage.strip_access_mode(row["source"]))
    return pa.Table.from_pylist(rows, COMPARED_SCHEMA)


def _labeled(files: pa.Table, output: str) -> Iterator[pa.Table]:
    for file in files["file"].to_pylist():
        rows = read_rows(storage.join(output, file), ["image", "etag", "status"])
        states = {(containing_file(row["image"]), _kind(row), row["etag"]) for row in rows}
        known = [
            {"kind": kind, "file": holder, "etag": etag, "labeled_in": file}
            for holder, kind, etag in states
        ]
        yield pa.Table.from_pylist(known, COMPARED_SCHEMA)


def _kind(row: dict[str, Any]) -> str:
    is_fetched = row["etag"] is not None or row["status"] not in FAILED_STATUSES
    return "image" if is_fetched else "rejected"


def _left(together: pa.Table, output: str) -> pa.Table:
    """Return the items that are to be labeled, and write down what they replace."""
    labeled = defaultdict(list)
    for row in (rows := together.to_pylist()):
        if row["labeled_in"]:
            labeled[row["file"]].append(row)
    items = [
        row
        for row in rows
        if not row["labeled_in"]
        and row["kind"] != "ignored"
        and not _is_labeled(row, labeled[row["file"]])
    ]
    replaced = [
        {name: old[name] for name in ("file", "labeled_in")}
        for item in items
        for old in labeled[item["file"]]
    ]
    if replaced:
        with stages.explain_write_errors(output):
            parquet.write_keyed_table(output, REPLACED, pa.Table.from_pylist(replaced), key="file")
    return pa.Table.from_pylist(items, stages.ITEM_SCHEMA)


def _is_labeled(item: dict[str, Any], labeled: list[dict[str, Any]]) -> bool:
    if not labeled or any(row["kind"] == "rejected" for row in labeled):
        return False
    return item["etag"] is None or {row["etag"] for row in labeled} == {item["etag"]}


def drop_replaced(
    output: str, class_names: Sequence[str], formats: Collection[str]
) -> Iterator[LabelTally]:
    """Take the stale rows out of the files of labels; yield what is counted of each such file.

    Args:
        output: Where the labels are.
        class_names: Name of each of their probabilities.
        formats: What they are written in besides.
    """
    names = sorted(listing.child_names(storage.join(output, REPLACED)))
    if not names:
        return
    replaced = (
        ray.data.from_arrow(pa.table({"name": names}))
        .map_batches(_read, fn_kwargs={"output": output}, batch_format="pyarrow", batch_size=1)
        .repartition(len(names), keys=["labeled_in"])
        .map_batches(
            _rewrite,
            fn_kwargs={"output": output, "class_names": class_names, "formats": formats},
            batch_format="pyarrow",
            batch_size=None,
        )
    )
    yield from stages.tallies(replaced)


def _read(names: pa.Table, output: str) -> pa.Table:
    (name,) = names["name"].to_pylist()
    return pa.Table.from_pylist(read_rows(storage.join(output, REPLACED, name)))


def _rewrite(
    replaced: pa.Table, output: str, class_names: Sequence[str], formats: Collection[str]
) -> Iterator[dict[str, Any]]:
    stale = defaultdict(set)
    for row in replaced.to_pylist():
        stale[row["labeled_in"]].add(row["file"])
    for name, files in stale.items():
        location = storage.join(output, name)
        rows = [row for row in read_rows(location) if containing_file(row["image"]) not in files]
        tally = read_tally(location).recounted(rows)
        with stages.explain_write_errors(output):
            write_labels(output, name, rows, tally, class_names, formats)
        yield stages.tally_batch(tally)
