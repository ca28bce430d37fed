"""Images to a table of faces and the emotions that they seem to express.

1. List: all images, cut into chunks, into a manifest.
2. Look: fetch the images of each chunk that has no file, find their faces, cut them out.
3. Classify: probabilities, from one process a CPU that keeps the network in memory.
4. Write: the rows of a chunk to a file of its name, all or nothing, and count them.
5. Finish: the report, and the summary that makes the labels complete.

Whatever is lost on the way, a chunk is labelled again and its file takes the place of itself.
"""

import dataclasses
import json
import time
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from fer import labels, parts, storage
from fer.checkpoint import load_checkpoint
from fer.errors import InputError, JobError
from fer.faces import FaceDetector, detector_id, detector_weights
from fer.labels import LABEL_SCHEMA, Labeller, LabelTally
from fer.predictor import resolve_checkpoint
from fer.sources import check_source, is_csv
from ray_jobs import cluster, manifest, stages
from ray_jobs.classify import ChunkClassifier, classify
from ray_jobs.config import LabelConfig
from ray_jobs.looking import IGNORED, look_at

SUMMARY, FACES, TALLY = "summary.json", "faces", b"tally"
PARTS = (FACES, manifest.FOLDER, manifest.COMPLETE, "emotions.png", "report.html")

MAY_CHANGE = frozenset(
    ("output", "checkpoint", "detector_weights", "engine", "resume", "overwrite")
)
"""Flags that may differ when labelling is resumed; the others, the network and the detector fix
what the rows say, and the manifest which images there are."""

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
    if weights:
        FaceDetector(weights)
    named = {"model": network.id, "detector": detector_id(weights)}
    cluster.claim_or_resume(
        config, SUMMARY, PARTS, begun=manifest.FOLDER, may_change=MAY_CHANGE, made_from=named
    )
    finished = storage.join(config.output, SUMMARY)
    if storage.exists(finished):
        return dict(json.loads(storage.read_bytes(finished))["result"])
    cluster.connect()
    labeller = Labeller(network.class_names, min_confidence=config.min_confidence, **named)
    with cluster.sentences():
        manifest.make(config.images, config.output, config.limit)
        done = _done(config.output)
        tally = _label(config, labeller, weights, done)
    labelled = tally.images
    for part in done.values():
        tally.add(part)
    if not tally.images:
        raise JobError(f"No image was found in {config.images}.")
    return _finish(tally, config, labeller, labelled, time.monotonic() - start)


def _check_images(images: str) -> None:
    check_source(images)
    if is_csv(images):
        raise InputError(
            f"{images} is a table: expected a folder, an archive or an image file; `fer ingest` "
            "reads FER2013's CSV files."
        )


def _label(
    config: LabelConfig, labeller: Labeller, weights: bytes | None, done: Mapping[str, LabelTally]
) -> LabelTally:
    """Label what has no file yet, and return what was counted of it."""
    tally, total = LabelTally(), manifest.count_images(config.output)
    already = sum(part.images for part in done.values())
    with cluster.progress("Labelling", "images", total and total - already) as advance:
        for part in _parts(config, labeller, weights, done):
            tally.add(part)
            advance(tally.images, faces=f"{tally.faces:,}", failed=tally.failed)
    return tally


def _done(output: str) -> dict[str, LabelTally]:
    """Return what was counted of the chunks that have files, by their names."""
    names = sorted(storage.names(storage.join(output, FACES)))
    if not names:
        return {}
    read = ray.data.from_items([{"name": name} for name in names]).map_batches(
        partial(_read_tally, output=output), batch_format="numpy", batch_size=64, num_cpus=0.25
    )
    return {_chunk_of(part): part for part in stages.tallies(read)}


def _chunk_of(tally: LabelTally) -> str:
    (file,) = tally.files
    return storage.name(file).removesuffix(manifest.SUFFIX)


def _read_tally(files: dict[str, np.ndarray], output: str) -> dict[str, np.ndarray]:
    told = np.empty(len(files["name"]), object)
    for row, name in enumerate(map(str, files["name"])):
        store, path = storage.filesystem(storage.join(output, FACES, name))
        with store.open_input_file(path) as file:
            metadata = pq.read_schema(file).metadata
        told[row] = LabelTally.from_json(metadata[TALLY])
    return {"tally": told}


