"""The stage that runs networks on faces, apart from the others since it alone waits for torch."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from fer.errors import JobError
from fer.models.checkpoint import read_id
from fer.models.engine import EngineName
from fer.models.predictor import Predictor
from fer.vision.decode import IMAGE_SIZE
from ray_jobs.cluster import autoscaling, session
from ray_jobs.pipeline import stages

BATCH_SIZE = 512
"""Images that are handed to a network's process at once."""

CLASSIFY_CPUS = 0.75
"""What classifying reserves; what comes before takes the rest, so that each CPU runs one of each.
"""


class Classifier:
    """A process that keeps networks in memory and adds their probabilities to tables of images.

    It takes a column ``crops`` away, a list of faces of 2,304 bytes an image (or null), and adds
    one column a network, ``probs_0`` and so on: for each image a list of lists of float32 (C,).
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        ids: Sequence[str],
        *,
        tta: bool = False,
        engine: EngineName = "auto",
    ) -> None:
        # There is a process for each CPU: threads of its own would get in the others' way.
        torch.set_num_threads(1)
        device = _reserved_device()
        self.predictors = [Predictor.load(each, device, engine) for each in checkpoints]
        for location, expected, predictor in zip(checkpoints, ids, self.predictors, strict=True):
            _check_id(location, expected, predictor.id)
        self.tta = tta

    def __call__(self, images: pa.Table) -> pa.Table:
        """Classify all faces of a table of images."""
        crops = [faces or () for faces in images["crops"].to_pylist()]
        joined = b"".join(crop for faces in crops for crop in faces)
        batch = np.frombuffer(joined, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
        ends = np.cumsum([0, *map(len, crops)]).astype(np.int32)
        rest = images.drop_columns("crops")
        for index, predictor in enumerate(self.predictors):
            probs = predictor.predict_probs(batch, tta=self.tta)
            rest = rest.append_column(f"probs_{index}", _as_lists(probs, ends))
        return rest


def _check_id(location: str, expected: str, found: str) -> None:
    """Refuse what has been overwritten since the job began: processes are started all the time."""
    if found != expected:
        raise JobError(
            f"{location} was {expected} when the job began, and is {found} by now: keep each "
            "network in a folder of its own."
        )


def _reserved_device() -> str:
    """Return what this process reserved; a GPU that it sees without having done so is another's."""
    if not ray.get_gpu_ids():
        return "cpu"
    if not torch.cuda.is_available():
        node = ray.util.get_node_ip_address()
        raise JobError(
            f"The node {node} offers a GPU that torch can't use: check its driver and that its "
            "torch is built for CUDA."
        )
    return "cuda"


class ChunkClassifier(Classifier):
    """The same for chunks: rows of ``chunk``, a name, and ``table``, a packed table of images."""

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """Classify all faces of some chunks."""
        return stages.each_table(super().__call__)(chunks)


def _as_lists(probs: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Return probabilities float32 (N, C) as lists of lists, cut where each image's faces end."""
    num_faces, num_classes = probs.shape
    bounds = pa.array(np.arange(num_faces + 1, dtype=np.int32) * num_classes)
    faces = pa.ListArray.from_arrays(bounds, pa.array(probs.ravel()))
    return pa.ListArray.from_arrays(pa.array(ends), faces)


def classify(
    rows: ray.data.Dataset,
    checkpoints: Sequence[str],
    *,
    classifier: type[Classifier] = Classifier,
    batch_size: int = BATCH_SIZE,
    tta: bool = False,
    engine: EngineName = "auto",
    num_cpus: float = CLASSIFY_CPUS,
    use_gpu: bool = False,
) -> ray.data.Dataset:
    """Add the probabilities of networks to images, with at most one process a CPU, or a GPU.

    Args:
        rows: What the classifier takes.
        checkpoints: The networks.
        classifier: Takes images, or chunks of them.
        batch_size: Rows that it is handed at once.
        tta: Whether to average over each face and its mirror image.
        engine: How each process runs them.
        num_cpus: What each process reserves on CPUs.
        use_gpu: Whether each has a GPU, and leaves the CPUs to the other stages.
    """
    needed = {"num_gpus": 1, "num_cpus": 0} if use_gpu else {"num_cpus": num_cpus}
    most: int | None = max(1, int(ray.cluster_resources().get("GPU" if use_gpu else "CPU", 1)))
    if autoscaling.is_autoscaled():
        # Nodes that come later have processes too.
        most = None
    return rows.map_batches(
        classifier,
        fn_constructor_kwargs={
            "checkpoints": list(checkpoints),
            "ids": [read_id(each) for each in checkpoints],
            "tta": tta,
            "engine": engine,
        },
        batch_format="pyarrow",
        batch_size=batch_size,
        runtime_env=session.INFERENCE_MEMORY,
        **needed,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
    )
