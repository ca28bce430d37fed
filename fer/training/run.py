"""A training run: what it consists of, how it goes on epoch by epoch, how it is taken up again."""

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
from fer.metrics import scores_from_confusion
from fer.models.checkpoint import load_checkpoint, pack_training, unpack_training
from fer.models.convnet import ConvNet, build_model
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

METRICS = "metrics.jsonl"
TRAINING = "training.safetensors"

PROGRESS_INTERVAL_SECONDS = 1.0

Advance = Callable[[int, Mapping[str, object]], None]
"""Takes the number of steps done, and what else is worth saying."""


@dataclass
class Run:
    """What one worker trains, and how far it is.

    Attributes:
        recipe: What fixes the run.
        network: In training.
        optimizer: Of its weights.
        average: Follows its weights, or None.
        history: Metrics of each epoch that is done.
        rank: Number of this worker, from 0.
        world_size: Number of workers.
    """

    recipe: Recipe
    network: ConvNet
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
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
    ) -> "Run":
        """Build a network on a device as the recipe's seed has it.

        Args:
            recipe: What fixes the run.
            architecture: ``name`` and ``arguments`` of ``build_model``.
            device: Where to train it.
            rank: Number of this worker.
            world_size: Number of workers.
        """
        torch.manual_seed(recipe.seed)
        network = build_model(architecture["name"], **architecture["arguments"])
        network.to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer, average = build_optimizer(network, recipe), build_average(network, recipe)
        return cls(recipe, network, optimizer, average, rank, world_size)

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one."""
        network: nn.Module = self.average.module if self.average else self.network
        return network

    @property
    def num_steps_done(self) -> int:
        """Steps of the epochs that are done."""
        return int(self.history[-1]["step"]) if self.history else 0

    def load_weights(self, location: str, class_names: tuple[str, ...]) -> None:
        """Take over a checkpoint's weights, but for the last layer's if its classes differ."""
        start = load_checkpoint(location)
        weights = start.models[0].state_dict()
        if start.class_names != class_names:
            fresh = self.network.state_dict()
            weights |= {name: fresh[name] for name in fresh if name.startswith("output.")}
        self.network.load_state_dict(weights)
        self.eval_model.load_state_dict(weights)

    def pack(self) -> dict[str, bytes]:
        """Return what a run needs, beside the checkpoint of ``eval_model``, to be taken up again."""
        return {
            TRAINING: pack_training(self.network, self.optimizer),
            METRICS: to_json_lines(self.history),
        }

    def restore(self, folder: str) -> None:
        """Go on from a folder that holds a checkpoint and what ``pack`` returned."""
        unpack_training(self.network, self.optimizer, read_bytes(join(folder, TRAINING)))
        self.eval_model.load_state_dict(load_checkpoint(folder).models[0].state_dict())
        self.history = from_json_lines(read_bytes(join(folder, METRICS)))
        if self.average:
            self.average.n_averaged.fill_(self.num_steps_done)

    def epochs(
        self, model: nn.Module, batches: BatchSource, advance: Advance
    ) -> Iterator[dict[str, Any]]:
        """Train the epochs that are left, and yield the metrics of each as they join the history.

        Args:
            model: The network, or what averages its gradients over the workers.
            batches: Examples to learn from and to score on.
            advance: Told about the steps, on the first worker about once a second.

        Raises:
            JobError: The loss is not finite.
        """
        for epoch in range(len(self.history), self.recipe.num_epochs):
            start = time.monotonic()
            loss, correct, seen = self._train(model, batches, epoch, advance).tolist()
            trained = time.monotonic()
            scores = self._evaluate(batches)
            # The last step's weights show in the scores alone.
            if not (math.isfinite(loss) and math.isfinite(scores["val_loss"])):
                raise JobError(_explosion(epoch))
            metrics = {
                "epoch": epoch + 1,
                "step": (epoch + 1) * steps_per_epoch(batches.num_train, self.recipe.batch_size),
                "train_loss": loss / seen,
                "train_accuracy": correct / seen,
                "images_per_second": seen / (trained - start),
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
        """Train for one epoch; return its loss, right answers and examples of all workers."""
        # Dropout is drawn anew each epoch, so that a resumed run goes on as the first would have.
        torch.manual_seed(seed_of_worker(self.recipe.seed, epoch, self.rank))
        per_epoch = steps_per_epoch(batches.num_train, self.recipe.batch_size)
        said = {"epoch": f"{epoch + 1}/{self.recipe.num_epochs}", **self._newest()}
        totals, told = torch.zeros(3, dtype=torch.float64), time.monotonic()
        steps = train_epoch(
            model,
            batches.train_batches(epoch),
            self.optimizer,
            self.recipe,
            self.recipe.num_epochs * per_epoch,
            self.world_size,
            self.average,
        )
        for step, step_totals in enumerate(steps, start=epoch * per_epoch + 1):
            totals += step_totals.cpu()
            if self.rank == 0 and time.monotonic() - told > PROGRESS_INTERVAL_SECONDS:
                told = time.monotonic()
                advance(step, {**said, "loss": f"{totals[0] / totals[2]:.3f}"})
        return self._sum_over_workers(totals)

    def _newest(self) -> dict[str, str]:
        names = ("val_accuracy", "val_macro_f1") if self.history else ()
        return {name: f"{self.history[-1][name]:.3f}" for name in names}

    def _evaluate(self, batches: BatchSource) -> dict[str, float]:
        """Evaluate each worker's part with the statistics of rank 0, which are those kept."""
        if self.world_size > 1:
            for buffer in self.eval_model.buffers():
                dist.broadcast(buffer, src=0)
        num_classes = self.network.output.out_features
        losses, confusion = evaluate_epoch(
            self.eval_model, batches.val_batches(), self.recipe, num_classes
        )
        temperature, loss = best_temperature(self._sum_over_workers(losses))
        accuracy, macro_f1 = scores_from_confusion(self._sum_over_workers(confusion).numpy())
        return {
            "val_loss": loss / batches.num_val,
            "val_accuracy": accuracy,
            "val_macro_f1": macro_f1,
            "temperature": temperature,
        }

    def _sum_over_workers(self, totals: Tensor) -> Tensor:
        if self.world_size > 1:
            totals = totals.to(next(self.network.parameters()).device)
            dist.all_reduce(totals)
        return totals.cpu()


def _explosion(epoch: int) -> str:
    last = f"epoch {epoch} is the last good one" if epoch else "no epoch was good"
    return f"The loss of epoch {epoch + 1} is not finite, {last}: train anew with a lower --lr."
