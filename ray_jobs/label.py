"""Images to a table of faces and the emotions that they seem to express.

1. Read: walk through the images and cut them into pieces.
2. Decode: fetch each image and turn it into a face of 48x48 pixels, or the reason why not.
3. Classify: probabilities, from one process a CPU that keeps the network in memory.
4. Write: rows to Parquet, a file at a time, and count them.
5. Finish: the picture, and the summary that makes the labels complete.
"""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from fer import labels, parts, storage
from fer.checkpoint import load_checkpoint
from fer.dataset import ROWS_PER_FILE
from fer.errors import InputError, JobError
from fer.images import ImageError, decode_image
from fer.labels import LABEL_SCHEMA, Labeller, LabelTally
from fer.predictor import resolve_checkpoint
from fer.sources import Piece, check_source, fetch_image, is_csv
from ray_jobs import cluster, stages
from ray_jobs.classify import DECODE_CPUS, classify
from ray_jobs.config import LabelConfig

DECODED_SCHEMA = pa.schema(
    [LABEL_SCHEMA.field(name) for name in ("image", "etag", "size_bytes", "width", "height")]
    + [("pixels", pa.binary()), ("status", pa.string()), ("error", pa.string())]
)
"""Faces that wait for the network; ``pixels`` is null where an image could not be read, and
``status`` where a file is no image."""


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
    cluster.claim_output(config, "summary.json", ("faces", "emotions.png"))
    cluster.connect()
    labeller = Labeller(network.class_names, network.id, config.detector, config.min_confidence)
    with cluster.sentences():
        tally = _write_rows(config, labeller)
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


def _write_rows(config: LabelConfig, labeller: Labeller) -> LabelTally:
    tally = LabelTally()
    with cluster.progress("Labelling", "images", config.limit) as advance:
        for part in _parts(config, labeller):
            tally.add(part)
            advance(tally.images, failed=tally.failed)
    return tally


def _parts(config: LabelConfig, labeller: Labeller) -> Iterator[LabelTally]:
    """Read, decode, classify and write as one stream; yield what was counted a file at a time."""
    faces = stages.read([config.images], config.limit).map_batches(
        decode, batch_format="pyarrow", batch_size=None, num_cpus=DECODE_CPUS
    )
    counted = classify(faces, [config.checkpoint]).map_batches(
        partial(write, output=config.output, labeller=labeller),
        batch_format="pyarrow",
        batch_size=ROWS_PER_FILE,
        # A writer waits more than it computes, and another need keeps it apart.
        num_cpus=0,
    )
    yield from stages.tallies(counted)


def decode(pieces: pa.Table) -> pa.Table:
    """Decode images: a table of ``stages.PIECE_SCHEMA`` to one of ``DECODED_SCHEMA``."""
    rows = [_decode(Piece(**row)) for row in pieces.to_pylist()]
    return pa.Table.from_pylist(rows, DECODED_SCHEMA)


def _decode(piece: Piece) -> dict[str, Any]:
    row: dict[str, Any] = {"image": piece.source, "etag": piece.etag}
    if piece.kind == "rejected":
        return {**row, "status": "unreadable", "error": f"{piece.reason}."}
    if piece.kind != "image":
        return row
    row["size_bytes"] = piece.size_bytes
    try:
        image = decode_image(fetch_image(piece))
    except ImageError as error:
        return {**row, "status": error.status, "error": str(error)}
    except FileNotFoundError:
        return {**row, "status": "missing", "error": "The file was there when it was listed."}
    except OSError as error:
        return {**row, "status": "unreadable", "error": f"The file can't be read: {error}."}
    size = {"width": image.width, "height": image.height}
    return {**row, **size, "pixels": image.pixels.tobytes(), "status": "ok"}


def write(faces: pa.Table, output: str, labeller: Labeller) -> dict[str, np.ndarray]:
    """Write classified faces as rows of ``LABEL_SCHEMA`` to a file, and count them."""
    images = [face for face in faces.to_pylist() if face["status"] is not None]
    tally = LabelTally(images=len(images), ignored=len(faces) - len(images))
    if images:
        rows = [labeller.row(image, image.pop("probs_0")) for image in images]
        tally.statuses = Counter(row["status"] for row in rows)
        tally.emotions = Counter(row["emotion"] for row in rows if row.get("emotion"))
        table = pa.Table.from_pylist(rows, LABEL_SCHEMA)
        tally.files.add(parts.write_part(output, "faces", table, key="image"))
    return stages.tally_batch(tally)


def _finish(
    tally: LabelTally, config: LabelConfig, labeller: Labeller, seconds: float
) -> dict[str, Any]:
    """Drop what a lost worker wrote in vain, draw the picture, and write the summary last."""
    from fer.reports import figures  # noqa: PLC0415 - every worker would wait for it

    parts.keep_only(config.output, ("faces",), tally.files)
    emotions = {name: tally.emotions[name] for name in labeller.class_names}
    picture = figures.emotion_counts(emotions, dict(tally.statuses))
    storage.write_bytes(storage.join(config.output, "emotions.png"), picture)
    result = {
        "output": config.output,
        "images": tally.images,
        "faces": tally.faces,
        "failed": tally.failed,
        "images_per_second": round(tally.images / seconds, 1),
        "seconds": round(seconds, 2),
    }
    summary = {
        "schema_version": labels.SCHEMA_VERSION,
        **result,
        "statuses": {status: tally.statuses[status] for status in labels.STATUSES},
        "emotions": emotions,
        "ignored_files": tally.ignored,
        "class_names": list(labeller.class_names),
        "model": labeller.model,
        "detector": labeller.detector,
        "config": dataclasses.asdict(config),
    }
    content = json.dumps(summary, indent=2).encode()
    storage.write_bytes(storage.join(config.output, "summary.json"), content)
    return result
