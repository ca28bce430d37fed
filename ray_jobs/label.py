"""Images to a table of faces and the emotions that they seem to express.

1. List: all images, or those that the labels are without, cut into chunks, into a manifest.
2. Look: fetch the images of each chunk that has no file, find their faces, cut them out.
3. Classify: probabilities, from one process a CPU that keeps the network in memory.
4. Write: the rows of a chunk to a file of its name, all or nothing, and count them.
5. Finish: stale rows go, the report, and the summary that makes the labels complete.

Whatever is lost on the way, a chunk is labeled again and its file takes the place of itself.
"""

import dataclasses
import json
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ray

from fer import storage
from fer.data.sources import check_readable, check_source
from fer.errors import InputError, JobError
from fer.labels import schema
from fer.labels.export import ENCODERS
from fer.labels.files import twin
from fer.labels.globs import Selection
from fer.labels.manifests import check_manifest, folder, is_manifest
from fer.labels.schema import Labeler
from fer.labels.tally import LabelTally
from fer.models.checkpoint import load_checkpoint
from fer.reports.labels import label_report
from fer.storage import parquet
from fer.vision.detector import FaceDetector, detector_id, detector_weights
from ray_jobs.cluster import session
from ray_jobs.config import LabelConfig
from ray_jobs.labeling import update, worklist, write
from ray_jobs.labeling.detect import detect_faces
from ray_jobs.labeling.write import FACES
from ray_jobs.pipeline import locations, outputs, stages
from ray_jobs.pipeline.classify import ChunkClassifier, Inference, classify
from ray_jobs.pipeline.progress import progress

SUMMARY = "summary.json"
PARTS = (
    FACES,
    *ENCODERS,
    worklist.FOLDER,
    worklist.COMPLETE,
    update.REPLACED,
    "emotions.png",
    "report.html",
)

MAY_CHANGE = frozenset(
    (
        "output",
        "checkpoint",
        "detector_weights",
        "engine",
        "use_gpu",
        "resume",
        "update",
        "overwrite",
    )
)
"""Flags that may differ when labeling goes on; the others, the network and the detector fix what
the rows say, and the manifest which images there are."""

CPUS = {"none": (0.25, 0.75), "yunet": (0.5, 0.5)}
"""What looking and classifying reserve by detector: about what each takes of a CPU."""


def run(config: LabelConfig) -> dict[str, Any]:
    """Label images.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The images, the checkpoint or the output is not as it must be.
        JobError: There is no image, or a store refuses what it took before.
    """
    start = time.monotonic()
    config = locations.resolve(config)
    network = load_checkpoint(config.checkpoint)
    selection = _select(config)
    weights = detector_weights(config.detector_weights) if config.detector != "none" else None
    if weights:
        FaceDetector(weights)
    named = {"model": network.id, "detector": detector_id(weights)}
    claim = outputs.claim_or_resume(
        config,
        SUMMARY,
        PARTS,
        begun=worklist.FOLDER,
        goes_on=config.resume or config.update,
        may_change=MAY_CHANGE,
        made_from=named,
    )
    finished = storage.join(config.output, SUMMARY)
    is_finished = storage.exists(finished)
    if config.resume and is_finished:
        return dict(json.loads(storage.read_bytes(finished))["result"])
    if config.update and not is_finished:
        raise InputError(f"The labels in {config.output} are not finished: --resume them first.")
    session.connect()
    gpu = [{"GPU": 1}] if config.use_gpu else []
    session.require_resources([{"CPU": 1}, *gpu], "Tasks and networks")
    claim.take()
    if config.update:
        _reopen(config.output)
    labeler = Labeler(network.class_names, min_confidence=config.min_confidence, **named)
    with session.unwrap_errors():
        done = write.read_tallies(config.output)
        worklist.make(config.images, config.output, selection, done)
        if not done and worklist.read(config.output).is_empty:
            raise JobError(_no_image(config))
        tally = _label(config, selection, labeler, weights, done)
        replaced = update.drop_replaced(config.output, labeler.class_names, config.format)
        done |= {write.chunk_name(part): part for part in replaced}
    labeled = tally.images
    for part in done.values():
        tally.add(part)
    if not tally.images:
        raise JobError(_no_image(config))
    return _finish(tally, config, labeler, labeled, time.monotonic() - start)


