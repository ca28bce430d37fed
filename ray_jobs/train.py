"""A dataset to a checkpoint, data-parallel over any number of workers.

1. Check: the dataset, the output, the cluster.
2. Fit: every worker trains on its part of each global batch; rank 0 keeps a checkpoint an epoch.
3. Finish: the best epoch becomes the output, with its metrics and curves beside it.
"""

import dataclasses
import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train as ray_train
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fer import checkpoint, history, storage
from fer.checkpoint import load_checkpoint, read_config
from fer.dataset import Dataset, open_dataset
from fer.errors import InputError, JobError
from fer.metrics import scores_from_confusion
from fer.models import build_model
from fer.predictor import resolve_checkpoint
from fer.reports import figures
from fer.training import (
    Recipe,
    ResidentExamples,
    best_temperature,
    build_average,
    build_optimizer,
    evaluate_epoch,
    has_fast_bfloat16,
    steps_per_epoch,
    train_epoch,
    training_batches,
    training_targets,
)
from ray_jobs import cluster
from ray_jobs.config import TrainConfig

LAST = "last"
"""Ray Train's own folder in the output: the newest and the best epoch, to resume from."""

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
EVENTS = f"{TENSORBOARD}/events.out.tfevents.fer"
TRAINING = "training.safetensors"
PARTS = (checkpoint.WEIGHTS, METRICS, TENSORBOARD, "curves.png", LAST)

EVALUATION_BATCH = 256
MAX_FAILURES = 3
"""How often lost workers are replaced before the job gives up."""

MAY_CHANGE = frozenset(
    ("dataset", "output", "num_workers", "cpus_per_worker", "use_gpu", "resume", "overwrite")
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
    config = cluster.resolve_locations(config)
    data = open_dataset(config.dataset)
    data.check_split("train", every_class=True)
    data.check_split("val")
    _check_start(config)
    _claim_output(config)
    if not storage.exists(storage.join(config.output, checkpoint.CONFIG)):
        cluster.connect()
        scaling = _scaling(config)
        _finish(config, _fit(config, data, scaling))
    return _result(config, time.monotonic() - start)


def _check_start(config: TrainConfig) -> None:
    if config.from_checkpoint is None:
        return
    location = resolve_checkpoint(config.from_checkpoint)
    start = read_config(location)
    if start.architecture["name"] != config.model:
        raise InputError(
            f"{location} is a {start.architecture['name']} network: give --model "
            f"{start.architecture['name']}, not {config.model}."
        )


def _claim_output(config: TrainConfig) -> None:
    if config.resume:
        _check_same_run(config)
        return
    if storage.exists(storage.join(config.output, METRICS)) and not config.overwrite:
        raise InputError(
            f"{config.output} already holds a run: --resume goes on with it, --overwrite replaces "
            "it, or name another folder."
        )
    cluster.claim_output(config, checkpoint.CONFIG, PARTS)


def _check_same_run(config: TrainConfig) -> None:
    begun = storage.join(config.output, cluster.JOB)
    if not storage.exists(begun):
        raise InputError(f"{config.output} holds no run to resume: start one without --resume.")
    flags = json.loads(storage.read_bytes(begun))
    changed = [
        f"--{name.replace('_', '-')}"
        for name, value in dataclasses.asdict(config).items()
        if name not in MAY_CHANGE and value != flags.get(name)
    ]
    if changed:
        raise InputError(
            f"The run in {config.output} began with another {', '.join(changed)}: resume it with "
            "the same, or train anew with --overwrite."
        )


def _scaling(config: TrainConfig) -> ScalingConfig:
    low, high = config.worker_range
    cpus = config.cpus_per_worker or _even_share(high)
    needed = {"CPU": low * cpus, **({"GPU": low} if config.use_gpu else {})}
    cluster.require_resources(needed, f"{low} worker(s) of {cpus} CPU")
    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=config.use_gpu,
        resources_per_worker={"CPU": cpus, **({"GPU": 1} if config.use_gpu else {})},
    )


def _even_share(num_workers: int) -> int:
    """Return how many CPUs a worker gets so that all fit on the nodes at hand, at least 1."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for cpus in range(max(nodes), 1, -1):
        if sum(held // cpus for held in nodes) >= num_workers:
            return cpus
    return 1


# Fit.


def _fit(config: TrainConfig, data: Dataset, scaling: ScalingConfig) -> Result:
    num_examples = sum(data.counts("train").values())
    steps = config.num_epochs * max(1, num_examples // config.batch_size)
    filesystem, path = storage.filesystem(config.output)
    with (
        cluster.sentences(),
        _keyboard_interrupts(),
        cluster.progress_from_workers(f"Training {config.model}", "steps", steps) as queue,
    ):
        return TorchTrainer(
            train_loop_per_worker,
            train_loop_config={"config": dataclasses.asdict(config), "queue": queue},
            scaling_config=scaling,
            run_config=RunConfig(
                name=LAST,
                storage_filesystem=filesystem,
                storage_path=path,
                # The newest is kept besides, to resume from.
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=config.select_by
                ),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        ).fit()


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


@dataclasses.dataclass
class _Run:
    """What one worker trains, and how far it is."""

    config: TrainConfig
    recipe: Recipe
    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    history: list[dict[str, Any]]
    rank: int
    world_size: int

    @property
    def kept(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one."""
        network: nn.Module = self.average.module if self.average else self.network
        return network


