"""The examples of a dataset that a worker's memory does not hold, streamed by Ray Data."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import ray.data
import torch
from ray import train as ray_train
from ray.data import DataIterator, ExecutionOptions, RandomSeedConfig

from fer.data.dataset import Dataset, Examples, examples_from_table
from fer.models.transforms import Augmentation
from fer.training.batches import VAL_BATCH_SIZE, Batch, DeviceExamples
from fer.training.recipe import Recipe, seed_of_worker, steps_per_epoch
from fer.training.targets import TargetBuilder
from ray_jobs.pipeline import stages

TRAIN = "train"
"""Names the stream of training examples to Ray Train."""

READ_CPUS = 1
"""CPUs that reading and shuffling need beside the workers'."""

PREFETCHED_BATCHES = 4


def train_examples(data: Dataset, seed: int) -> ray.data.Dataset:
    """Return the training split in another random order each time that it is read.

    All of it is shuffled, through the object store, which spills what it can't hold to disk:
    shuffled within a buffer alone, examples that lie in the order of their classes would stay so.
    """
    return stages.read_split(data, "train", ("image", "label", "votes")).random_shuffle(
        seed=RandomSeedConfig(seed)
    )


def data_config() -> ray_train.DataConfig:
    """Return how the stream is run: without the limits of pipelines that keep nothing."""
    return ray_train.DataConfig(execution_options=ExecutionOptions())


@dataclass(frozen=True)
class StreamedBatches:
    """Both splits as streams: a worker holds some batches of images.

    Of labels and votes it holds all, 18 bytes an example. The global batches are of the same size
    as those of ``InMemoryBatches``, and as many; which examples meet in them is up to Ray Data's
    shuffle, and how they are moved differs by worker.

    Attributes:
        data: The dataset.
        recipe: Fixes the batches.
        target_builder: Builds the targets of each batch.
        stream: This worker's share of ``train_examples``.
        device: Where batches are put.
        rank: Number of this worker.
        world_size: Number of workers, of which the batch size is a multiple.
    """

    data: Dataset
    recipe: Recipe
    target_builder: TargetBuilder
    stream: DataIterator
    device: torch.device
    rank: int
    world_size: int

    @classmethod
    def open(
        cls, data: Dataset, recipe: Recipe, device: torch.device, rank: int, world_size: int
    ) -> "StreamedBatches":
        """Join the stream as a worker of Ray Train.

        Raises:
            InputError: The dataset has no votes though the recipe wants them, or the teacher is no
                checkpoint.
        """
        builder = TargetBuilder.fit(
            recipe, *data.read_labels("train"), len(data.class_names), device
        )
        stream = ray_train.get_dataset_shard(TRAIN)
        return cls(data, recipe, builder, stream, device, rank, world_size)

    @property
    def num_train(self) -> int:
        """Examples of ``train``."""
        return sum(self.data.counts("train").values())

    @property
    def num_val(self) -> int:
        """Examples of ``val``."""
        return sum(self.data.counts("val").values())

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's part of each global batch of an epoch."""
        num_steps = steps_per_epoch(self.num_train, self.recipe.batch_size)
        seed = seed_of_worker(self.recipe.seed, epoch, self.rank)
        generator = torch.Generator().manual_seed(seed)
        tables = self.stream.iter_batches(
            batch_size=self.recipe.batch_size // self.world_size,
            batch_format="pyarrow",
            prefetch_batches=PREFETCHED_BATCHES,
            drop_last=True,
        )
        for index, table in enumerate(islice(tables, num_steps)):
            yield self._batch(examples_from_table(table), epoch * num_steps + index, generator)

    def _batch(self, examples: Examples, step: int, generator: torch.Generator) -> Batch:
        targets = self.target_builder.build(examples)
        moves = Augmentation.draw(len(examples), generator) if self.recipe.augment else None
        return Batch(
            torch.tensor(examples.images).to(self.device),
            torch.tensor(examples.labels).to(self.device),
            targets.to(self.device),
            moves,
            self.recipe.batch_size,
            step,
        )

    def val_batches(self) -> Iterator[DeviceExamples]:
        """Yield this worker's part of ``val``, read from its own share of the files."""
        num_classes = len(self.data.class_names)
        for examples in self.data.stream_split("val", VAL_BATCH_SIZE, self.rank, self.world_size):
            yield DeviceExamples.from_examples(examples, num_classes, self.device)
