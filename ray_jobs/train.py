"""A dataset to a checkpoint, data-parallel over any number of workers.

1. Check: the dataset, the output, the cluster.
2. Fit: every worker trains on its part of each global batch; rank 0 keeps a checkpoint an epoch.
3. Finish: the best epoch becomes the output, with its metrics and curves beside it.
"""

import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray.data
import torch
from ray import train as ray_train
from ray.exceptions import RayError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.util.queue import Queue

from fer import checkpoint, storage
from fer.checkpoint import read_config
from fer.dataset import Dataset, open_dataset
from fer.errors import InputError, JobError
from fer.feeds import Feed, ResidentFeed, example_bytes
from fer.history import from_json_lines, tensorboard_events
from fer.models import Layers
from fer.precision import has_fast_bfloat16
from fer.predictor import resolve_checkpoint
from fer.recipe import Recipe, seed_of_epoch, steps_per_epoch
from fer.run import METRICS, Run
from fer.targets import NO_VOTES
from ray_jobs import cluster, locations, outputs, streaming
from ray_jobs.config import TrainConfig
from ray_jobs.placement import place_workers
from ray_jobs.progress import progress_from_workers
from ray_jobs.streaming import StreamedFeed
from ray_jobs.tracking import REMEMBERED, MlflowCallback, require_answer

LAST = "last"
"""Ray Train's own folder in the output: the newest and the best epoch, to resume from."""

TENSORBOARD = "tensorboard"
"""A file an epoch: TensorBoard does not see that one that it has open is replaced."""

PARTS = (checkpoint.WEIGHTS, METRICS, TENSORBOARD, "curves.png", LAST, REMEMBERED)

MAX_FAILURES = 3
"""How often lost workers are replaced before the job gives up."""

MAY_CHANGE = frozenset(
    (
        "dataset",
        "output",
        "num_workers",
        "cpus_per_worker",
        "use_gpu",
        "memory_limit",
        "mlflow_uri",
        "resume",
        "overwrite",
    )
)
"""Flags that may differ when a run is resumed; the others fix what is trained."""


def run(config: TrainConfig) -> dict[str, Any]:
    """Train a network.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The dataset, the output or the cluster is not as it must be.
        JobError: Training failed.
    """
    start = time.monotonic()
    config = locations.resolve(config)
    data = open_dataset(config.dataset)
    data.check_split("train", every_class=True)
    data.check_split("val")
    _check_batch(config, data)
    is_finished = config.resume and storage.exists(storage.join(config.output, checkpoint.CONFIG))
    made_from = _made_from(config, data, is_finished=is_finished)
    claim = outputs.claim_or_resume(
        config,
        checkpoint.CONFIG,
        PARTS,
        begun=METRICS,
        goes_on=config.resume,
        may_change=MAY_CHANGE,
        made_from=made_from,
    )
    if not is_finished:
        _check_extras(config, data)
        cluster.connect()
        reading_cpus = streaming.READ_CPUS if is_streamed(config, data) else 0
        scaling = place_workers(config, reading_cpus)
        claim.take()
        with _failures_told(), _tracked(config) as callbacks:
            _finish(config, _fit(config, data, scaling, callbacks, made_from))
    return _result(config, time.monotonic() - start)


def _made_from(config: TrainConfig, data: Dataset, *, is_finished: bool) -> dict[str, str]:
    """Return the ids of what a run still needs, once they have been checked.

    Raises:
        InputError: One of them is not there, or does not fit.
    """
    made_from = {"dataset": str(data.summary["fingerprint"])}
    is_begun = config.resume and _num_done(config) > 0
    if config.from_checkpoint is not None and not is_begun:
        made_from["from_checkpoint"] = _check_start(config, config.from_checkpoint)
    if config.teacher is not None and not is_finished:
        location = resolve_checkpoint(config.teacher)
        teacher = checkpoint.load_checkpoint(location)
        checkpoint.check_classes(location, teacher.class_names, data.class_names)
        made_from["teacher"] = teacher.id
    return made_from


