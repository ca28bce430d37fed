"""The stage that runs networks on faces."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import ray
import ray.data

from fer.errors import JobError
from fer.models.checkpoint import Checkpoint
from fer.models.engine import EngineName
from fer.models.predictor import Predictor
from fer.vision.shape import ImageShape
from ray_jobs.cluster import autoscaling
from ray_jobs.pipeline import stages

BATCH_SIZE = 512
"""Most images in a batch that a network's process receives."""

BATCH_BYTES = 64 * 2**20
"""Most bytes of crops in such a batch."""

CLASSIFY_CPUS = 0.75
"""CPUs that a classifying process reserves.

The stage before it reserves the rest, so that each CPU runs one task of each stage.
"""


def images_per_batch(shape: ImageShape, crops_per_image: int) -> int:
    """Return how many images a network's process receives at a time, at least 1."""
    return max(1, min(BATCH_SIZE, BATCH_BYTES // (crops_per_image * shape.num_bytes)))


class Classifier:
    """A process that keeps networks in memory and adds their probabilities to tables of images.

    It replaces the column ``crops``, which holds for each image a list of the bytes of its faces
    (or null), by one column a network: ``probs_0``, ``probs_1`` and so on. These hold for each
    image a list with one list of float32 (C,) a face. A column ``engine`` tells how the first was
    computed.
    """

    batch_size: ClassVar[int] = BATCH_SIZE

    def __init__(
        self,
        checkpoints: "ray.ObjectRef[Sequence[Checkpoint]]",
        shape: ImageShape,
        engine: EngineName,
        *,
        tta: bool,
    ) -> None:
        device = _reserved_device()
        # Every CPU has its own process, so more threads would compete for the same CPUs.
        self.predictors = [
            Predictor(checkpoint, device, engine, num_threads=1)
            for checkpoint in ray.get(checkpoints)
        ]
        self.shape, self.tta = shape, tta

    def __call__(self, images: pa.Table) -> pa.Table:
        """Classify all faces of a table of images."""
        crops = [faces or () for faces in images["crops"].to_pylist()]
        joined = b"".join(crop for faces in crops for crop in faces)
        batch = self.shape.unpack(joined)
        ends = np.cumsum([0, *map(len, crops)]).astype(np.int32)
        classified = images.drop_columns("crops")
        for index, predictor in enumerate(self.predictors):
            probs = predictor.predict_probs(batch, tta=self.tta)
            classified = classified.append_column(f"probs_{index}", _as_lists(probs, ends))
        engine = pa.array([self.predictors[0].engine] * len(images), pa.string())
        return classified.append_column("engine", engine)


def _reserved_device() -> str:
    """Return the device that Ray reserved for this process: ``cpu`` or ``cuda``.

    A process can see a GPU without having reserved it; that GPU belongs to another process.
    """
    if not ray.get_gpu_ids():
        return "cpu"
    import torch  # noqa: PLC0415 - slow, and processes without a GPU never need it

    if not torch.cuda.is_available():
        node = ray.util.get_node_ip_address()
        raise JobError(
            f"The node {node} offers a GPU that torch cannot use. Check its driver, and that its "
            "torch is built for CUDA."
        )
    return "cuda"


class ChunkClassifier(Classifier):
    """A ``Classifier`` for chunks: rows of ``chunk``, a name, and ``table``, a packed table.

    It also adds a column ``classify_seconds``: the seconds that an image took, on average.
    """

    batch_size: ClassVar[int] = 1

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """Classify all faces of a table of chunks."""
        return stages.on_packed_tables(self.classify_timed)(chunks)

    def classify_timed(self, images: pa.Table) -> pa.Table:
        """Classify all faces of a table of images, and add ``classify_seconds``."""
        start = time.perf_counter()
        classified = super().__call__(images)
        seconds = (time.perf_counter() - start) / max(1, len(images))
        return classified.append_column("classify_seconds", pa.array([seconds] * len(images)))


def _as_lists(probs: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Return probabilities float32 (N, C) as one list of lists for each image.

    Args:
        probs: Probabilities of all faces, image by image.
        ends: int32 (images + 1,), the index of each image's first face, then N.
    """
    num_faces, num_classes = probs.shape
    bounds = pa.array(np.arange(num_faces + 1, dtype=np.int32) * num_classes)
    faces = pa.ListArray.from_arrays(bounds, pa.array(probs.ravel()))
    return pa.ListArray.from_arrays(pa.array(ends), faces)


@dataclass(frozen=True)
class Inference:
    """Which networks classify images, and how.

    Attributes:
        checkpoints: The networks. They are read once, so that all processes run the same ones,
            even if a folder is overwritten meanwhile.
        shape: Shape of the faces that they get.
        engine: How each process runs its networks.
        tta: Whether to average over each face and its mirror image (test-time augmentation).
        use_gpu: Whether each process reserves a GPU instead, and leaves the CPUs to other stages.
    """

    checkpoints: tuple[Checkpoint, ...]
    shape: ImageShape
    engine: EngineName = "auto"
    tta: bool = False
    use_gpu: bool = False

    def resources(self) -> dict[str, float]:
        """Return what each process reserves, as arguments of Ray Data."""
        return {"num_gpus": 1, "num_cpus": 0} if self.use_gpu else {"num_cpus": CLASSIFY_CPUS}

    def max_processes(self) -> int | None:
        """Return the most processes to start: one a CPU, or one a GPU; None for no limit."""
        if autoscaling.is_autoscaled():
            # Nodes that join later run processes too.
            return None
        return max(1, int(ray.cluster_resources().get("GPU" if self.use_gpu else "CPU", 1)))


def classify(
    rows: ray.data.Dataset,
    inference: Inference,
    classifier: type[Classifier] = Classifier,
    batch_size: int | None = None,
) -> ray.data.Dataset:
    """Add the probabilities of networks to images.

    Args:
        rows: Images, or chunks of images for a ``ChunkClassifier``.
        inference: Which networks classify them, and how.
        classifier: Class whose instances run the networks, one in each process.
        batch_size: Number of rows that it receives at a time; by default its own.
    """
    return rows.map_batches(
        classifier,
        fn_constructor_kwargs={
            "checkpoints": ray.put(inference.checkpoints),
            "shape": inference.shape,
            "engine": inference.engine,
            "tta": inference.tta,
        },
        batch_format="pyarrow",
        batch_size=batch_size or classifier.batch_size,
        **inference.resources(),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=inference.max_processes()),
    )