def train_loop_per_worker(settings: dict[str, Any]) -> None:
    """Train on one worker's part of each batch, and report every epoch."""
    config, device = TrainConfig(**settings["config"]), get_device()
    data = open_dataset(config.dataset)
    run = _start(config, data, device)
    train, val = _place_examples(run.recipe, data, device)
    model = prepare_model(run.network)
    for epoch in range(len(run.history), config.num_epochs):
        if _is_exhausted(run):
            break
        start = time.monotonic()
        totals = _train(run, model, train, epoch, settings["queue"])
        metrics = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps_per_epoch(len(train), run.recipe),
            "train_loss": (totals[0] / totals[2]).item(),
            "train_accuracy": (totals[1] / totals[2]).item(),
            **_evaluate(run, val, len(data.class_names)),
            "seconds": time.monotonic() - start,
            "finished": time.time(),
        }
        _report(run, data, metrics)


def _place_examples(
    recipe: Recipe, data: Dataset, device: torch.device
) -> tuple[ResidentExamples, ResidentExamples]:
    """Return ``train`` with the targets of the recipe and ``val`` with its labels."""
    num_classes = len(data.class_names)
    train, val = data.read_split("train"), data.read_split("val")
    targets = training_targets(train, num_classes, recipe).to(device)
    placed = ResidentExamples.place(train, num_classes, device)
    return (
        dataclasses.replace(placed, targets=targets),
        ResidentExamples.place(val, num_classes, device),
    )


def _is_exhausted(run: _Run) -> bool:
    """Tell whether the best epoch lies as far back as patience reaches."""
    if run.config.patience is None or not run.history:
        return False
    scores = [epoch[run.config.select_by] for epoch in run.history]
    return len(scores) - 1 - scores.index(max(scores)) >= run.config.patience


