"""The stage that writes labels, one file for each chunk, and reads the tallies of label files.

It does not import torch or matplotlib, so that its processes start quickly.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from fer import storage
from fer.data.kinds import ending
from fer.labels.chunks import UNREAD
from fer.labels.files import SUFFIX, read_tally, write_labels
from fer.labels.schema import FAILED_STATUSES, Labeler, is_of_video
from fer.labels.tally import LabelTally, SampleFace
from fer.labels.turns import choose_turn_faces
from fer.storage import listing
from ray_jobs.cluster import metrics, session
from ray_jobs.labeling.images import IGNORED
from ray_jobs.labeling.videos import is_first_part
from ray_jobs.pipeline import stages

FACES = "faces"
"""Folder of the label files in the output."""

NUM_READ_TOGETHER = 64
"""Number of files of earlier runs whose tallies one task reads and adds up."""

NUM_WITH_SAMPLES = 256
"""Number of chunks of earlier runs whose sample faces are kept for the report.

The samples of all chunks might not fit in memory.
"""


def write_chunks(
    classified: ray.data.Dataset, output: str, labeler: Labeler, formats: Collection[str]
) -> ray.data.Dataset:
    """Write each chunk to the file of its name, completely or not at all; rows become ``Written``.

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
    """Write one classified chunk to its file and return a ``Written``, as one stage of several."""
    name, classified = chunk["chunk"][0].as_py(), stages.unpack(chunk["table"][0].as_py())
    return stages.tally_batch(write_images(name, classified, output, labeler, formats))


def write_images(
    name: str, classified: pa.Table, output: str, labeler: Labeler, formats: Collection[str] = ()
) -> "Written":
    """Write the classified images of a chunk to its file, as rows of ``LABEL_SCHEMA``.

    The file also holds the tally, for a run that resumes this one.
    """
    found = classified.to_pylist()
    seconds = {
        "detect": sum(image["seconds"] for image in found),
        "classify": sum(image.pop("classify_seconds") for image in found),
    }
    images = [image for image in found if image["status"] != IGNORED]
    ignored = Counter(ending(file["image"]) for file in found if file["status"] == IGNORED)
    file = file_of_chunk(name)
    num_frames = sum(image["frame"] is not None for image in images)
    tally = LabelTally(len(images), ignored=ignored, files={file}, frames=num_frames)
    tally.videos |= {file} if any(map(is_of_video, images)) else set()
    rows, thumbnails = _rows(images, labeler, tally)
    tally.turn_faces = choose_turn_faces(rows, thumbnails, labeler.class_names)
    tally, start = tally.limited(), time.perf_counter()
    with stages.explain_write_errors(output):
        write_labels(output, file, rows, tally, labeler.class_names, formats)
    seconds["write"] = time.perf_counter() - start
    # A video has a row for each frame, and each chunk of a long one would count it anew.
    sizes = {image["image"]: image["size_bytes"] or 0 for image in images}
    size_bytes = sum(sizes.values()) if is_first_part(name) else 0
    # They are read from the file again, with those of the video's other files.
    tally.turn_faces.clear()
    return Written(tally, seconds, size_bytes, _sample(rows, labeler))


def _sample(rows: list[dict[str, Any]], labeler: Labeler) -> list[tuple[str, float]]:
    """Return the most probable emotion and its probability, for some of the faces."""
    faces = [row["probabilities"] for row in rows if row.get("probabilities")]
    sample = faces[:: metrics.stride(len(faces))]
    return [(labeler.class_names[int(np.argmax(probs))], max(probs)) for probs in sample]


def _rows(
    images: Sequence[dict[str, Any]], labeler: Labeler, tally: LabelTally
) -> tuple[list[dict[str, Any]], list[bytes | None]]:
    """Return the rows of images and the thumbnail of each, and count them in the tally."""
    rows: list[dict[str, Any]] = []
    thumbnails: list[bytes | None] = []
    for image in images:
        tally.slowest.append((image.pop("seconds"), image["image"]))
        thumbnails += [face.pop("thumbnail") for face in image["faces"] or ()] or [None]
        rows += labeler.rows(image, image.pop("probs_0"))
    for row, thumbnail in zip(rows, thumbnails, strict=True):
        sample = SampleFace.of(row, thumbnail, labeler.class_names) if thumbnail else None
        tally.count(row, sample)
    return rows, thumbnails


