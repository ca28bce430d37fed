"""The stage that finds the faces of images, or says why there are none."""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.data.sources import SourceItem, fetch_image
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
"""Images that wait for the network, all faces of one in a row, so that nothing parts them.

``faces`` and ``crops``, of 2,304 bytes each, are null where an image could not be read; where a
file is no image at all, ``status`` is ``ignored``. Some faces have a ``thumbnail`` for the report.
"""

IGNORED = "ignored"

NUM_SHOWN, NUM_FACES_SHOWN = 64, 4
"""The report may choose from about so many images of each block, and from so many faces of each."""


def detect_faces(
    chunks: ray.data.Dataset, weights: bytes | None, min_face_size: float, num_cpus: float
) -> ray.data.Dataset:
    """Turn chunks of items into chunks of images, tables of ``DETECTED_SCHEMA``.

    Args:
        chunks: Rows of ``chunk``, a name, and ``table``, a packed table of items.
        weights: YuNet's; None takes each image as one face.
        min_face_size: Faces that are narrower, in pixels of the photograph, are left out.
        num_cpus: What each task reserves.
    """
    return chunks.map_batches(
        stages.on_packed_tables(partial(look, weights=weights, min_face_size=min_face_size)),
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=num_cpus,
    )


def look(items: pa.Table, weights: bytes | None, min_face_size: float) -> pa.Table:
    """Find the faces of images: a table of ``stages.ITEM_SCHEMA`` to one of ``DETECTED_SCHEMA``.

    Args:
        items: The images.
        weights: YuNet's; None takes each image as one face.
        min_face_size: Faces that are narrower, in pixels of the photograph, are left out.
    """
    see = _see_apart if isolation.is_poison_suspect() else _see
    rows, every = [], max(1, len(items) // NUM_SHOWN)
    for number, item in enumerate(items.to_pylist()):
        start = time.perf_counter()
        is_shown = number % every == 0
        row = _look(SourceItem(**item), partial(see, weights, min_face_size, is_shown))
        rows.append({**row, "seconds": time.perf_counter() - start})
    return pa.Table.from_pylist(rows, DETECTED_SCHEMA)


def _look(item: SourceItem, see: Callable[[SourceItem], dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image": storage.strip_access_mode(item.source),
        "etag": item.etag,
    }
    if item.kind == "rejected":
        return {**row, "status": "unreadable", "error": f"{item.reason}."}
    if item.kind != "image":
        return {**row, "status": IGNORED}
    return {**row, **see(item)}


def _see_apart(
    weights: bytes | None, min_face_size: float, with_thumbnails: bool, item: SourceItem
) -> dict[str, Any]:
    """Return what is seen in an image, even if it ends the process that looks at it."""
    try:
        return dict(isolation.run_isolated(_see, weights, min_face_size, with_thumbnails, item))
    except ChildProcessError as error:
        return _unfetched(item, "unreadable", f"The file can't be read: {error}.")


def _see(
    weights: bytes | None, min_face_size: float, with_thumbnails: bool, item: SourceItem
) -> dict[str, Any]:
    """Return what is seen in an image, or why it can't be used."""
    try:
        data = fetch_image(item)
    except ImageError as error:
        return {"size_bytes": item.size_bytes, "status": error.status, "error": str(error)}
    except FileNotFoundError:
        return _unfetched(item, "missing", "There is no such file, though it was listed.")
    except OSError as error:
        return _unfetched(
            item, "unreadable", f"The file can't be read: {storage.describe_error(error)}."
        )
    size = {"size_bytes": len(data)}
    try:
        if weights is None:
            return size | _crop_of(data, with_thumbnails)
        return size | _faces_of(data, _detector(weights, min_face_size), with_thumbnails)
    except ImageError as error:
        return {**size, "status": error.status, "error": str(error)}


@lru_cache(maxsize=1)
def _detector(weights: bytes, min_face_size: float) -> FaceDetector:
    return FaceDetector(weights, min_face_size)


def _unfetched(item: SourceItem, status: str, error: str) -> dict[str, Any]:
    """Tell of an image that was seen in no state: without an ETag, an update tries it again."""
    return {"size_bytes": item.size_bytes, "etag": None, "status": status, "error": error}


def _crop_of(data: bytes, with_thumbnail: bool) -> dict[str, Any]:
    image = decode_image(data)
    face = {"thumbnail": encode_jpeg(image.pixels)} if with_thumbnail else {}
    size = {"width": image.width, "height": image.height}
    return {**size, "faces": [face], "crops": [image.pixels.tobytes()]}


def _faces_of(data: bytes, detector: FaceDetector, with_thumbnails: bool) -> dict[str, Any]:
    photo = decode_photo(data)
    found = detector.detect(photo)
    shown = NUM_FACES_SHOWN if with_thumbnails else 0
    faces = [
        {
            "box": dict(zip(BOX_FIELDS, face.box.tolist(), strict=True)),
            "detection_score": face.score,
            "thumbnail": draw_thumbnail(photo, face) if number < shown else None,
        }
        for number, face in enumerate(found)
    ]
    crops = [face.crop.tobytes() for face in found]
    return {"width": photo.width, "height": photo.height, "faces": faces, "crops": crops}
