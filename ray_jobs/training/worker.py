"""What each worker of a training does: restore or create its run, train its epochs, report each."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from ray import train as ray_train
from ray.train.torch import get_device, prepare_model
from ray.util.queue import Queue

from fer import storage
from fer.data.dataset import Dataset, open_dataset
from fer.errors import JobError
from fer.metrics import selection_metric
from fer.models.checkpoint import read_id, temporary_folder
from fer.models.pretrained import read_digest
from fer.training.batches import BatchSource, InMemoryBatches
from fer.training.history import tensorboard_events
from fer.training.run import METRICS, Run
from ray_jobs.cluster.metrics import record_epoch
from ray_jobs.config import TrainConfig
from ray_jobs.training.checkpoints import checkpoint_files
from ray_jobs.training.settings import build_architecture, build_recipe, is_streamed
from ray_jobs.training.streaming import StreamedBatches

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's events, a file an epoch: a file that TensorBoard has open must not be
replaced, since it would not notice."""


def train_loop_per_worker(settings: dict[str, Any]) -> str | None:
    """Train on one worker's share of each batch, and report every epoch.

    Args:
        settings: ``config``, the flags of the training; ``fingerprints``, the ids of the
            checkpoints that it uses; ``queue``, which takes the worker's progress.

    Returns:
        Why training stopped early, if it failed; None if it finished.
    """
    config, device = TrainConfig(**settings["config"]), get_device()
    data = open_dataset(config.dataset)
    try:
        _check_unchanged(config, settings["fingerprints"])
        run = _restore_or_create(config, data, device)
        for _ in _train_epochs(run, config, data, device, settings["queue"]):
            _report(run, config, data)
            if _is_patience_exhausted(run, config):
                break
    except JobError as error:
        # Ray Train would take an exception for a lost worker and repeat the same epochs.
        return str(error)
    return None


def _check_unchanged(config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Refuse checkpoints that were replaced after the job started."""
    # What training starts from matters until the run has a checkpoint of its own.
    starts = set() if ray_train.get_checkpoint() else {"from_checkpoint", "pretrained"}
    for name in sorted(fingerprints.keys() & {"teacher", *starts}):
        location = getattr(config, name)
        current = read_digest(location) if name == "pretrained" else read_id(location)
        if current != fingerprints[name]:
            raise JobError(
                f"{location} was {fingerprints[name]} when the job started and is {current} now; "
                "keep it unchanged while a job uses it."
            )


def _restore_or_create(config: TrainConfig, data: Dataset, device: torch.device) -> Run:
    """Return this worker's run: restored, from another checkpoint, or new."""
    context = ray_train.get_context()
    recipe, architecture = build_recipe(config, device), build_architecture(config, data)
    rank, world_size = context.get_world_rank(), context.get_world_size()
    run = Run.create(recipe, architecture, device, rank, world_size, data.shape)
    if newest := ray_train.get_checkpoint():
        with newest.as_directory() as folder:
            run.restore(folder)
    elif config.from_checkpoint is not None:
        run.load_weights(config.from_checkpoint, data.class_names)
    elif config.pretrained is not None:
        run.load_pretrained(config.pretrained)
    return run


def _train_epochs(
    run: Run, config: TrainConfig, data: Dataset, device: torch.device, queue: Queue
) -> Iterator[dict[str, Any]]:
    """Train the remaining epochs, and put this worker's progress into the queue."""
    if _is_patience_exhausted(run, config):
        return iter(())

    def advance(step: int, details: Mapping[str, object]) -> None:
        queue.put_nowait((step, details))

    def report_taught(num_images: int) -> None:
        if run.rank == 0:
            advance(run.num_steps_done, {"images seen by the teacher": f"{num_images:,}"})

    share = (data, run.recipe, device, run.rank, run.world_size)
    if is_streamed(config, data):
        batches: BatchSource = StreamedBatches.open(*share)
    else:
        batches = InMemoryBatches.load(*share, report_taught)
    # Frozen layers take no part in some steps, which workers that wait for all gradients must know.
    options = {"find_unused_parameters": True} if config.freeze else None
    model = prepare_model(run.trained, parallel_strategy_kwargs=options)
    return run.epochs(model, batches, advance)


def _is_patience_exhausted(run: Run, config: TrainConfig) -> bool:
    """Tell whether the best epoch lies ``--patience`` epochs back."""
    if config.patience is None or not run.history:
        return False
    metric = selection_metric(config.select_by, run.history)
    scores = [epoch[metric] for epoch in run.history]
    return len(scores) - 1 - scores.index(max(scores)) >= config.patience


def _report(run: Run, config: TrainConfig, data: Dataset) -> None:
    """Report the newest epoch to Ray Train; rank 0 also writes its checkpoint and metrics."""
    metrics = run.history[-1]
    if run.rank != 0:
        ray_train.report(metrics)
        return
    record_epoch(storage.base_name(config.output), metrics)
    files = checkpoint_files(run, config, data)
    storage.write_bytes(storage.join(config.output, METRICS), files[METRICS])
    events = f"{TENSORBOARD}/events.out.tfevents.{metrics['epoch']:06d}.fer"
    storage.write_bytes(storage.join(config.output, events), tensorboard_events([metrics]))
    with temporary_folder(files) as folder:
        ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(folder))