@dataclass(frozen=True)
class Written:
    """What became of a chunk, and what it took.

    Attributes:
        tally: Tally of its rows.
        seconds: Seconds that each stage took.
        size_bytes: Size of its image files. A long video counts in its first chunk alone.
        sample: Emotion and confidence of some of its faces.
    """

    tally: LabelTally
    seconds: dict[str, float]
    size_bytes: int
    sample: list[tuple[str, float]]

    def record(self) -> None:
        """Add the chunk to the job's metrics."""
        metrics.LABEL_IMAGES.add(self.tally.images)
        metrics.LABEL_FACES.add(self.tally.faces)
        metrics.LABEL_BYTES.add(self.size_bytes)
        metrics.LABEL_CHUNKS.observe(self.tally.images)
        for status in FAILED_STATUSES:
            metrics.LABEL_FAILURES.add(self.tally.statuses[status], status=status)
        for stage, seconds in self.seconds.items():
            metrics.LABEL_SECONDS.add(seconds, stage=stage)
        metrics.observe_confidences(metrics.LABEL_CONFIDENCE, self.sample)


@dataclass
class Labeled:
    """What earlier runs labeled: names and counts of chunks, and one tally of them all.

    The tallies of single chunks are not kept: those of a billion images would fill gigabytes.

    Attributes:
        images: Number of images in each chunk that has a file, by the name of the chunk.
        tally: Tally of all these chunks, without the names of their files.
    """

    images: dict[str, int] = field(default_factory=dict)
    tally: LabelTally = field(default_factory=LabelTally)

    def add(self, other: "Labeled") -> None:
        """Add other chunks to these."""
        self.images |= other.images
        self.tally.add(other.tally)


def file_of_chunk(name: str) -> str:
    """Return the name of a chunk's file in the output."""
    return f"{FACES}/{name}{SUFFIX}"


def is_unread(file: str) -> bool:
    """Tell whether a label file is that of a chunk that can't be read for the moment."""
    return file.removesuffix(SUFFIX).endswith(UNREAD)


def delete_unread(output: str, committed: Collection[str]) -> None:
    """Delete the label files of what could not be read by a run that is resumed: it tries again.

    Args:
        output: Folder of the labels.
        committed: Names of the label files that earlier runs have committed. Only an update
            replaces their rows.
    """
    for name in filter(is_unread, listing.child_names(storage.join(output, FACES))):
        if f"{FACES}/{name}" not in committed:
            storage.delete(storage.join(output, FACES, name))


def read_labeled(output: str, names: Iterable[str] | None = None) -> Labeled:
    """Read what the chunks that have files hold.

    Args:
        output: Folder of the labels.
        names: Names of the chunks; by default all that have files.
    """
    if names is None:
        files = listing.child_names(storage.join(output, FACES))
        names = (file.removesuffix(SUFFIX) for file in files)
    # The names are digests, so the first of them are a random choice.
    ordered = sorted(names)
    labeled = Labeled()
    if ordered:
        blocks = [
            pa.table({"name": ordered[start : start + NUM_READ_TOGETHER]})
            for start in range(0, len(ordered), NUM_READ_TOGETHER)
        ]
        with_samples = frozenset(ordered[:NUM_WITH_SAMPLES])
        read = ray.data.from_blocks(blocks).map_batches(
            partial(_read_labeled, output=output, with_samples=with_samples),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=0.25,
        )
        for block in stages.tallies(read):
            labeled.add(block)
    return labeled


def _read_labeled(
    block: pa.Table, output: str, with_samples: Collection[str]
) -> dict[str, np.ndarray]:
    labeled = Labeled()
    for name in block["name"].to_pylist():
        tally = read_tally(storage.join(output, file_of_chunk(name)))
        tally.files.clear()
        if name not in with_samples:
            tally.samples.clear()
        labeled.add(Labeled({name: tally.images}, tally))
    return stages.tally_batch(labeled)
