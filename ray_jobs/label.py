"""Images to a table of faces and the emotions that they seem to express.

1. Read: walk through the images and cut them into pieces.
2. Look: fetch each image, find its faces and cut them out, or say why not.
3. Classify: probabilities, from one process a CPU that keeps the network in memory.
4. Write: rows to Parquet, a file at a time, and count them.
5. Finish: the report, and the summary that makes the labels complete.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from fer import labels, parts, storage
from fer.checkpoint import load_checkpoint
from fer.dataset import ROWS_PER_FILE
from fer.errors import InputError, JobError
from fer.faces import (
    FaceDetector,
    detector_id,
    detector_weights,
    draw_thumbnail,
    encode_jpeg,
)
from fer.images import ImageError, decode_image, decode_photo
from fer.labels import LABEL_SCHEMA, Labeller, LabelTally
from fer.predictor import resolve_checkpoint
from fer.sources import Piece, check_source, fetch_image, is_csv
from ray_jobs import cluster, stages
from ray_jobs.classify import classify
from ray_jobs.config import LabelConfig

FACE = pa.struct(
    [
        *((name, LABEL_SCHEMA.field(name).type) for name in ("box", "detection_score")),
        ("thumbnail", pa.binary()),
    ]
)
SEEN_SCHEMA = pa.schema(
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

SIDES = ("x", "y", "width", "height")

NUM_SHOWN, NUM_FACES_SHOWN = 64, 4
"""The report may choose from about so many images of each block, and from so many faces of each."""

CPUS = {"none": (0.25, 0.75), "yunet": (0.5, 0.5)}
"""What looking and classifying reserve by detector: about what each takes of a CPU."""


def run(config: LabelConfig) -> dict[str, Any]:
    """Label images.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The images, the checkpoint or the output is not as it must be.
        JobError: There is no image.
    """
    start = time.monotonic()
    config = cluster.resolve_locations(config)
    network = load_checkpoint(resolve_checkpoint(config.checkpoint))
    _check_images(config.images)
    weights = detector_weights(config.detector_weights) if config.detector != "none" else None
    cluster.claim_output(config, "summary.json", ("faces", "emotions.png", "report.html"))
    cluster.connect()
    labeller = Labeller(
        network.class_names, network.id, detector_id(weights), config.min_confidence
    )
    with cluster.sentences():
        tally = _write_rows(config, labeller, weights)
    if not tally.images:
        raise JobError(f"No image was found in {config.images}.")
    return _finish(tally, config, labeller, time.monotonic() - start)


def _check_images(images: str) -> None:
    check_source(images)
    if is_csv(images):
        raise InputError(
            f"{images} is a table: expected a folder, an archive or an image file; `fer ingest` "
            "reads FER2013's CSV files."
        )


def _write_rows(config: LabelConfig, labeller: Labeller, weights: bytes | None) -> LabelTally:
    tally = LabelTally()
    with cluster.progress("Labelling", "images", config.limit) as advance:
        for part in _parts(config, labeller, weights):
            tally.add(part)
            advance(tally.images, faces=f"{tally.faces:,}", failed=tally.failed)
    return tally


def _parts(config: LabelConfig, labeller: Labeller, weights: bytes | None) -> Iterator[LabelTally]:
    """Read, look, classify and write as one stream; yield what was counted a file at a time."""
    look_cpus, classify_cpus = CPUS[config.detector]
    seen = stages.read([config.images], config.limit).map_batches(
        partial(look, weights=weights, min_face_size=config.min_face_size),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=look_cpus,
    )
    classified = classify(seen, [config.checkpoint], engine=config.engine, num_cpus=classify_cpus)
    counted = classified.map_batches(
        partial(write, output=config.output, labeller=labeller),
        batch_format="pyarrow",
        batch_size=ROWS_PER_FILE,
        # A writer waits more than it computes, and another need keeps it apart.
        num_cpus=0,
    )
    yield from stages.tallies(counted)


def look(pieces: pa.Table, weights: bytes | None, min_face_size: float) -> pa.Table:
    """Find the faces of images: a table of ``stages.PIECE_SCHEMA`` to one of ``SEEN_SCHEMA``.

    Args:
        pieces: The images.
        weights: YuNet's; None takes each image as one face.
        min_face_size: Faces that are narrower, in pixels of the photograph, are left out.
    """
    detector = FaceDetector(weights, min_face_size) if weights else None
    rows, every = [], max(1, len(pieces) // NUM_SHOWN)
    for number, piece in enumerate(pieces.to_pylist()):
        start = time.perf_counter()
        row = _look(Piece(**piece), detector, with_thumbnails=number % every == 0)
        rows.append({**row, "seconds": time.perf_counter() - start})
    return pa.Table.from_pylist(rows, SEEN_SCHEMA)


def _look(piece: Piece, detector: FaceDetector | None, *, with_thumbnails: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"image": piece.source, "etag": piece.etag}
    if piece.kind == "rejected":
        return {**row, "status": "unreadable", "error": f"{piece.reason}."}
    if piece.kind != "image":
        return {**row, "status": IGNORED}
    seen = _see(piece, detector, with_thumbnails)
    return {**row, "size_bytes": piece.size_bytes, **seen}


def _see(piece: Piece, detector: FaceDetector | None, with_thumbnails: bool) -> dict[str, Any]:
    """Return what is seen in an image, or why it can't be used."""
    try:
        data = fetch_image(piece)
        if detector is None:
            return _crop_of(data, with_thumbnails)
        return _faces_of(data, detector, with_thumbnails)
    except ImageError as error:
        return {"status": error.status, "error": str(error)}
    except FileNotFoundError:
        return {"status": "missing", "error": "The file was there when it was listed."}
    except OSError as error:
        return {"status": "unreadable", "error": f"The file can't be read: {error}."}


