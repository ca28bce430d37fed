"""Examples streamed by Ray Data, for a dataset that does not fit in a worker's memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import ray.data
import torch
from ray import train as ray_train
from ray.data import DataIterator, ExecutionOptions, RandomSeedConfig

from fer.data.dataset import Dataset, Examples, examples_from_table
from fer.models.devices import send
from fer.models.transforms import Augmentation
from fer.training.batches import Batch, DeviceExamples, val_batch_size
from fer.training.recipe import Recipe, seed_of_worker, steps_per_epoch
from fer.training.targets import TargetBuilder
from ray_jobs.pipeline import stages

TRAIN = "train"
"""Name of the stream of training examples in Ray Train."""

READ_CPUS = 1
"""CPUs that reading and shuffling need in addition to the workers'."""

PREFETCHED_BATCHES = 4


def train_examples(data: Dataset, seed: int) -> ray.data.Dataset:
    """Return the training split, in a new random order each time it is read.

    The whole split is shuffled through the object store, which spills to disk when it is full.
    Shuffling within a buffer would not be enough: files that are sorted by class would give batches
    of few classes.
    """
    return stages.read_split(data, "train", ("image", "label", "votes")).random_shuffle(
        seed=RandomSeedConfig(seed)
    )


def data_config() -> ray_train.DataConfig:
    """Return the options of the stream: without the memory limit that ``session.connect`` sets.

    A shuffle holds the whole split in the object store.
    """
    return ray_train.DataConfig(execution_options=ExecutionOptions())


@dataclass(frozen=True)
class StreamedBatches:
    """Batches of both splits, streamed so that a worker holds only a few batches of images.

    A worker still holds all labels and votes, 18 bytes an example. The number and size of the
    global batches are those of ``InMemoryBatches``. Which examples share a batch is up to Ray
    Data's shuffle, and the random augmentation differs between workers.

    Attributes:
        data: The dataset.
        recipe: Sets the batch size, the seed and the augmentation.
        target_builder: Builds the targets of each batch.
        stream: This worker's share of ``train_examples``.
        copies: Digests of the images of ``val`` that ``train`` holds too.
        device: Device that holds the batches.
        rank: Number of this worker.
        world_size: Number of workers. It divides the batch size.
    """

    data: Dataset
    recipe: Recipe
    target_builder: TargetBuilder
    stream: DataIterator
    copies: frozenset[str]
    device: torch.device
    rank: int
    world_size: int

    @classmethod
    def open(
        cls, data: Dataset, recipe: Recipe, device: torch.device, rank: int, world_size: int
    ) -> "StreamedBatches":
        """Connect a worker of Ray Train to its share of the stream.

        Raises:
            InputError: The recipe needs votes that the dataset does not have, or the teacher is not
                a checkpoint.
        """
        builder = TargetBuilder.fit(
            recipe, *data.read_labels("train"), len(data.class_names), device
        )
        stream = ray_train.get_dataset_shard(TRAIN)
        copies = data.copies_of_train("val")
        return cls(data, recipe, builder, stream, copies, device, rank, world_size)

    @property
    def num_train(self) -> int:
        """Number of examples in ``train``."""
        return sum(self.data.counts("train").values())

    @property
    def num_val(self) -> int:
        """Number of examples in ``val``."""
        return sum(self.data.counts("val").values())

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's share of each global batch of an epoch."""
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
            examples = examples_from_table(table, self.data.shape)
            yield self._batch(examples, epoch * num_steps + index, generator)

    def _batch(self, examples: Examples, step: int, generator: torch.Generator) -> Batch:
        votes = self.target_builder.build_votes(examples)
        own = DeviceExamples(
            send(torch.tensor(examples.images), self.device),
            send(torch.tensor(examples.labels), self.device),
            send(self.target_builder.build(examples), self.device),
            votes=None if votes is None else send(votes, self.device),
        )
        augmentation, partners = None, None
        if self.recipe.augmentation:
            size = self.data.shape.size
            augmentation = Augmentation.draw(len(own), generator, self.recipe.augmentation, size)
            if augmentation.partners is not None:
                partners = own[send(augmentation.partners, self.device)]
        return own.batch(augmentation, partners, self.recipe.batch_size, step)

    def val_batches(self) -> Iterator[DeviceExamples]:
        """Yield this worker's share of ``val``, in batches read from its share of the files."""
        num_classes, batch_size = len(self.data.class_names), val_batch_size(self.data.shape.size)
        for examples in self.data.stream_split("val", batch_size, self.rank, self.world_size):
            yield DeviceExamples.from_examples(examples, num_classes, self.device, self.copies)
