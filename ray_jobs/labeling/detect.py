"""The stage that detects the faces in images."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.data.sources import NotAnImageError, SourceItem, fetch_image
from fer.labels.schema import BOX_FIELDS, LABEL_SCHEMA
from fer.vision.decode import ImageError, decode_image, decode_photo
from fer.vision.detector import FaceDetector
from fer.vision.faces import draw_thumbnail, encode_jpeg
from ray_jobs.cluster import isolation
from ray_jobs.pipeline import stages

FACE = pa.struct(
    [
        *((name, LABEL_SCHEMA.field(name).type) for name in ("box", "detection_score")),
        ("thumbnail", pa.binary()),
    ]
)
DETECTED_SCHEMA = pa.schema(
    [LABEL_SCHEMA.field(name) for name in ("image", "etag", "size_bytes", "width", "height")]
    + [
        ("status", pa.string()),
        ("error", pa.string()),
        ("faces", pa.list_(FACE)),
        ("crops", pa.list_(pa.binary())),
        ("seconds", pa.float32()),
    ]
)
"""Images with their detected faces. One row holds all faces of an image, so they stay together.

``crops`` has one face of 2,304 bytes for each entry of ``faces``. Both are null if the image could
not be read. ``error`` says why, or what an image that was used lacks. ``status`` is ``ignored`` for
a file that is not an image. Some faces have a ``thumbnail`` for the report. ``seconds`` is the time
that the image took.
"""

IGNORED = "ignored"

NUM_SAMPLE_IMAGES, NUM_SAMPLE_FACES = 64, 4
"""Approximate number of images in each chunk, and largest number of faces in each of them, that get
a thumbnail."""


@dataclass(frozen=True)
class Detection:
    """How faces are detected.

    Attributes:
        weights: YuNet's weights; None takes each image as one face.
        min_face_size: Smallest width of a face, in pixels of the photograph.
        any_orientation: Whether photographs are searched turned, too.
    """

    weights: bytes | None
    min_face_size: float = 16.0
    any_orientation: bool = False


def detect_faces(
    chunks: ray.data.Dataset, detection: Detection, num_cpus: float
) -> ray.data.Dataset:
    """Replace the items in each chunk by images with their faces, rows of ``DETECTED_SCHEMA``.

    Args:
        chunks: Rows of ``chunk``, a name, and ``table``, a packed table of items.
        detection: How faces are detected.
        num_cpus: CPUs that each task reserves.
    """
    return chunks.map_batches(
        stages.on_packed_tables(partial(detect_in_items, detection=detection)),
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=num_cpus,
    )


def detect_in_items(items: pa.Table, detection: Detection) -> pa.Table:
    """Turn a table of ``stages.ITEM_SCHEMA`` into one of ``DETECTED_SCHEMA``.

    Args:
        items: The images, and items that are not images.
        detection: How faces are detected.
    """
    detect = _detect_isolated if isolation.is_poison_suspect() else _detect
    rows, sample_every = [], max(1, len(items) // NUM_SAMPLE_IMAGES)
    for number, item in enumerate(items.to_pylist()):
        start = time.perf_counter()
        with_thumbnails = number % sample_every == 0
        row = _to_row(SourceItem(**item), partial(detect, detection, with_thumbnails))
        rows.append({**row, "seconds": time.perf_counter() - start})
    return pa.Table.from_pylist(rows, DETECTED_SCHEMA)


def _to_row(item: SourceItem, detect: Callable[[SourceItem], dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image": storage.strip_access_mode(item.source),
        "etag": item.etag,
    }
    if item.kind == "rejected":
        return {**row, "status": "unreadable", "error": _sentence(item)}
    if item.kind not in ("image", "unknown"):
        return {**row, "status": IGNORED}
    return {**row, **detect(item)}


def _detect_isolated(
    detection: Detection, with_thumbnails: bool, item: SourceItem
) -> dict[str, Any]:
    """Do the same as ``_detect``, and survive an image that crashes the process that reads it."""
    try:
        return dict(isolation.run_isolated(_detect, detection, with_thumbnails, item))
    except ChildProcessError as error:
        return _not_fetched(item, "unreadable", f"The file can't be read: {error}.")


def _detect(detection: Detection, with_thumbnails: bool, item: SourceItem) -> dict[str, Any]:
    """Fetch an image and detect its faces.

    Returns:
        Columns of ``DETECTED_SCHEMA``: the faces, or the status and the error.
    """
    try:
        data = fetch_image(item)
    except (NotAnImageError, ImageError, OSError) as error:
        return _no_data(item, error)
    size = {"size_bytes": len(data)}
    try:
        if detection.weights is None:
            return size | _take_as_face(data, with_thumbnails)
        return size | _detect_in_photo(data, _detector(detection), with_thumbnails)
    except ImageError as error:
        return {**size, "status": error.status, "error": str(error)}


def _no_data(item: SourceItem, error: Exception) -> dict[str, Any]:
    """Return the columns of an item whose image can't be had."""
    if isinstance(error, NotAnImageError):
        return {"status": IGNORED}
    if isinstance(error, ImageError):
        return {"size_bytes": item.size_bytes, "status": error.status, "error": str(error)}
    if isinstance(error, FileNotFoundError):
        return _not_fetched(item, "missing", "The file no longer exists, although it was listed.")
    assert isinstance(error, OSError)
    reason = storage.describe_error(error)
    return _not_fetched(item, "unreadable", f"The file can't be read: {reason}.")


def _sentence(rejected: SourceItem) -> str:
    """Return why an item was rejected as a sentence about its file, row or archive member."""
    return f"{storage.base_name(rejected.source)} {rejected.reason}."


@lru_cache(maxsize=1)
def _detector(detection: Detection) -> FaceDetector:
    assert detection.weights is not None
    return FaceDetector(
        detection.weights, detection.min_face_size, any_orientation=detection.any_orientation
    )


def _not_fetched(item: SourceItem, status: str, error: str) -> dict[str, Any]:
    """Return the columns of an image that could not be fetched.

    It gets no ETag, so that an update tries it again.
    """
    return {"size_bytes": item.size_bytes, "etag": None, "status": status, "error": error}


def _take_as_face(data: bytes, with_thumbnail: bool) -> dict[str, Any]:
    image = decode_image(data)
    face = {"thumbnail": encode_jpeg(image.pixels)} if with_thumbnail else {}
    size = {"width": image.width, "height": image.height}
    return {**size, "error": image.note, "faces": [face], "crops": [image.pixels.tobytes()]}


def _detect_in_photo(data: bytes, detector: FaceDetector, with_thumbnails: bool) -> dict[str, Any]:
    photo = decode_photo(data)
    faces = detector.detect(photo)
    num_thumbnails = NUM_SAMPLE_FACES if with_thumbnails else 0
    columns = [
        {
            "box": dict(zip(BOX_FIELDS, face.box.tolist(), strict=True)),
            "detection_score": face.score,
            "thumbnail": draw_thumbnail(photo, face) if number < num_thumbnails else None,
        }
        for number, face in enumerate(faces)
    ]
    crops = [face.crop.tobytes() for face in faces]
    size = {"width": photo.width, "height": photo.height}
    return {**size, "error": photo.note, "faces": columns, "crops": crops}
