"""A training run: its state, its epochs, and how it is stored and restored."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fer.errors import JobError
from fer.metrics import WITHOUT_COPIES, scores_from_confusion
from fer.models.architectures import build_model
from fer.models.checkpoint import load_checkpoint
from fer.models.layers import Network
from fer.models.networks import build_network, load_networks
from fer.models.pretrained import fit_weights, parse_weights, read_file
from fer.storage.paths import join, read_bytes
from fer.training.batches import BatchSource
from fer.training.history import from_json_lines, to_json_lines
from fer.training.loop import (
    best_temperature,
    build_average,
    build_optimizer,
    evaluate_epoch,
    train_epoch,
)
from fer.training.recipe import Recipe, seed_of_worker, steps_per_epoch
from fer.training.state import pack_training, unpack_training
from fer.training.teacher import Teacher
from fer.training.votes import TwoHeaded
from fer.vision.shape import FER2013_SHAPE, ImageShape

METRICS = "metrics.jsonl"
TRAINING = "training.safetensors"

PROGRESS_INTERVAL_SECONDS = 1.0
"""Least time between two calls of the progress callback."""

Advance = Callable[[int, Mapping[str, object]], None]
"""Progress callback: takes the number of steps done and further values to display, by name."""


@dataclass
class Run:
    """The state of a training run on one worker.

    Attributes:
        recipe: The settings of the run.
        network: The network in training.
        optimizer: The optimizer of its weights.
        average: Moving average of its weights, or None.
        teacher: Network that teaches it on augmented images, or None.
        trained: The network, or the same one with a second last layer that learns votes.
        rank: Number of this worker, from 0.
        world_size: Number of workers.
        history: Metrics of each finished epoch.
    """

    recipe: Recipe
    network: Network
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    trained: nn.Module
    teacher: Teacher | None = None
    rank: int = 0
    world_size: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        recipe: Recipe,
        architecture: Mapping[str, Any],
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        shape: ImageShape = FER2013_SHAPE,
    ) -> "Run":
        """Create a run with a new network, whose initial weights depend on the recipe's seed.

        Args:
            recipe: The settings of the run.
            architecture: ``name`` and ``arguments`` of ``build_model``.
            device: Device to train on.
            rank: Number of this worker, from 0.
            world_size: Number of workers.
            shape: Shape of the images.

        Raises:
            InputError: The recipe's teacher is not a checkpoint.
        """
        torch.manual_seed(recipe.seed)
        network = build_model(architecture["name"], shape=shape, **architecture["arguments"])
        network.to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = TwoHeaded(network).to(device) if recipe.votes_head_weight else network
        optimizer, average = build_optimizer(trained, recipe), build_average(network, recipe)
        teacher = None
        if recipe.teacher and recipe.teacher_weight and recipe.teacher_view == "augmented":
            teacher = Teacher(recipe.teacher, device)
        return cls(recipe, network, optimizer, average, trained, teacher, rank, world_size)

    @property
    def eval_model(self) -> Network:
        """The network to evaluate and to store: the moving average if there is one."""
        network = self.average.module if self.average else self.network
        assert isinstance(network, Network)
        return network

    @property
    def num_steps_done(self) -> int:
        """Number of steps in the finished epochs."""
        return int(self.history[-1]["step"]) if self.history else 0

    def load_weights(self, location: str, class_names: tuple[str, ...]) -> None:
        """Load the weights of a checkpoint.

        The last layer keeps its own weights if the checkpoint has other classes than
        ``class_names``.
        """
        checkpoint = load_checkpoint(location)
        weights = build_network(checkpoint.members[0]).state_dict()
        if checkpoint.class_names != class_names:
            own, prefix = self.network.state_dict(), f"{self.network.output_name}."
            weights |= {name: own[name] for name in own if name.startswith(prefix)}
        self._start_from(fit_weights(weights, self.network, location))

    def load_pretrained(self, source: str) -> None:
        """Load published weights, as ``fer.models.pretrained`` reads and fits them.

        Args:
            source: Path or URI of a file, or the name of weights that a package holds.
        """
        weights = parse_weights(read_file(source), source)
        self._start_from(fit_weights(weights, self.network, source))

    def _start_from(self, weights: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(weights)
        self.eval_model.load_state_dict(weights)

    def pack(self) -> dict[str, bytes]:
        """Return the files, by name, that together with a checkpoint restore the run."""
        return {
            TRAINING: pack_training(self.trained, self.optimizer),
            METRICS: to_json_lines(self.history),
        }

    def restore(self, folder: str) -> None:
        """Restore the run from a folder that holds a checkpoint and the files of ``pack``."""
        unpack_training(self.trained, self.optimizer, read_bytes(join(folder, TRAINING)))
        self.eval_model.load_state_dict(load_networks(folder)[0].state_dict())
        self.history = from_json_lines(read_bytes(join(folder, METRICS)))
        if self.average:
            self.average.n_averaged.fill_(self.num_steps_done)

    def epochs(
        self, model: nn.Module, batches: BatchSource, advance: Advance
    ) -> Iterator[dict[str, Any]]:
        """Train the remaining epochs; yield each one's metrics after adding them to the history.

        Args:
            model: ``trained``, or a wrapper that averages its gradients over the workers.
            batches: The batches to train on and to evaluate on.
            advance: Progress callback, called on the first worker about once a second.

        Raises:
            JobError: The loss became infinite or NaN.
        """
        for epoch in range(len(self.history), self.recipe.num_epochs):
            start = time.monotonic()
            loss, correct, num_examples = self._train(model, batches, epoch, advance).tolist()
            trained = time.monotonic()
            scores = self._evaluate(batches)
            # The training loss was computed before the last step; only the scores reveal that the
            # last step itself broke the weights.
            if not (math.isfinite(loss) and math.isfinite(scores["val_loss"])):
                raise JobError(_non_finite_loss(epoch, bfloat16=self.recipe.bfloat16))
            metrics = {
                "epoch": epoch + 1,
                "step": (epoch + 1) * steps_per_epoch(batches.num_train, self.recipe.batch_size),
                "train_loss": loss / num_examples,
                "train_accuracy": correct / num_examples,
                "images_per_second": num_examples / (trained - start),
                "num_workers": self.world_size,
                **scores,
                "seconds": time.monotonic() - start,
                "finished": time.time(),
            }
            self.history.append(metrics)
            yield metrics

    def _train(
        self, model: nn.Module, batches: BatchSource, epoch: int, advance: Advance
    ) -> Tensor:
        """Train for one epoch.

        Returns:
            float64 (3,), over all workers: the summed loss, the number of correct predictions, the
            number of examples.
        """
        # Dropout draws from torch's global generator. Seeding it in every epoch makes a restored
        # run continue as the original one would have.
        torch.manual_seed(seed_of_worker(self.recipe.seed, epoch, self.rank))
        self.network.freeze_trunk(epoch < self.recipe.num_frozen_epochs)
        per_epoch = steps_per_epoch(batches.num_train, self.recipe.batch_size)
        status = {"epoch": f"{epoch + 1}/{self.recipe.num_epochs}", **self._last_scores()}
        device, last_report = next(self.network.parameters()).device, time.monotonic()
        # On the device, because the processor must not wait for each step.
        totals = torch.zeros(3, dtype=torch.float64, device=device)
        steps = train_epoch(
            model,
            batches.train_batches(epoch),
            self.optimizer,
            self.recipe,
            self.recipe.num_epochs * per_epoch,
            self.world_size,
            self.average,
            self.teacher,
        )
        for step, step_totals in enumerate(steps, start=epoch * per_epoch + 1):
            totals += step_totals
            if self.rank == 0 and time.monotonic() - last_report > PROGRESS_INTERVAL_SECONDS:
                last_report = time.monotonic()
                advance(step, {**status, "loss": f"{totals[0] / totals[2]:.3f}"})
        return self._sum_over_workers(totals)

    def _last_scores(self) -> dict[str, str]:
        names = ("val_accuracy", "val_macro_f1") if self.history else ()
        return {name: f"{self.history[-1][name]:.3f}" for name in names}

    def _evaluate(self, batches: BatchSource) -> dict[str, float]:
        """Evaluate on this worker's share of ``val``; return the scores over all workers.

        The temperature is chosen without the images that ``train`` holds too.
        """
        if self.world_size > 1:
            # Batch normalization statistics differ between workers; rank 0 stores its own.
            for buffer in self.eval_model.buffers():
                dist.broadcast(buffer, src=0)
        num_classes = self.network.last_layer.out_features
        losses, confusion = evaluate_epoch(
            self.eval_model, batches.val_batches(), self.recipe, num_classes
        )
        losses, confusion = map(self._sum_over_workers, (losses, confusion))
        # If train holds all of val, nothing else is left to choose by.
        rest = slice(0, 1) if confusion[0].any() else slice(None)
        _, loss = best_temperature(losses.sum(dim=0))
        temperature, _ = best_temperature(losses[rest].sum(dim=0))
        return {
            "val_loss": loss / batches.num_val,
            **_scores(confusion.sum(dim=0)),
            **_scores(confusion[rest].sum(dim=0), WITHOUT_COPIES),
            "temperature": temperature,
        }

    def _sum_over_workers(self, totals: Tensor) -> Tensor:
        if self.world_size > 1:
            totals = totals.to(next(self.network.parameters()).device)
            dist.all_reduce(totals)
        return totals.cpu()


def _scores(confusion: Tensor, suffix: str = "") -> dict[str, float]:
    accuracy, macro_f1 = scores_from_confusion(confusion.numpy())
    return {f"val_accuracy{suffix}": accuracy, f"val_macro_f1{suffix}": macro_f1}


def _non_finite_loss(epoch: int, *, bfloat16: bool) -> str:
    last_good = f" (epoch {epoch} was the last good one)" if epoch else ""
    remedy = "a lower --lr or --precision float32" if bfloat16 else "a lower --lr"
    return f"Loss became non-finite in epoch {epoch + 1}{last_good}; retrain with {remedy}."
