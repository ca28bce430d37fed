"""Train a network: a dataset to a checkpoint, data-parallel over any number of workers.

1. Check: the dataset, the output, the cluster.
2. Fit: every worker trains on its share of each global batch; rank 0 writes a checkpoint an epoch.
3. Finish: the best epoch becomes the output, with its metrics and curves beside it.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.data
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
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from fer import storage
from fer.data.dataset import Dataset, open_dataset
from fer.errors import InputError, JobError, last_line
from fer.metrics import VAL_SCORES, selection_metric
from fer.models import checkpoint
from fer.training.history import from_json_lines
from fer.training.recipe import seed_of_epoch, steps_per_epoch
from fer.training.run import METRICS
from fer.training.targets import NO_VOTES
from ray_jobs.cluster import internals, session
from ray_jobs.config import TrainConfig
from ray_jobs.pipeline import outputs
from ray_jobs.pipeline.outputs import OutputSpec, Reservation
from ray_jobs.pipeline.progress import progress_from_workers
from ray_jobs.pipeline.resumable import run_resumable
from ray_jobs.training import starts, streaming
from ray_jobs.training.checkpoints import finished_files
from ray_jobs.training.mlflow import RUN_FILE, MlflowCallback, require_server
from ray_jobs.training.placement import place_workers
from ray_jobs.training.settings import MAX_FAILURES, is_streamed
from ray_jobs.training.worker import TENSORBOARD, train_loop_per_worker

LAST = "last"
"""Ray Train's own folder in the output: the newest and the best epoch, to resume from."""

CURVES = "curves.png"

OUTPUT = OutputSpec(
    completed_by=checkpoint.CONFIG,
    contents=(
        *(checkpoint.WEIGHTS, checkpoint.GRAPH, checkpoint.INT8_GRAPH),
        *(METRICS, TENSORBOARD, CURVES, LAST, RUN_FILE),
    ),
    started_by=METRICS,
    # The dataset has a fingerprint. How many workers there are does not change the result's kind.
    changeable_flags=frozenset(
        (
            *("dataset", "output", "num_workers", "cpus_per_worker", "use_gpu"),
            *("memory_limit", "int8", "mlflow_uri", "resume", "overwrite"),
        )
    ),
)


@dataclass(frozen=True)
class _Inputs:
    """What a network is trained on.

    Attributes:
        data: The dataset.
        fingerprints: Digest of the dataset, and ids of the checkpoints that the run still needs.
    """

    data: Dataset
    fingerprints: dict[str, str]


def run(config: TrainConfig) -> dict[str, Any]:
    """Train a network.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The dataset, the output or the cluster is not as the job needs it.
        JobError: Training failed.
    """
    return run_resumable(config, OUTPUT, _check, _train, _result)


def _check(config: TrainConfig) -> _Inputs:
    data = open_dataset(config.dataset)
    data.check_split("train", every_class=True)
    data.check_split("val")
    _check_batch_size(config, data)
    starts.check_shape(config, data)
    is_complete = config.resume and OUTPUT.is_complete(config.output)
    if not is_complete:
        _check_extras(config, data)
    return _Inputs(data, _fingerprints(config, data, is_complete=is_complete))


def _check_batch_size(config: TrainConfig, data: Dataset) -> None:
    low, high = config.worker_range
    uneven = [number for number in range(low, high + 1) if config.batch_size % number]
    if uneven and is_streamed(config, data):
        raise InputError(
            f"--batch-size {config.batch_size} is not divisible by {uneven[0]} workers, which a "
            "streamed dataset requires; change --batch-size or --num-workers, or raise "
            "--memory-limit."
        )
    num_examples = sum(data.counts("train").values())
    if config.batch_size > num_examples:
        raise InputError(
            f"--batch-size {config.batch_size} is larger than the {num_examples:,} training "
            f"examples in {config.dataset}; choose a smaller one."
        )