def _check_start(config: TrainConfig, from_checkpoint: str) -> str:
    """Return the id of the checkpoint that a run starts from."""
    location = resolve_checkpoint(from_checkpoint)
    start = read_config(location)
    arguments = start.architecture["arguments"]
    layers = {
        field.name: arguments.get(field.name, field.default)
        for field in dataclasses.fields(Layers)
        if field.name != "dropout"
    }
    named = {"model": start.architecture["name"], "normalisation": start.normalisation}
    for name, value in {**named, **layers}.items():
        if value != getattr(config, name):
            raise InputError(
                f"{location} has the --{name.replace('_', '-')} {value}, not "
                f"{getattr(config, name)}: give the same to start from it."
            )
    return start.id


def _check_extras(config: TrainConfig, data: Dataset) -> None:
    if config.votes_weight and not data.held_columns("votes"):
        raise InputError(NO_VOTES)
    if config.mlflow_uri is not None:
        require_answer(config.mlflow_uri)


def _check_batch(config: TrainConfig, data: Dataset) -> None:
    low, high = config.worker_range
    uneven = [number for number in range(low, high + 1) if config.batch_size % number]
    if uneven and is_streamed(config, data):
        raise InputError(
            f"--batch-size {config.batch_size} does not divide evenly among {uneven[0]} workers, "
            "as it must where a dataset is streamed: choose others, or raise --memory-limit."
        )
    num_examples = sum(data.counts("train").values())
    if config.batch_size > num_examples:
        raise InputError(
            f"--batch-size {config.batch_size} is more than the {num_examples:,} train examples of "
            f"{config.dataset}: give a smaller one."
        )


def is_streamed(config: TrainConfig, data: Dataset) -> bool:
    """Tell whether a worker's memory does not hold the dataset."""
    num_examples = sum(sum(data.counts(split).values()) for split in ("train", "val"))
    return num_examples * example_bytes(len(data.class_names)) > config.memory_limit * 2**30


# Fit.


def _fit(
    config: TrainConfig,
    data: Dataset,
    scaling: ScalingConfig,
    callbacks: list[UserCallback],
    made_from: dict[str, str],
) -> Result:
    # Called again for workers that take the place of lost ones, which go on in another order.
    stream = partial(_stream, config)
    filesystem, path = storage.filesystem(config.output)
    with (
        _keyboard_interrupts(),
        progress_from_workers(
            f"Training {config.model}",
            "steps",
            total=_num_steps(config, data, config.num_epochs),
            begun=_num_steps(config, data, _num_done(config)),
        ) as queue,
    ):
        return TorchTrainer(
            train_loop_per_worker,
            train_loop_config={
                "config": outputs.flags_of(config),
                "made_from": made_from,
                "queue": queue,
            },
            scaling_config=scaling,
            datasets={streaming.TRAIN: stream} if is_streamed(config, data) else {},
            dataset_config=streaming.data_config(),
            run_config=RunConfig(
                name=LAST,
                storage_filesystem=filesystem,
                storage_path=path,
                # The newest is kept besides, to resume from.
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=config.select_by
                ),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                worker_runtime_env=cluster.TRAINING_MEMORY,
                callbacks=[*callbacks, _LossTeller(queue)],
            ),
        ).fit()


def _stream(config: TrainConfig) -> ray.data.Dataset:
    """Return the training examples, from the order of the first epoch that is not done yet."""
    seed = seed_of_epoch(config.seed, _num_done(config))
    return streaming.train_examples(open_dataset(config.dataset), seed)


def _num_done(config: TrainConfig) -> int:
    """Return the number of epochs that are done already."""
    location = storage.join(config.output, METRICS)
    return len(from_json_lines(storage.read_bytes(location))) if storage.exists(location) else 0


def _num_steps(config: TrainConfig, data: Dataset, num_epochs: int) -> int:
    num_train = sum(data.counts("train").values())
    return num_epochs * steps_per_epoch(num_train, config.batch_size)