def _reopen(output: str) -> None:
    """Make finished labels unfinished, with the listing of the source still to be made."""
    for name in (SUMMARY, worklist.COMPLETE):
        storage.delete(storage.join(output, name))


def _select(config: LabelConfig) -> Selection:
    """Check the images, and return what is asked for of them."""
    is_listed = is_manifest(config.images)
    if is_listed:
        check_manifest(config.images)
    else:
        check_source(config.images)
        check_readable(config.images)
    root = folder(config.images) if is_listed else config.images
    if f"{config.output}/".startswith(f"{config.images}/"):
        raise InputError(
            f"--output {config.output} lies in the images, and would be listed among them: name "
            "another."
        )
    selection = Selection(root, config.include, config.exclude, config.limit)
    selection.check()
    return selection


def _no_image(config: LabelConfig) -> str:
    matching = " that matches the globs" if config.include or config.exclude else ""
    return f"No image was found in {config.images}{matching}."


def _label(
    config: LabelConfig,
    selection: Selection,
    labeler: Labeler,
    weights: bytes | None,
    done: Mapping[str, LabelTally],
) -> LabelTally:
    """Label what has no file yet, and return what was counted of it."""
    tally = LabelTally()
    with progress("Labeling", "images", _images_left(config.output, done)) as advance:
        for part in _parts(config, selection, labeler, weights, done):
            tally.add(part)
            advance(tally.images, faces=f"{tally.faces:,}", failed=tally.failed)
    return tally


def _images_left(output: str, done: Mapping[str, LabelTally]) -> int | None:
    """Return how many images are to be labeled; None where archives hold some of them."""
    listed = worklist.read(output)
    if listed.kinds["archive"]:
        return None
    labeled = sum(done[name].images for name in listed.files if name in done)
    return listed.kinds["image"] + listed.kinds["rejected"] - labeled


def _parts(
    config: LabelConfig,
    selection: Selection,
    labeler: Labeler,
    weights: bytes | None,
    done: Collection[str],
) -> Iterator[LabelTally]:
    """Look, classify and write as one stream; yield what was counted of each chunk."""
    look_cpus, classify_cpus = CPUS[config.detector]
    chunks = worklist.chunks(config.output, done, selection)
    seen = detect_faces(chunks, weights, config.min_face_size, look_cpus)
    inference = Inference(
        (config.checkpoint,),
        engine=config.engine,
        num_cpus=classify_cpus,
        use_gpu=config.use_gpu,
    )
    classified = classify(seen, inference, ChunkClassifier)
    yield from stages.tallies(write.write_chunks(classified, config.output, labeler, config.format))


def _finish(
    tally: LabelTally, config: LabelConfig, labeler: Labeler, labeled: int, seconds: float
) -> dict[str, Any]:
    """Drop what a lost worker wrote in vain, write the report, and the summary last."""
    twins = {twin(file, kind) for file in tally.files for kind in config.format}
    parquet.keep_only(config.output, (FACES, *config.format), tally.files | twins)
    storage.delete(storage.join(config.output, update.REPLACED))
    result = {
        "output": config.output,
        "images": tally.images,
        "labeled": labeled,
        "faces": tally.faces,
        "failed": tally.failed,
        "images_per_second": round(labeled / seconds, 1),
        "report": storage.join(config.output, "report.html"),
        "seconds": round(seconds, 2),
    }
    summary = {
        "schema_version": schema.SCHEMA_VERSION,
        **result,
        "result": result,
        "statuses": {status: tally.statuses[status] for status in schema.STATUSES},
        "emotions": {name: tally.emotions[name] for name in labeler.class_names},
        "cpu_hours_per_million": labeled and _num_cpus() * seconds / labeled * 1e6 / 3600,
        "ignored_files": tally.ignored,
        "class_names": list(labeler.class_names),
        "model": labeler.model,
        "detector": labeler.detector,
        "config": dataclasses.asdict(config),
    }
    files = label_report(tally, labeler.class_names, summary)
    with stages.explain_write_errors(config.output):
        for name, content in {**files, SUMMARY: json.dumps(summary, indent=2).encode()}.items():
            storage.write_bytes(storage.join(config.output, name), content)
    return result


def _num_cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1))
