"""The stage that detects the faces in images and in frames of videos."""

import time
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.data.fetching import fetch_ahead
from fer.data.items import SourceItem
from fer.labels.schema import LABEL_SCHEMA
from fer.vision.animation import ANIMATED_SUFFIXES
from ray_jobs.cluster import isolation
from ray_jobs.labeling import chunks
from ray_jobs.labeling.images import IGNORED, Detection, detect_in_image, not_fetched
from ray_jobs.labeling.labeling import Labeling
from ray_jobs.labeling.videos import detect_in_animation, detect_in_video, undecodable
from ray_jobs.pipeline import stages

NUM_SAMPLE_IMAGES = 64
"""Approximate number of images in each chunk that get thumbnails."""

FACE = pa.struct(
    [
        *((name, LABEL_SCHEMA.field(name).type) for name in ("box", "detection_score")),
        ("thumbnail", pa.binary()),
    ]
)
_IMAGE_COLUMNS = ("image", "etag", "size_bytes", "frame", "time_seconds", "width", "height")

DETECTED_SCHEMA = pa.schema(
    [LABEL_SCHEMA.field(name) for name in _IMAGE_COLUMNS]
    + [
        ("status", pa.string()),
        ("error", pa.string()),
        ("faces", pa.list_(FACE)),
        ("crops", pa.list_(pa.binary())),
        ("seconds", pa.float32()),
    ]
)
"""Images, and frames of videos, with their detected faces. One row holds all faces of an image, so
they stay together.

``crops`` has the bytes of one crop, row by row, for each entry of ``faces``. Both are null if the
image could not be read. ``error`` says why, or what an image that was used lacks. ``status`` is
``ignored`` for a file that is not an image. Some faces have a ``thumbnail`` for the report.
``seconds`` is the time that the image took.
"""


DETECT_CPUS = {"none": 0.25, "yunet": 0.5}
"""CPUs that a task of detection reserves, by detector. More tasks than CPUs read while others
compute."""


def detect_faces(opened: ray.data.Dataset, labeling: Labeling) -> ray.data.Dataset:
    """Replace the items of each chunk by images with their faces, rows of ``DETECTED_SCHEMA``.

    Args:
        opened: The chunks, as ``chunks.open_chunks`` returns them.
        labeling: How faces are detected, and where the worklist is.
    """
    return opened.map_batches(
        partial(_detect_in_chunks, labeling=labeling),
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=DETECT_CPUS["yunet" if labeling.detection.weights else "none"],
    )


def _detect_in_chunks(opened: pa.Table, labeling: Labeling) -> pa.Table:
    detected = [
        stages.pack(detect_in_items(chunks.items_of(row, labeling.output), labeling.detection))
        for row in opened.to_pylist()
    ]
    return pa.table({"chunk": opened["chunk"], "table": pa.array(detected, pa.large_binary())})


def detect_in_items(items: pa.Table, detection: Detection) -> pa.Table:
    """Turn a table of ``stages.ITEM_SCHEMA`` into one of ``DETECTED_SCHEMA``.

    Args:
        items: The images, and items that are not images.
        detection: How faces are detected.
    """
    rows, sample_every = [], max(1, len(items) // NUM_SAMPLE_IMAGES)
    listed = (SourceItem(**row) for row in items.to_pylist())
    is_suspect = isolation.is_poison_suspect()
    detect = _detect_isolated if is_suspect else _detect
    start = time.perf_counter()
    for number, item in enumerate(listed if is_suspect else fetch_ahead(listed)):
        found = detect(detection, number % sample_every == 0, item)
        shared = {"image": storage.strip_access_mode(item.source), "etag": item.etag}
        end = time.perf_counter()
        seconds = (end - start) / max(1, len(found))
        rows += [{**shared, **columns, "seconds": seconds} for columns in found]
        start = end
    return pa.Table.from_pylist(rows, DETECTED_SCHEMA)


def _detect(detection: Detection, with_thumbnails: bool, item: SourceItem) -> list[dict[str, Any]]:
    """Return the columns of an image, or of each frame of a video."""
    if item.kind == "video":
        return detect_in_video(detection, item)
    if item.kind == "rejected":
        return [{"status": "unreadable", "error": _sentence(item)}]
    if item.kind not in ("image", "unknown"):
        return [{"status": IGNORED}]
    if detection.animations and item.source.lower().endswith(ANIMATED_SUFFIXES):
        return detect_in_animation(detection, with_thumbnails, item)
    return [detect_in_image(detection, with_thumbnails, item)]


def _detect_isolated(
    detection: Detection, with_thumbnails: bool, item: SourceItem
) -> list[dict[str, Any]]:
    """Do the same as ``_detect``, and survive a file that crashes the process that reads it."""
    try:
        return list(isolation.run_isolated(_detect, detection, with_thumbnails, item))
    except ChildProcessError as error:
        if item.frames:
            return undecodable(item, error)
        return [not_fetched(item, "unreadable", f"The file can't be read: {error}.")]


def _sentence(rejected: SourceItem) -> str:
    """Return why an item was rejected as a sentence about its file, row or archive member."""
    return f"{storage.base_name(rejected.source)} {rejected.reason}."