class _LossTeller(UserCallback):  # type: ignore[misc]
    """Says that workers were lost: until there is room for others, nothing else is said."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_exception(
        self,
        run_context: object,  # noqa: ARG002 - Ray Train's signature
        worker_exceptions: dict[int, Exception],
    ) -> None:
        said = {"lost workers": f"{len(worker_exceptions)}, waiting for others"}
        # Not waited for: the process that calls this also looks for the others.
        self._queue.actor.put_nowait.remote((None, said))


@contextmanager
def _tracked(config: TrainConfig) -> Iterator[list[UserCallback]]:
    """Yield what follows the run besides, and tell it how the run ended."""
    if config.mlflow_uri is None:
        yield []
        return
    tracker, status = MlflowCallback.begin(config.mlflow_uri, config), "FAILED"
    try:
        yield [tracker]
        status = "FINISHED"
    finally:
        tracker.end(status, config.output)


@contextmanager
def _failures_told() -> Iterator[None]:
    """Raise what was tried again in vain as one sentence: that of the mistake, if it is one."""
    try:
        with cluster.sentences():
            yield
    except (TrainingFailedError, RayError, OSError) as error:
        told = str(error).strip().splitlines()[-1].rstrip(".")
        raise JobError(f"Training failed: {told}; see to that, and --resume it.") from error


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C be what it is elsewhere, though Ray Train makes it an exit with code 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


def train_loop_per_worker(settings: dict[str, Any]) -> str | None:
    """Train on one worker's part of each batch, and report every epoch.

    Returns:
        Why it ended before its time, if it did so.
    """
    config, device = TrainConfig(**settings["config"]), get_device()
    data = open_dataset(config.dataset)
    try:
        _check_unchanged(config, settings["made_from"])
        run = _begin(config, data, device)
        for _ in _epochs(run, config, data, device, settings["queue"]):
            _report(run, config, data)
            if _is_exhausted(run, config):
                break
    except JobError as error:
        # Raised, it would be taken for a lost worker, and the same epochs be tried again.
        return str(error)
    return None


def _epochs(
    run: Run, config: TrainConfig, data: Dataset, device: torch.device, queue: Queue
) -> Iterator[dict[str, Any]]:
    """Train the epochs that are left on what this worker is fed, and tell how far it is."""
    if _is_exhausted(run, config):
        return iter(())

    def advance(step: int, said: Mapping[str, object]) -> None:
        queue.put_nowait((step, said))

    def taught(number: int) -> None:
        if run.rank == 0:
            advance(run.num_steps_done, {"images seen by the teacher": f"{number:,}"})

    of_worker = (data, run.recipe, device, run.rank, run.world_size)
    if is_streamed(config, data):
        feed: Feed = StreamedFeed.open(*of_worker)
    else:
        feed = ResidentFeed.place(*of_worker, taught)
    return run.epochs(prepare_model(run.network), feed, advance)


def _check_unchanged(config: TrainConfig, made_from: dict[str, str]) -> None:
    """Refuse checkpoints that were replaced since the job began."""
    # What a run started from counts until its first epoch is kept.
    used = {"teacher"} if ray_train.get_checkpoint() else {"teacher", "from_checkpoint"}
    for name in sorted(made_from.keys() & used):
        location = resolve_checkpoint(getattr(config, name))
        if (found := checkpoint.read_id(location)) != made_from[name]:
            raise JobError(
                f"{location} was {made_from[name]} when the job began and is {found} now: leave it "
                "alone while it is used."
            )


def _begin(config: TrainConfig, data: Dataset, device: torch.device) -> Run:
    """Return a worker's run: new, from another checkpoint, or as far as it had got before."""
    context = ray_train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    run = Run.begin(recipe(config, device), architecture(config, data), device, rank, world_size)
    if kept := ray_train.get_checkpoint():
        with kept.as_directory() as folder:
            run.take_up(folder)
    elif config.from_checkpoint is not None:
        run.start_from(resolve_checkpoint(config.from_checkpoint), data.class_names)
    return run