def _check_extras(config: TrainConfig, data: Dataset) -> None:
    if (config.votes_weight or config.votes_head_weight) and not data.existing_columns("votes"):
        raise InputError(NO_VOTES)
    if config.mlflow_uri is not None:
        require_server(config.mlflow_uri)


def _fingerprints(config: TrainConfig, data: Dataset, *, is_complete: bool) -> dict[str, str]:
    """Return the ids of what a run still needs, once they have been checked.

    Raises:
        InputError: A checkpoint does not exist or does not fit.
    """
    fingerprints = {"dataset": str(data.summary["fingerprint"])}
    has_own_checkpoint = config.resume and _num_epochs_done(config) > 0
    if config.from_checkpoint is not None and not has_own_checkpoint:
        fingerprints["from_checkpoint"] = starts.check_checkpoint(
            config, config.from_checkpoint, data
        )
    if config.pretrained is not None and not has_own_checkpoint:
        fingerprints["pretrained"] = starts.check_pretrained(config, config.pretrained, data)
    if config.teacher is not None and not is_complete:
        teacher = checkpoint.load_checkpoint(config.teacher)
        checkpoint.check_classes(config.teacher, teacher.class_names, data.class_names)
        fingerprints["teacher"] = teacher.id
    return fingerprints


def _train(config: TrainConfig, inputs: _Inputs, output: Reservation) -> dict[str, Any]:
    session.connect()
    reading_cpus = streaming.READ_CPUS if is_streamed(config, inputs.data) else 0
    scaling = place_workers(config, reading_cpus)
    output.begin()
    with _explained_failures(), _mlflow_run(config) as trackers:
        result = _fit(config, inputs, scaling, trackers)
        _finish(config, inputs.data, result)
    return _result(output)


def _fit(
    config: TrainConfig, inputs: _Inputs, scaling: ScalingConfig, trackers: list[MlflowCallback]
) -> Result:
    """Run Ray Train until every epoch is done, through lost workers and nodes."""
    total = _num_steps(config, inputs.data, config.num_epochs)
    begun = _num_steps(config, inputs.data, _num_epochs_done(config))
    with (
        _keyboard_interrupts(),
        progress_from_workers(f"Training {config.model}", "steps", total, begun) as queue,
    ):
        callbacks = [
            _LostWorkersCallback(queue),
            *(tracker.reporting_to(queue) for tracker in trackers),
        ]
        trainer = TorchTrainer(
            train_loop_per_worker,
            train_loop_config={
                "config": outputs.flags_of(config),
                "fingerprints": inputs.fingerprints,
                "queue": queue,
            },
            scaling_config=scaling,
            datasets=_streams(config, inputs.data),
            dataset_config=streaming.data_config(),
            run_config=_run_config(config, callbacks),
        )
        internals.skip_needless_actors(trainer)
        return trainer.fit()


def _run_config(config: TrainConfig, callbacks: list[UserCallback]) -> RunConfig:
    filesystem, path = storage.filesystem(config.output)
    # Ray Train keeps the newest checkpoint besides the best one, to resume from.
    best_only = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=_ranking_metric(config))
    return RunConfig(
        name=LAST,
        storage_filesystem=filesystem,
        storage_path=path,
        checkpoint_config=best_only,
        failure_config=FailureConfig(max_failures=MAX_FAILURES),
        worker_runtime_env=session.TRAINING_MEMORY,
        callbacks=callbacks,
    )


