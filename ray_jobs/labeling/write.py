"""The stage that writes labels, a file a chunk, and reads what the files tell of themselves.

It does without torch and matplotlib, which each of its processes would wait for.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from fer import storage
from fer.labels.files import SUFFIX, read_tally, write_labels
from fer.labels.schema import Labeler
from fer.labels.tally import LabelTally
from fer.storage import listing
from ray_jobs.cluster import session
from ray_jobs.labeling.detect import IGNORED
from ray_jobs.pipeline import stages

FACES = "faces"
"""Folder of the files of labels."""


def write_chunks(
    classified: ray.data.Dataset, output: str, labeler: Labeler, formats: Collection[str]
) -> ray.data.Dataset:
    """Write each chunk to a file of its name, all or nothing; return what was counted of each.

    Args:
        classified: Rows of ``chunk``, a name, and ``table``, a packed table of images.
        output: Where the labels are.
        labeler: Makes rows of probabilities.
        formats: What the rows are written in besides Parquet.
    """
    return classified.map_batches(
        partial(write_chunk, output=output, labeler=labeler, formats=formats),
        batch_format="pyarrow",
        batch_size=1,
        # A writer waits more than it computes, and another need keeps it apart.
        num_cpus=0,
        **session.avoid_head(),
    )


def write_chunk(
    chunk: pa.Table, output: str, labeler: Labeler, formats: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Write a classified chunk as rows of ``LABEL_SCHEMA`` to its file, and count them.

    A file holds what was counted of it, for the run that goes on after this one.
    """
    name, seen = chunk["chunk"][0].as_py(), stages.unpack(chunk["table"][0].as_py())
    images = [image for image in seen.to_pylist() if image["status"] != IGNORED]
    file = f"{FACES}/{name}{SUFFIX}"
    tally = LabelTally(len(images), ignored=len(seen) - len(images), files={file})
    rows = [row for image in images for row in _rows(image, labeler, tally)]
    tally = tally.limited()
    with stages.explain_write_errors(output):
        write_labels(output, file, rows, tally, labeler.class_names, formats)
    return stages.tally_batch(tally)


def _rows(image: dict[str, Any], labeler: Labeler, tally: LabelTally) -> list[dict[str, Any]]:
    """Return the rows of an image, and count them."""
    tally.slowest.append((image.pop("seconds"), image["image"]))
    thumbnails = [face.pop("thumbnail") for face in image["faces"] or ()] or [None]
    rows = labeler.rows(image, image.pop("probs_0"))
    for row, thumbnail in zip(rows, thumbnails, strict=True):
        tally.count(row, thumbnail)
    return rows


NUM_WITH_EXHIBITS = 256
"""Chunks of another run whose faces the report may choose from: of all, memory is too small."""


def read_tallies(output: str) -> dict[str, LabelTally]:
    """Return what was counted of the chunks that have files, by their names."""
    # Their names are digests: the first are any of them.
    names = sorted(listing.child_names(storage.join(output, FACES)))
    if not names:
        return {}
    rows = [
        {"name": name, "is_shown": number < NUM_WITH_EXHIBITS} for number, name in enumerate(names)
    ]
    read = ray.data.from_items(rows).map_batches(
        partial(_read_tallies, output=output), batch_format="numpy", batch_size=64, num_cpus=0.25
    )
    return {chunk_name(part): part for part in stages.tallies(read)}


def chunk_name(tally: LabelTally) -> str:
    """Return the name of the chunk that was counted."""
    (file,) = tally.files
    return storage.base_name(file).removesuffix(SUFFIX)


def _read_tallies(files: dict[str, np.ndarray], output: str) -> dict[str, np.ndarray]:
    told = np.empty(len(files["name"]), object)
    for row, name in enumerate(map(str, files["name"])):
        told[row] = read_tally(storage.join(output, FACES, name))
        if not files["is_shown"][row]:
            told[row].samples.clear()
    return {"tally": told}
