"""The stage that writes labels, one file for each chunk, and reads the tallies of label files.

It does not import torch or matplotlib, so that its processes start quickly.
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
"""Folder of the label files in the output."""

NUM_WITH_SAMPLES = 256
"""Number of chunks of earlier runs whose sample faces are kept for the report.

The samples of all chunks might not fit in memory.
"""


def write_chunks(
    classified: ray.data.Dataset, output: str, labeler: Labeler, formats: Collection[str]
) -> ray.data.Dataset:
    """Write each chunk to the file of its name, completely or not at all, and return its tally.

    Args:
        classified: Rows of ``chunk``, a name, and ``table``, a packed table of images.
        output: Folder of the labels.
        labeler: Turns probabilities into rows of labels.
        formats: Formats to write in addition to Parquet.
    """
    return classified.map_batches(
        partial(write_chunk, output=output, labeler=labeler, formats=formats),
        batch_format="pyarrow",
        batch_size=1,
        # Writing mostly waits. A reservation that differs from that of the stage before also keeps
        # Ray Data from fusing the two.
        num_cpus=0,
        **session.avoid_head(),
    )


def write_chunk(
    chunk: pa.Table, output: str, labeler: Labeler, formats: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Write one classified chunk to its file, as rows of ``LABEL_SCHEMA``, and return its tally.

    The file also holds the tally, for a run that resumes this one.
    """
    name, detected = chunk["chunk"][0].as_py(), stages.unpack(chunk["table"][0].as_py())
    images = [image for image in detected.to_pylist() if image["status"] != IGNORED]
    file = f"{FACES}/{name}{SUFFIX}"
    tally = LabelTally(len(images), ignored=len(detected) - len(images), files={file})
    rows = [row for image in images for row in _rows(image, labeler, tally)]
    tally = tally.limited()
    with stages.explain_write_errors(output):
        write_labels(output, file, rows, tally, labeler.class_names, formats)
    return stages.tally_batch(tally)


def _rows(image: dict[str, Any], labeler: Labeler, tally: LabelTally) -> list[dict[str, Any]]:
    """Return the rows of an image and count them in the tally."""
    tally.slowest.append((image.pop("seconds"), image["image"]))
    thumbnails = [face.pop("thumbnail") for face in image["faces"] or ()] or [None]
    rows = labeler.rows(image, image.pop("probs_0"))
    for row, thumbnail in zip(rows, thumbnails, strict=True):
        tally.count(row, thumbnail)
    return rows


def read_tallies(output: str) -> dict[str, LabelTally]:
    """Return the tallies of the chunks that have files, by the names of the chunks."""
    # The names are digests, so the first of them are a random choice.
    names = sorted(listing.child_names(storage.join(output, FACES)))
    if not names:
        return {}
    rows = [
        {"name": name, "has_samples": number < NUM_WITH_SAMPLES}
        for number, name in enumerate(names)
    ]
    read = ray.data.from_items(rows).map_batches(
        partial(_read_tallies, output=output), batch_format="numpy", batch_size=64, num_cpus=0.25
    )
    return {chunk_name(tally): tally for tally in stages.tallies(read)}


def chunk_name(tally: LabelTally) -> str:
    """Return the name of the chunk that a tally belongs to."""
    (file,) = tally.files
    return storage.base_name(file).removesuffix(SUFFIX)


def _read_tallies(files: dict[str, np.ndarray], output: str) -> dict[str, np.ndarray]:
    tallies = np.empty(len(files["name"]), object)
    for row, name in enumerate(map(str, files["name"])):
        tallies[row] = read_tally(storage.join(output, FACES, name))
        if not files["has_samples"][row]:
            tallies[row].samples.clear()
    return {"tally": tallies}