def _start(config: TrainConfig, data: Dataset, device: torch.device) -> _Run:
    """Build the network as it was after the last epoch that was kept, or as it begins."""
    context = ray_train.get_context()
    recipe = _recipe(config, device)
    torch.manual_seed(config.seed)
    network = build_model(config.model, len(data.class_names), config.dropout)
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.from_checkpoint is not None:
        _begin_from(network, config.from_checkpoint, data.class_names)
    run = _Run(
        config,
        recipe,
        network,
        build_optimizer(network, recipe),
        build_average(network, recipe),
        history=[],
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    if kept := ray_train.get_checkpoint():
        with kept.as_directory() as folder:
            _go_on(run, folder)
    return run


def _begin_from(network: nn.Module, location: str, class_names: tuple[str, ...]) -> None:
    """Give a network the weights of a checkpoint, but for the last layer if its classes differ."""
    start = load_checkpoint(resolve_checkpoint(location))
    weights = start.models[0].state_dict()
    if start.class_names != class_names:
        weights |= {
            name: fresh
            for name, fresh in network.state_dict().items()
            if name.startswith("output.")
        }
    network.load_state_dict(weights)


def _go_on(run: _Run, folder: str) -> None:
    """Bring a run to where it was when ``_report`` kept a folder."""
    content = storage.read_bytes(storage.join(folder, TRAINING))
    checkpoint.unpack_training(run.network, run.optimizer, content)
    run.kept.load_state_dict(load_checkpoint(folder).models[0].state_dict())
    run.history = history.from_json_lines(storage.read_bytes(storage.join(folder, METRICS)))
    if run.average:
        run.average.n_averaged.fill_(run.history[-1]["step"])


def _recipe(config: TrainConfig, device: torch.device) -> Recipe:
    names = {field.name for field in dataclasses.fields(Recipe)} - {"bfloat16"}
    bfloat16 = {"auto": has_fast_bfloat16(device), "bfloat16": True, "float32": False}
    flags = {name: getattr(config, name) for name in names}
    return Recipe(**flags, bfloat16=bfloat16[config.precision])


def _train(
    run: _Run,
    model: nn.Module,
    train: ResidentExamples,
    epoch: int,
    queue: Any,  # noqa: ANN401 - an actor's handle
) -> Tensor:
    """Train for one epoch and return its totals over all workers: loss, right answers, examples."""
    # Dropout is drawn anew each epoch, so that a resumed run goes on as the first would have.
    torch.manual_seed((run.config.seed * 1_000_003 + epoch) * 1009 + run.rank)
    per_epoch = steps_per_epoch(len(train), run.recipe)
    num_steps = run.config.num_epochs * per_epoch
    batches = training_batches(train, run.recipe, epoch, run.rank, run.world_size)
    said = {"epoch": f"{epoch + 1}/{run.config.num_epochs}", **_newest(run.history)}
    totals, shown = torch.zeros(3, dtype=torch.float64), time.monotonic()
    steps = train_epoch(
        model, batches, run.optimizer, run.recipe, num_steps, run.world_size, run.average
    )
    for step, step_totals in enumerate(steps, start=epoch * per_epoch + 1):
        totals += step_totals.cpu()
        if run.rank == 0 and time.monotonic() - shown > 1:
            shown = time.monotonic()
            queue.put_nowait((step, {**said, "loss": f"{totals[0] / totals[2]:.3f}"}))
    totals = _sum_over_workers(totals, run.world_size)
    if not math.isfinite(totals[0]):
        raise JobError(
            f"The loss of epoch {epoch + 1} is not finite: train anew with a lower --lr."
        )
    return totals


def _newest(history: list[dict[str, Any]]) -> dict[str, str]:
    names = ("val_accuracy", "val_macro_f1")
    return {name: f"{history[-1][name]:.3f}" for name in names} if history else {}


def _evaluate(run: _Run, val: ResidentExamples, num_classes: int) -> dict[str, float]:
    """Evaluate each worker's part with the statistics of rank 0, which are those that are kept."""
    if run.world_size > 1:
        for buffer in run.kept.buffers():
            dist.broadcast(buffer, src=0)
    mine = val[run.rank :: run.world_size]
    losses, confusion = evaluate_epoch(
        run.kept, mine, num_classes, EVALUATION_BATCH, bfloat16=run.recipe.bfloat16
    )
    temperature, loss = best_temperature(_sum_over_workers(losses, run.world_size))
    confusion = _sum_over_workers(confusion, run.world_size)
    accuracy, macro_f1 = scores_from_confusion(confusion.numpy())
    return {
        "val_loss": loss / len(val),
        "val_accuracy": accuracy,
        "val_macro_f1": macro_f1,
        "temperature": temperature,
    }


def _sum_over_workers(totals: Tensor, world_size: int) -> Tensor:
    if world_size > 1:
        totals = totals.to(get_device())
        dist.all_reduce(totals)
    return totals.cpu()


def _report(run: _Run, data: Dataset, metrics: dict[str, Any]) -> None:
    run.history.append(metrics)
    if run.rank != 0:
        ray_train.report(metrics)
        return
    lines = history.to_json_lines(run.history)
    storage.write_bytes(storage.join(run.config.output, METRICS), lines)
    events = history.tensorboard_events(run.history)
    storage.write_bytes(storage.join(run.config.output, EVENTS), events)
    packed = checkpoint.pack_checkpoint(
        run.kept,
        {"name": run.config.model, "arguments": _arguments(run.config, data)},
        class_names=data.class_names,
        temperature=metrics["temperature"],
        training={
            **dataclasses.asdict(run.config),
            "epoch": metrics["epoch"],
            "torch": torch.__version__,
        },
        data={"location": data.location, "fingerprint": data.summary["fingerprint"]},
        scores={name: metrics[name] for name in ("val_loss", "val_accuracy", "val_macro_f1")},
    )
    training = checkpoint.pack_training(run.network, run.optimizer)
    files = {**packed, METRICS: lines, TRAINING: training}
    with checkpoint.temporary_folder(files) as folder:
        ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(folder))


def _arguments(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    return {"num_classes": len(data.class_names), "dropout": config.dropout}


# Finish.


def _finish(config: TrainConfig, result: Result) -> None:
    """Make the best epoch the output."""
    if not result.best_checkpoints:
        raise JobError("Training ended before an epoch did: nothing was kept.")
    best, _ = max(result.best_checkpoints, key=lambda kept: kept[1][config.select_by])
    kept = storage.join(config.output, LAST, storage.name(best.path))
    epochs = history.from_json_lines(storage.read_bytes(storage.join(config.output, METRICS)))
    curves = figures.training_curves(epochs)
    storage.write_bytes(storage.join(config.output, "curves.png"), curves)
    for name in (checkpoint.WEIGHTS, checkpoint.CONFIG):
        content = storage.read_bytes(storage.join(kept, name))
        storage.write_bytes(storage.join(config.output, name), content)


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