def _streams(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Return what workers stream, as functions that make it; nothing if memory holds the data.

    Ray Train calls a function anew for workers that replace lost ones: their order differs.
    """
    return {streaming.TRAIN: partial(_stream, config)} if is_streamed(config, data) else {}


def _stream(config: TrainConfig) -> ray.data.Dataset:
    """Return the training examples in the order of the first epoch that is not done yet."""
    seed = seed_of_epoch(config.seed, _num_epochs_done(config))
    return streaming.train_examples(open_dataset(config.dataset), seed)


def _num_epochs_done(config: TrainConfig) -> int:
    return len(_read_history(config))


def _ranking_metric(config: TrainConfig) -> str:
    return selection_metric(config.select_by, _read_history(config))


def _read_history(config: TrainConfig) -> list[dict[str, Any]]:
    """Return the metrics of the epochs that are done."""
    location = storage.join(config.output, METRICS)
    return from_json_lines(storage.read_bytes(location)) if storage.exists(location) else []


def _num_steps(config: TrainConfig, data: Dataset, num_epochs: int) -> int:
    num_train = sum(data.counts("train").values())
    return num_epochs * steps_per_epoch(num_train, config.batch_size)


class _LostWorkersCallback(UserCallback):  # type: ignore[misc]
    """Shows that workers were lost: until the cluster has room for others, nothing else moves."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_exception(
        self,
        run_context: object,  # noqa: ARG002 - Ray Train's signature
        worker_exceptions: dict[int, Exception],
    ) -> None:
        details = {"lost workers": f"{len(worker_exceptions)}, waiting for others"}
        # Not awaited: the process that calls this is the one that looks for other workers.
        self._queue.actor.put_nowait.remote((None, details))


@contextmanager
def _mlflow_run(config: TrainConfig) -> Iterator[list[MlflowCallback]]:
    """Yield what tracks the training, and tell MLflow how it ended."""
    if config.mlflow_uri is None:
        yield []
        return
    callback, status = MlflowCallback.begin(config.mlflow_uri, config), "FAILED"
    try:
        yield [callback]
        status = "FINISHED"
    finally:
        callback.end(status, config.output)


@contextmanager
def _explained_failures() -> Iterator[None]:
    """Raise a failure that retries did not cure as one sentence: its own if it has one."""
    try:
        with session.unwrap_errors():
            yield
    except (TrainingFailedError, RayError, OSError) as error:
        raise JobError(
            f"Training failed: {last_line(error)}; fix the cause and continue with --resume."
        ) from error


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt as elsewhere: Ray Train turns it into an exit with code 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


def _finish(config: TrainConfig, data: Dataset, result: Result) -> None:
    """Make the best epoch the output, its ``config.json`` last."""
    if result.return_value is not None:
        raise JobError(_with_best_epoch(result.return_value, config, result))
    if not result.best_checkpoints:
        raise JobError("Training ended before the first epoch did; there is no checkpoint.")
    from fer.reports import figures  # noqa: PLC0415 - Ray Train's controller needs no matplotlib

    best = _best_checkpoint(config, result)
    curves = figures.plot_training_curves(_read_history(config))
    storage.write_bytes(storage.join(config.output, CURVES), curves)
    for name, content in finished_files(best, data if config.int8 else None):
        storage.write_bytes(storage.join(config.output, name), content)


def _with_best_epoch(failure: str, config: TrainConfig, result: Result) -> str:
    """Add the location of the best checkpoint so far, if there is one, to why a run failed."""
    if not result.best_checkpoints:
        return failure
    return f"{failure} The best checkpoint so far is {_best_checkpoint(config, result)}."


def _best_checkpoint(config: TrainConfig, result: Result) -> str:
    metric = _ranking_metric(config)
    best, _ = max(result.best_checkpoints, key=lambda scored: scored[1][metric])
    return storage.join(config.output, LAST, storage.base_name(best.path))


def _result(output: Reservation) -> dict[str, Any]:
    best = checkpoint.read_config(output.output)
    return {
        "checkpoint": output.output,
        "id": best.id,
        "parameters": best.parameters,
        "best_epoch": best.training["epoch"],
        # Checkpoints of earlier versions lack the scores without copies.
        **{name: best.scores[name] for name in VAL_SCORES if name in best.scores},
        "seconds": round(output.elapsed_seconds, 2),
    }
