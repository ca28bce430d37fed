"""Batches for one training worker: its share of every global batch, and its share of ``val``.

A recipe fixes the global batches. The same seed gives the same examples in the same global batches,
augmented in the same way, whatever the number of workers.
"""

from collections import deque
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fer.data.dataset import Dataset, Examples
from fer.models.devices import send
from fer.models.transforms import Augmentation, Preprocess
from fer.training.recipe import Recipe, seed_of_epoch, steps_per_epoch
from fer.training.targets import TargetBuilder, smoothed_targets
from fer.vision.shape import IMAGE_SIZE, ImageShape

VAL_BATCH_SIZE = 256
"""Images of 48x48 pixels that are evaluated at a time."""

NUM_DRAWN_AHEAD = 8
"""Batches whose augmentation is drawn while a GPU trains on those before them."""

TEACHER_BATCH_SIZE = 1024
"""Images that a worker passes to the teacher at a time."""


def example_bytes(num_classes: int, shape: ImageShape) -> int:
    """Return the bytes of a worker's memory that one example needs.

    An example consists of its pixels, its label and one target per class. It counts twice because
    two copies exist while the examples are sorted and copied to the device.
    """
    return 2 * (shape.num_bytes + 8 + 4 * num_classes)


def val_batch_size(size: int) -> int:
    """Return how many images of a side in pixels are evaluated at a time.

    Larger ones are fewer, so that a network's maps of them take no more memory.
    """
    return max(1, min(VAL_BATCH_SIZE, VAL_BATCH_SIZE * IMAGE_SIZE**2 // size**2))


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch.

    Attributes:
        images: uint8 (b, S, S), or (b, S, S, 3) for color.
        labels: int64 (b,).
        targets: float32 (b, C), the probabilities to learn; a row sums to its example's weight.
        votes: float32 (b, 10), share of each column in the FER+ votes; None if they are not
            learned beside the labels.
        augmentation: Transforms of each image, or None without augmentation.
        partners: The example that each one is mixed with, or None without mixup.
        global_size: Number of examples in the global batch.
        step: Index of the global batch, counted from 0 at the start of the first epoch.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    votes: Tensor | None
    augmentation: Augmentation | None
    partners: "DeviceExamples | None"
    global_size: int
    step: int

    def view(self, preprocess: Preprocess) -> Tensor:
        """Return the images as a network sees them: degraded, preprocessed and augmented.

        Args:
            preprocess: A value of ``PREPROCESSING``.

        Returns:
            float32 (b, C, S, S).
        """
        if self.augmentation is None:
            return preprocess(self.images)
        degradations = self.augmentation.degradations
        images = preprocess(degradations.apply(self.images) if degradations else self.images)
        partners = preprocess(self.partners.images) if self.partners else None
        return self.augmentation.apply(images, partners)

    def mixed_targets(self) -> Tensor:
        """Return the targets of the images that ``view`` returns, float32 (b, C)."""
        return self._mixed(self.targets, self.partners.targets if self.partners else None)

    def mixed_votes(self) -> Tensor:
        """Return the votes on the images that ``view`` returns, float32 (b, 10)."""
        assert self.votes is not None
        return self._mixed(self.votes, self.partners.votes if self.partners else None)

    def _mixed(self, own: Tensor, partners: Tensor | None) -> Tensor:
        if self.augmentation is None or partners is None:
            return own
        return own.lerp(partners, self.augmentation.shares_on(own.device).unsqueeze(1))


@dataclass(frozen=True)
class DeviceExamples:
    """Examples in the memory of the device that trains or evaluates on them.

    Attributes:
        images: uint8 (N, S, S), or (N, S, S, 3) for color.
        labels: int64 (N,).
        targets: float32 (N, C), the probabilities to learn; a row sums to its example's weight.
        is_copy: bool (N,), whether the image is in ``train`` too; None if none of them is.
        votes: float32 (N, 10), share of each column in the FER+ votes; None if they are not
            learned beside the labels.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    is_copy: Tensor | None = None
    votes: Tensor | None = None

    @classmethod
    def from_examples(
        cls,
        examples: Examples,
        num_classes: int,
        device: torch.device,
        copies: Set[str] = frozenset(),
    ) -> "DeviceExamples":
        """Copy examples to a device, with their one-hot labels as targets.

        Args:
            examples: N examples. Their digests must have been read if there are copies.
            num_classes: C.
            device: The device.
            copies: Digests of the images that are in ``train`` too.
        """
        images, labels = torch.tensor(examples.images), torch.tensor(examples.labels)
        targets = smoothed_targets(labels, num_classes, 0.0)
        is_copy = None
        if copies:
            assert examples.digests is not None
            is_copy = torch.tensor([digest in copies for digest in examples.digests]).to(device)
        return cls(images.to(device), labels.to(device), targets.to(device), is_copy)

    def batch(
        self,
        augmentation: Augmentation | None,
        partners: "DeviceExamples | None",
        global_size: int,
        step: int,
    ) -> Batch:
        """Return the examples as a batch to train on; the arguments are those of ``Batch``."""
        own = (self.images, self.labels, self.targets, self.votes)
        return Batch(*own, augmentation, partners, global_size, step)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "DeviceExamples":
        """Return the examples at a slice or at a tensor of indices."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        present = {name: part[index] for name, part in parts.items() if part is not None}
        return DeviceExamples(**present)


class BatchSource(Protocol):
    """A source of the batches that one worker trains on and is evaluated on."""

    @property
    def num_train(self) -> int:
        """Number of examples in ``train``, over all workers."""

    @property
    def num_val(self) -> int:
        """Number of examples in ``val``, over all workers."""

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's share of each global batch of an epoch, in a random order.

        Args:
            epoch: Number of the epoch, from 0.
        """

    def val_batches(self) -> Iterator[DeviceExamples]:
        """Yield this worker's share of ``val`` in batches."""


@dataclass(frozen=True)
class InMemoryBatches:
    """Both splits in the device's memory, so that training neither decodes nor copies images.

    Attributes:
        recipe: The recipe that fixes the batches.
        train_examples: All of ``train``, with the recipe's targets.
        val_examples: All of ``val``, with one-hot labels as targets.
        rank: Number of this worker, from 0.
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
        on_teacher_progress: Callable[[int], None] = lambda _num_images: None,
    ) -> "InMemoryBatches":
        """Read both splits of a dataset into a device's memory.

        Args:
            data: The dataset.
            recipe: The recipe that fixes the batches.
            device: The worker's device.
            rank: Number of the worker, from 0.
            world_size: Number of workers.
            on_teacher_progress: Called with the number of training images that the teacher has
                classified so far. A teacher can take minutes.

        Raises:
            InputError: A split is empty, the recipe uses votes and the dataset has none, or the
                teacher is not a checkpoint.
        """
        num_classes = len(data.class_names)
        train, val = data.read_split("train"), data.read_split("val")
        builder = TargetBuilder.fit(recipe, train.labels, train.votes, num_classes, device)
        targets = _build_targets(builder, train, device, rank, world_size, on_teacher_progress)
        train_examples = DeviceExamples.from_examples(train, num_classes, device)
        votes = builder.build_votes(train)
        train_examples = replace(
            train_examples,
            targets=targets.to(device),
            votes=None if votes is None else votes.to(device),
        )
        copies = data.copies_of_train("val")
        val_examples = DeviceExamples.from_examples(val, num_classes, device, copies)
        return cls(recipe, train_examples, val_examples, rank, world_size)

    @property
    def num_train(self) -> int:
        """Number of examples in ``train``."""
        return len(self.train_examples)

    @property
    def num_val(self) -> int:
        """Number of examples in ``val``."""
        return len(self.val_examples)

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's share of each global batch of an epoch, in a new random order.

        Examples at the end that do not fill a global batch are dropped from this epoch.
        """
        drawn = self._draw(epoch)
        if self._device.type == "cuda":
            # On a processor, it would only compete with the training.
            drawn = _ahead(drawn, NUM_DRAWN_AHEAD)
        first_step = epoch * steps_per_epoch(len(self.train_examples), self.recipe.batch_size)
        for step, (indices, augmentation) in enumerate(drawn, start=first_step):
            yield self._batch(indices, augmentation, step)

    @property
    def _device(self) -> torch.device:
        return self.train_examples.images.device

    def _draw(self, epoch: int) -> Iterator[tuple[Tensor, Augmentation | None]]:
        """Yield the examples' indices and the augmentation of each global batch of an epoch.

        They are drawn for the global batch so that they do not depend on the number of workers.
        """
        recipe, examples = self.recipe, self.train_examples
        generator = torch.Generator().manual_seed(seed_of_epoch(recipe.seed, epoch))
        order = torch.randperm(len(examples), generator=generator)
        size = examples.images.shape[1]
        for index in range(steps_per_epoch(len(examples), recipe.batch_size)):
            indices = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
            augmentation = None
            if recipe.augmentation:
                augmentation = Augmentation.draw(len(indices), generator, recipe.augmentation, size)
            yield indices, augmentation

    def _batch(self, indices: Tensor, augmentation: Augmentation | None, step: int) -> Batch:
        """Return this worker's share of the global batch of the examples at some indices."""
        share = slice(self.rank, None, self.world_size)
        own = self.train_examples[send(indices[share], self._device)]
        augmentation, partners = augmentation[share] if augmentation else None, None
        if augmentation and augmentation.partners is not None:
            partners = self.train_examples[send(indices[augmentation.partners], self._device)]
        return own.batch(augmentation, partners, len(indices), step)

    def val_batches(self) -> Iterator[DeviceExamples]:
        """Yield this worker's share of ``val`` in batches."""
        share = self.val_examples[self.rank :: self.world_size]
        batch_size = val_batch_size(share.images.shape[1])
        for start in range(0, len(share), batch_size):
            yield share[start : start + batch_size]


Item = TypeVar("Item")


def _ahead(items: Iterator[Item], number: int) -> Iterator[Item]:
    """Yield the items of an iterator, which a thread prepares some items ahead."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(number))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]


def _build_targets(
    builder: TargetBuilder,
    examples: Examples,
    device: torch.device,
    rank: int,
    world_size: int,
    on_teacher_progress: Callable[[int], None],
) -> Tensor:
    """Return the targets float32 (N, C) of all N examples.

    The teacher, if there is one, is slow. Each worker asks it about its own share of the examples,
    and all workers exchange the results.
    """
    if not builder.teacher:
        return builder.build(examples)
    targets = torch.zeros(len(examples), len(builder.weights))
    stride = TEACHER_BATCH_SIZE * world_size
    for start in range(rank, len(examples), stride):
        share = slice(start, start + stride, world_size)
        targets[share] = builder.build(examples[share])
        on_teacher_progress(min(start + stride, len(examples)))
    if world_size > 1:
        targets = targets.to(device)
        dist.all_reduce(targets)
    return targets