def _parts(
    config: LabelConfig, labeller: Labeller, weights: bytes | None, done: Collection[str]
) -> Iterator[LabelTally]:
    """Look, classify and write as one stream; yield what was counted of each chunk."""
    look_cpus, classify_cpus = CPUS[config.detector]
    chunks = manifest.chunks(config.output, done, config.limit)
    seen = look_at(chunks, weights, config.min_face_size, look_cpus)
    classified = classify(
        seen,
        [config.checkpoint],
        classifier=ChunkClassifier,
        batch_size=1,
        engine=config.engine,
        num_cpus=classify_cpus,
    )
    written = classified.map_batches(
        partial(write, output=config.output, labeller=labeller),
        batch_format="pyarrow",
        batch_size=1,
        # A writer waits more than it computes, and another need keeps it apart.
        num_cpus=0,
    )
    yield from stages.tallies(written)


def write(chunk: pa.Table, output: str, labeller: Labeller) -> dict[str, np.ndarray]:
    """Write a classified chunk as rows of ``LABEL_SCHEMA`` to its file, and count them.

    A file holds what was counted of it, for the run that goes on after this one.
    """
    name, seen = chunk["chunk"][0].as_py(), stages.unpack(chunk["table"][0].as_py())
    images = [image for image in seen.to_pylist() if image["status"] != IGNORED]
    file = f"{FACES}/{name}{manifest.SUFFIX}"
    tally = LabelTally(len(images), ignored=len(seen) - len(images), files={file})
    rows = [row for image in images for row in _rows(image, labeller, tally)]
    tally = tally.trimmed()
    table = pa.Table.from_pylist(rows, LABEL_SCHEMA)
    known = {**LABEL_SCHEMA.metadata, TALLY: tally.to_json().encode()}
    parts.write_table(storage.join(output, file), table.replace_schema_metadata(known))
    return stages.tally_batch(tally)


def _rows(image: dict[str, Any], labeller: Labeller, tally: LabelTally) -> list[dict[str, Any]]:
    """Return the rows of an image, and count them."""
    tally.slowest.append((image.pop("seconds"), image["image"]))
    thumbnails = [face.pop("thumbnail") for face in image["faces"] or ()] or [None]
    rows = labeller.rows(image, image.pop("probs_0"))
    for row, thumbnail in zip(rows, thumbnails, strict=True):
        tally.count(row, thumbnail)
    return rows


def _finish(
    tally: LabelTally, config: LabelConfig, labeller: Labeller, labelled: int, seconds: float
) -> dict[str, Any]:
    """Drop what a lost worker wrote in vain, write the report, and the summary last."""
    from fer.reports.labels import label_report  # noqa: PLC0415 - every worker would wait for it

    parts.keep_only(config.output, (FACES,), tally.files)
    result = {
        "output": config.output,
        "images": tally.images,
        "faces": tally.faces,
        "failed": tally.failed,
        "images_per_second": round(labelled / seconds, 1),
        "report": storage.join(config.output, "report.html"),
        "seconds": round(seconds, 2),
    }
    summary = {
        "schema_version": labels.SCHEMA_VERSION,
        **result,
        "result": result,
        "statuses": {status: tally.statuses[status] for status in labels.STATUSES},
        "emotions": {name: tally.emotions[name] for name in labeller.class_names},
        "cpu_hours_per_million": _num_cpus() * seconds / max(labelled, 1) * 1e6 / 3600,
        "ignored_files": tally.ignored,
        "class_names": list(labeller.class_names),
        "model": labeller.model,
        "detector": labeller.detector,
        "config": dataclasses.asdict(config),
    }
    files = label_report(tally, labeller.class_names, summary)
    for name, content in {**files, SUMMARY: json.dumps(summary, indent=2).encode()}.items():
        storage.write_bytes(storage.join(config.output, name), content)
    return result


def _num_cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1))