def _crop_of(data: bytes, with_thumbnail: bool) -> dict[str, Any]:
    image = decode_image(data)
    face = {"thumbnail": encode_jpeg(image.pixels)} if with_thumbnail else {}
    size = {"width": image.width, "height": image.height}
    return {**size, "faces": [face], "crops": [image.pixels.tobytes()]}


def _faces_of(data: bytes, detector: FaceDetector, with_thumbnails: bool) -> dict[str, Any]:
    photo = decode_photo(data)
    found = detector.find(photo)
    shown = NUM_FACES_SHOWN if with_thumbnails else 0
    faces = [
        {
            "box": dict(zip(SIDES, face.box.tolist(), strict=True)),
            "detection_score": face.score,
            "thumbnail": draw_thumbnail(photo, face) if number < shown else None,
        }
        for number, face in enumerate(found)
    ]
    crops = [face.crop.tobytes() for face in found]
    return {"width": photo.width, "height": photo.height, "faces": faces, "crops": crops}


def write(classified: pa.Table, output: str, labeller: Labeller) -> dict[str, np.ndarray]:
    """Write classified images as rows of ``LABEL_SCHEMA`` to a file, and count them."""
    images = [image for image in classified.to_pylist() if image["status"] != IGNORED]
    tally = LabelTally(images=len(images), ignored=len(classified) - len(images))
    if not images:
        return stages.tally_batch(tally)
    table = []
    for image in images:
        tally.slowest.append((image.pop("seconds"), image["image"]))
        thumbnails = [face.pop("thumbnail") for face in image["faces"] or ()] or [None]
        rows = labeller.rows(image, image.pop("probs_0"))
        for row, thumbnail in zip(rows, thumbnails, strict=True):
            tally.count(row, thumbnail)
        table += rows
    rows_table = pa.Table.from_pylist(table, LABEL_SCHEMA)
    tally.files.add(parts.write_part(output, "faces", rows_table, key="image"))
    bounded = LabelTally()
    bounded.add(tally)
    return stages.tally_batch(bounded)


def _finish(
    tally: LabelTally, config: LabelConfig, labeller: Labeller, seconds: float
) -> dict[str, Any]:
    """Drop what a lost worker wrote in vain, write the report, and the summary last."""
    from fer.reports.labels import label_report  # noqa: PLC0415 - every worker would wait for it

    parts.keep_only(config.output, ("faces",), tally.files)
    result = {
        "output": config.output,
        "images": tally.images,
        "faces": tally.faces,
        "failed": tally.failed,
        "images_per_second": round(tally.images / seconds, 1),
        "report": storage.join(config.output, "report.html"),
        "seconds": round(seconds, 2),
    }
    summary = {
        "schema_version": labels.SCHEMA_VERSION,
        **result,
        "statuses": {status: tally.statuses[status] for status in labels.STATUSES},
        "emotions": {name: tally.emotions[name] for name in labeller.class_names},
        "cpu_hours_per_million": _num_cpus() * seconds / tally.images * 1e6 / 3600,
        "ignored_files": tally.ignored,
        "class_names": list(labeller.class_names),
        "model": labeller.model,
        "detector": labeller.detector,
        "config": dataclasses.asdict(config),
    }
    files = label_report(tally, labeller.class_names, summary)
    for name, content in {**files, "summary.json": json.dumps(summary, indent=2).encode()}.items():
        storage.write_bytes(storage.join(config.output, name), content)
    return result


def _num_cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1))
