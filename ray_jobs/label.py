"""Label images: find their faces and write one row a face, with the emotion that it seems to show.

1. List: cut the images, or those that have no labels yet, into chunks: the worklist.
2. Detect: fetch the images of each chunk, find their faces, crop them.
3. Classify: compute probabilities, in one process a CPU that keeps the network in memory.
4. Write: write the rows of a chunk to the file that its name fixes, all or nothing.
5. Track: number the faces of videos, so that a face keeps its number from frame to frame, and
   write the table of each video.
6. Finish: drop outdated rows, write the report and the catalog of changes, then the summary that
   completes the labels.

A chunk that is lost on the way is labeled again, and its file replaces itself.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from threading import Thread
from typing import Any

import ray

from fer import extras, storage
from fer.data.kinds import commonest, describe_ignored
from fer.data.sources import check_readable, check_source
from fer.errors import JobError
from fer.labels import schema, video_tables
from fer.labels.catalog import CATALOG, CHANGES, Catalog, removed_in
from fer.labels.chunks import most_images
from fer.labels.export import ENCODERS
from fer.labels.files import export_path
from fer.labels.globs import Selection
from fer.labels.manifests import check_manifest, is_manifest, manifest_folder
from fer.labels.schema import Labeler
from fer.labels.tally import LabelTally
from fer.models.checkpoint import Checkpoint, load_checkpoint
from fer.models.engine import with_graphs
from fer.models.predictor import Predictor
from fer.storage import parquet
from fer.vision.detector import FaceDetector, detector_id, load_detector_weights
from fer.vision.sampling import Sampling
from ray_jobs.cluster import session
from ray_jobs.config import LabelConfig
from ray_jobs.labeling import chunks, on_cpus, on_gpus, tracks, update, worklist, write
from ray_jobs.labeling.images import Detection
from ray_jobs.labeling.labeling import Labeling
from ray_jobs.labeling.tracks import Tracked
from ray_jobs.labeling.write import FACES
from ray_jobs.pipeline import locations, outputs, stages
from ray_jobs.pipeline.classify import Inference
from ray_jobs.pipeline.outputs import OutputSpec, Reservation
from ray_jobs.pipeline.progress import progress, say
from ray_jobs.pipeline.resumable import run_resumable

OUTPUT = OutputSpec(
    completed_by="summary.json",
    contents=(
        FACES,
        *ENCODERS,
        worklist.FOLDER,
        worklist.COMPLETE,
        update.REPLACED,
        *(CATALOG, CHANGES, video_tables.FOLDER),
        "emotions.png",
        "report.html",
    ),
    started_by=worklist.FOLDER,
    # The network and the detector have fingerprints, and the worklist fixes the images.
    changeable_flags=frozenset(
        (
            *("output", "checkpoint", "detector_weights", "engine", "use_gpu"),
            *("resume", "update", "overwrite"),
        )
    ),
)


@dataclass(frozen=True)
class _Inputs:
    """What labels are made from.

    Attributes:
        network: The network, or the ensemble of several.
        labeler: Turns probabilities into rows; knows the ids of the network and the detector.
        selection: Which images to label.
        weights: YuNet's; None takes each image as one face.
    """

    network: Checkpoint
    labeler: Labeler
    selection: Selection
    weights: bytes | None

    @property
    def fingerprints(self) -> dict[str, str]:
        """The ids of the network and the detector."""
        return {"model": self.labeler.model, "detector": self.labeler.detector}


def run(config: LabelConfig) -> dict[str, Any]:
    """Label images.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The images, the checkpoint or the output is not as the job needs it.
        JobError: There is no image, or a store stopped accepting requests.
    """
    return run_resumable(config, OUTPUT, _check, _label)


def _check(config: LabelConfig) -> _Inputs:
    network = load_checkpoint(config.checkpoint)
    if config.use_gpu:
        extras.require_torch("--use-gpu")
    else:
        network = with_graphs(network)
        # A graph that does not open is refused here, not by each process of the cluster.
        Predictor(network, engine=config.engine, num_threads=1)
    selection = _select_images(config)
    weights = load_detector_weights(config.detector_weights) if config.detector != "none" else None
    if weights:
        FaceDetector(weights)
    labeler = Labeler(network.class_names, network.id, detector_id(weights), config.min_confidence)
    return _Inputs(network, labeler, selection, weights)


def _select_images(config: LabelConfig) -> Selection:
    """Check the images and return which of them to label."""
    has_manifest = is_manifest(config.images)
    if has_manifest:
        check_manifest(config.images)
    else:
        check_source(config.images, all_files=config.all_files, with_videos=True)
        check_readable(config.images, all_files=config.all_files)
    locations.check_outside(config.output, "images", config.images)
    root = manifest_folder(config.images) if has_manifest else config.images
    selection = Selection(
        root, config.include, config.exclude, config.limit, all_files=config.all_files
    )
    selection.check()
    return selection


def _label(config: LabelConfig, inputs: _Inputs, output: Reservation) -> dict[str, Any]:
    # The report's plots take a second to import, and Ray is waited for anyway.
    Thread(target=import_module, args=["fer.reports.labels"], daemon=True).start()
    # Processes that list are the ones that label, if both have the same environment.
    session.connect(session.INFERENCE_MEMORY)
    gpus = [{"GPU": 1}] if config.use_gpu else []
    session.require_resources([{"CPU": 1}, *gpus], "Tasks and networks")
    if not config.use_gpu:
        on_cpus.start_process()
    output.begin()
    if not output.is_updated:
        return _complete(config, inputs, output)
    num_before = 0
    if not output.is_complete:
        say(f"The labels in {config.output} are not complete; they are finished first.")
        num_before = _complete(config, inputs, output)["labeled"]
    _reopen(config.output)
    return _complete(config, inputs, output, num_before)


def _complete(
    config: LabelConfig, inputs: _Inputs, output: Reservation, num_before: int = 0
) -> dict[str, Any]:
    """List and label what has no labels yet, and complete the output.

    Args:
        config: The flags.
        inputs: What labels are made from.
        output: The labels.
        num_before: Number of images that this run has labeled before.

    Returns:
        What the RESULT line says.
    """
    catalog = Catalog.read(config.output)
    if worklist.is_made(config.output):
        write.delete_unread(config.output, catalog.files)
    labeled = write.read_labeled(config.output)
    done = labeled.images
    lost = catalog.files - set(map(write.file_of_chunk, done))
    max_images = most_images(inputs.network.shape)
    worklist.make(config.images, config.output, inputs.selection, done, lost, max_images)
    listed = worklist.read(config.output)
    if not done and listed.is_empty:
        raise JobError(_no_image(config, listed.ignored))
    tally = _label_worklist(config, inputs, done)
    num_labeled = num_before + tally.images
    generation, class_names = catalog.next_number, inputs.labeler.class_names
    if update.drop_replaced(config.output, generation, class_names, config.format):
        labeled = write.read_labeled(config.output, done)
    tally.add(labeled.tally)
    tally.files |= set(map(write.file_of_chunk, done))
    if not tally.images:
        raise JobError(_no_image(config, tally.ignored))
    tracked = tracks.number_tracks(config.output, tally.videos, class_names, config.format)
    if listed.is_partial or any(map(write.is_unread, tally.files)):
        worklist.retire(config.output)
    return _finish(config, inputs, output, tally, tracked, catalog, num_labeled)


def _reopen(output: str) -> None:
    """Make complete labels incomplete, so that their images are listed anew."""
    storage.delete(storage.join(output, OUTPUT.completed_by))
    worklist.retire(output)


def _no_image(config: LabelConfig, ignored: Mapping[str, int]) -> str:
    if config.include or config.exclude:
        return f"No image in {config.images} matches --include and --exclude."
    files = describe_ignored(ignored, all_files=config.all_files)
    return f"No image was found in {config.images}{files}."


def _label_worklist(config: LabelConfig, inputs: _Inputs, done: Mapping[str, int]) -> LabelTally:
    """Label the chunks that have no file yet, and return their tally."""
    tally = LabelTally()
    with progress("Labeling", "images", _num_images_left(config.output, done)) as advance:
        for written in _label_chunks(config, inputs, done):
            tally.add(written.tally)
            written.record()
            advance(tally.images, faces=f"{tally.faces:,}", failed=tally.failed)
    return tally


def _num_images_left(output: str, done: Mapping[str, int]) -> int | None:
    """Return how many images are still to be labeled; None where only the content tells."""
    listed = worklist.read(output)
    if any(listed.kinds[kind] for kind in ("archive", "video", "unknown")):
        return None
    num_labeled = sum(done.get(name, 0) for name in listed.files)
    return listed.kinds["image"] + listed.kinds["rejected"] - num_labeled


def _label_chunks(
    config: LabelConfig, inputs: _Inputs, done: Collection[str]
) -> Iterator[write.Written]:
    """Detect, classify and write as one stream; yield what became of each chunk."""
    fps = 1.0 if config.fps is None else config.fps
    sampling = Sampling(None if fps == "all" else fps, config.start, config.end)
    max_images = most_images(inputs.network.shape)
    opened = chunks.open_chunks(config.output, done, inputs.selection, sampling, max_images)
    detection = Detection(
        inputs.weights,
        config.min_face_size,
        config.any_orientation,
        sampling,
        animations=config.fps is not None,
        shape=inputs.network.shape,
    )
    labeling = Labeling(config.output, detection, inputs.labeler, config.format)
    inference = Inference(
        (inputs.network,), inputs.network.shape, engine=config.engine, use_gpu=config.use_gpu
    )
    label_chunks = on_gpus.label_chunks if config.use_gpu else on_cpus.label_chunks
    yield from stages.tallies(label_chunks(opened, labeling, inference))


def _finish(
    config: LabelConfig,
    inputs: _Inputs,
    output: Reservation,
    tally: LabelTally,
    tracked: Tracked,
    catalog: Catalog,
    num_labeled: int,
) -> dict[str, Any]:
    """Delete what lost workers left behind, write the report and the catalog, then the summary."""
    from fer.reports.labels import label_report  # noqa: PLC0415 - workers need no matplotlib

    copies = {export_path(file, kind) for file in tally.files for kind in config.format}
    folders = (FACES, *config.format, video_tables.FOLDER)
    parquet.delete_all_except(config.output, folders, tally.files | copies | tracked.tables)
    storage.delete(storage.join(config.output, update.REPLACED))
    seconds = output.elapsed_seconds
    result = {
        "output": config.output,
        "images": tally.images,
        "frames": tally.frames,
        "labeled": num_labeled,
        "faces": tally.faces,
        "failed": tally.failed,
        "ignored": commonest(tally.ignored),
        "images_per_second": round(num_labeled / seconds, 1),
        "report": storage.join(config.output, "report.html"),
        "seconds": round(seconds, 2),
    }
    summary = _summary(config, inputs.labeler, tally, result)
    with stages.explain_write_errors(config.output):
        report = label_report(tally, tracked.timelines, inputs.labeler.class_names, summary)
        removed = removed_in(config.output, catalog.next_number)
        extended = catalog.extended(tally.files, removed, datetime.now(UTC))
        output.commit(summary, {**report, CATALOG: extended.to_json()})
    return result


def _summary(
    config: LabelConfig, labeler: Labeler, tally: LabelTally, result: dict[str, Any]
) -> dict[str, Any]:
    num_cpus = ray.cluster_resources().get("CPU", 1)
    cpu_hours = num_cpus * result["seconds"] / 3600
    return {
        "schema_version": schema.SCHEMA_VERSION,
        **result,
        "result": result,
        "statuses": {status: tally.statuses[status] for status in schema.STATUSES},
        "emotions": {name: tally.emotions[name] for name in labeler.class_names},
        "cpu_hours_per_million": result["labeled"] and cpu_hours / result["labeled"] * 1e6,
        "ignored_files": tally.ignored.total(),
        "class_names": list(labeler.class_names),
        "model": labeler.model,
        "detector": labeler.detector,
        "config": outputs.flags_of(config),
    }