def recipe(config: TrainConfig, device: torch.device) -> Recipe:
    """Return what of a configuration fixes a run, on a device."""
    names = {field.name for field in dataclasses.fields(Recipe)} - {"bfloat16"}
    bfloat16 = {"auto": has_fast_bfloat16(device), "bfloat16": True, "float32": False}
    flags = {name: getattr(config, name) for name in names}
    return Recipe(**flags, bfloat16=bfloat16[config.precision])


def architecture(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Return what of a configuration fixes a network, for the classes of a dataset."""
    layers = {field.name: getattr(config, field.name) for field in dataclasses.fields(Layers)}
    return {"name": config.model, "arguments": {"num_classes": len(data.class_names), **layers}}


def _is_exhausted(run: Run, config: TrainConfig) -> bool:
    """Tell whether the best epoch lies as far back as patience reaches."""
    if config.patience is None or not run.history:
        return False
    scores = [epoch[config.select_by] for epoch in run.history]
    return len(scores) - 1 - scores.index(max(scores)) >= config.patience


def _report(run: Run, config: TrainConfig, data: Dataset) -> None:
    metrics = run.history[-1]
    if run.rank != 0:
        ray_train.report(metrics)
        return
    files = checkpoint_files(run, config, data)
    storage.write_bytes(storage.join(config.output, METRICS), files[METRICS])
    name = f"{TENSORBOARD}/events.out.tfevents.{metrics['epoch']:06d}.fer"
    storage.write_bytes(storage.join(config.output, name), tensorboard_events([metrics]))
    with checkpoint.temporary_folder(files) as folder:
        ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(folder))


def checkpoint_files(run: Run, config: TrainConfig, data: Dataset) -> dict[str, bytes]:
    """Return a run's checkpoint after its newest epoch, and what it needs to be taken up again."""
    metrics = run.history[-1]
    packed = checkpoint.pack_checkpoint(
        run.kept,
        architecture(config, data),
        class_names=data.class_names,
        normalisation=config.normalisation,
        temperature=metrics["temperature"],
        training={
            **outputs.flags_of(config),
            "epoch": metrics["epoch"],
            "torch": torch.__version__,
        },
        data={"location": data.location, "fingerprint": data.summary["fingerprint"]},
        scores={name: metrics[name] for name in ("val_loss", "val_accuracy", "val_macro_f1")},
    )
    return {**packed, **run.pack()}


# Finish.


def _finish(config: TrainConfig, result: Result) -> None:
    """Make the best epoch the output."""
    if result.return_value is not None:
        raise JobError(_told_where(result.return_value, result, config))
    if not result.best_checkpoints:
        raise JobError("Training ended before an epoch did: nothing was kept.")
    from fer.reports import figures  # noqa: PLC0415 - every worker would wait for its plots

    kept = _best(result, config)
    epochs = from_json_lines(storage.read_bytes(storage.join(config.output, METRICS)))
    curves = figures.training_curves(epochs)
    storage.write_bytes(storage.join(config.output, "curves.png"), curves)
    for name in (checkpoint.WEIGHTS, checkpoint.CONFIG):
        content = storage.read_bytes(storage.join(kept, name))
        storage.write_bytes(storage.join(config.output, name), content)


def _told_where(stopped: str, result: Result, config: TrainConfig) -> str:
    """Name the checkpoint of the best epoch, if there was one, with what stopped the run."""
    if not result.best_checkpoints:
        return stopped
    return f"{stopped} The best epoch before is kept in {_best(result, config)}."


def _best(result: Result, config: TrainConfig) -> str:
    """Return the location of the best epoch's checkpoint."""
    best, _ = max(result.best_checkpoints, key=lambda kept: kept[1][config.select_by])
    return storage.join(config.output, LAST, storage.name(best.path))


def _result(config: TrainConfig, seconds: float) -> dict[str, Any]:
    best = read_config(config.output)
    return {
        "checkpoint": config.output,
        "id": best.id,
        "parameters": best.parameters,
        "best_epoch": best.training["epoch"],
        "val_accuracy": best.scores["val_accuracy"],
        "val_macro_f1": best.scores["val_macro_f1"],
        "seconds": round(seconds, 2),
    }
