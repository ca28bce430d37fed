"""What a worker is fed: its part of every global batch of an epoch, and its part of ``val``.

A recipe fixes the global batch: the same seed gives the same examples in the same global batches,
moved in the same way, however many workers share them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from fer.data.dataset import Dataset, Examples
from fer.models.transforms import Augmentation
from fer.training.recipe import Recipe, seed_of_epoch, steps_per_epoch
from fer.training.targets import TargetBuilder, smoothed_targets
from fer.vision.decode import IMAGE_SIZE

VAL_BATCH_SIZE = 256


def example_bytes(num_classes: int) -> int:
    """Return what an example takes of a worker's memory: pixels, a label, a target a class.

    Twice, since there are two copies while the examples are sorted and placed.
    """
    return 2 * (IMAGE_SIZE**2 + 8 + 4 * num_classes)


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch.

    Attributes:
        images: uint8 (b, 48, 48).
        labels: int64 (b,).
        targets: float32 (b, C), what the network is to say.
        augmentation: How each image is moved, or None.
        global_size: Examples of the whole batch.
        step: Number of the batch since the first epoch, from 0.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    augmentation: Augmentation | None
    global_size: int
    step: int


@dataclass(frozen=True)
class DeviceExamples:
    """Examples that lie in the memory of the device that computes on them.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: int64 (N,).
        targets: float32 (N, C), what the network is to say; a row's sum is its example's weight.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor

    @classmethod
    def from_examples(
        cls, examples: Examples, num_classes: int, device: torch.device
    ) -> "DeviceExamples":
        """Copy examples to a device, their labels as they are for targets."""
        images, labels = torch.tensor(examples.images), torch.tensor(examples.labels)
        targets = smoothed_targets(labels, num_classes, 0.0)
        return cls(images.to(device), labels.to(device), targets.to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | Tensor) -> "DeviceExamples":
        """Return some of the examples."""
        return DeviceExamples(self.images[part], self.labels[part], self.targets[part])


class BatchSource(Protocol):
    """What a worker trains and is evaluated on."""

    @property
    def num_train(self) -> int:
        """Examples of ``train``, those of all workers together."""

    @property
    def num_val(self) -> int:
        """Examples of ``val``, those of all workers together."""

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's part of each global batch of an epoch, from 0, in a random order."""

    def val_batches(self) -> Iterator[DeviceExamples]:
        """Yield this worker's part of ``val``, some examples at a time."""


@dataclass(frozen=True)
class InMemoryBatches:
    """Both splits in the memory of the device: nothing decodes or copies while it trains.

    Attributes:
        recipe: Fixes the batches.
        train_examples: All of ``train``, with the recipe's targets.
        val_examples: All of ``val``, with its labels for targets.
        rank: Number of this worker.
        world_size: Number of workers.
    """

    recipe: Recipe
    train_examples: DeviceExamples
    val_examples: DeviceExamples
    rank: int = 0
    world_size: int = 1

    @classmethod
    def load(
        cls,
        data: Dataset,
        recipe: Recipe,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        taught: Callable[[int], None] = lambda _number: None,
    ) -> "InMemoryBatches":
        """Read a dataset onto a device.

        Args:
            data: The dataset.
            recipe: Fixes the batches.
            device: Of the worker.
            rank: Number of the worker.
            world_size: Number of workers.
            taught: Told how many training images a teacher has seen, which takes its time.

        Raises:
            InputError: A split is empty, or has no votes though the recipe wants them, or the
                teacher is no checkpoint.
        """
        num_classes = len(data.class_names)
        train, val = data.read_split("train"), data.read_split("val")
        builder = TargetBuilder.fit(recipe, train.labels, train.votes, num_classes, device)
        targets = _targets(builder, train, rank, world_size, taught).to(device)
        placed = replace(DeviceExamples.from_examples(train, num_classes, device), targets=targets)
        return cls(
            recipe, placed, DeviceExamples.from_examples(val, num_classes, device), rank, world_size
        )

    @property
    def num_train(self) -> int:
        """Examples of ``train``."""
        return len(self.train_examples)

    @property
    def num_val(self) -> int:
        """Examples of ``val``."""
        return len(self.val_examples)

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's part of each global batch of an epoch, in a new random order.

        The rest that does not fill a global batch is left to other epochs.
        """
        recipe, examples = self.recipe, self.train_examples
        generator = torch.Generator().manual_seed(seed_of_epoch(recipe.seed, epoch))
        order = torch.randperm(len(examples), generator=generator)
        num_steps = steps_per_epoch(len(examples), recipe.batch_size)
        for index in range(num_steps):
            chosen = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
            moves = Augmentation.draw(len(chosen), generator) if recipe.augment else None
            part = slice(self.rank, None, self.world_size)
            mine = examples[chosen[part].to(examples.images.device)]
            yield Batch(
                mine.images,
                mine.labels,
                mine.targets,
                moves[part] if moves else None,
                len(chosen),
                epoch * num_steps + index,
            )

    def val_batches(self) -> Iterator[DeviceExamples]:
        """Yield this worker's part of ``val``."""
        mine = self.val_examples[self.rank :: self.world_size]
        for start in range(0, len(mine), VAL_BATCH_SIZE):
            yield mine[start : start + VAL_BATCH_SIZE]


TEACHER_BATCH_SIZE = 1024


def _targets(
    builder: TargetBuilder,
    examples: Examples,
    rank: int,
    world_size: int,
    taught: Callable[[int], None],
) -> Tensor:
    """Return the targets of all examples; of a teacher each worker asks its share of them."""
    if not builder.teacher:
        return builder.build(examples)
    targets = torch.zeros(len(examples), len(builder.weights))
    stride = TEACHER_BATCH_SIZE * world_size
    for start in range(rank, len(examples), stride):
        part = slice(start, start + stride, world_size)
        targets[part] = builder.build(examples[part])
        taught(min(start + stride, len(examples)))
    if world_size > 1:
        targets = targets.to(builder.teacher.device)
        dist.all_reduce(targets)
    return targets
