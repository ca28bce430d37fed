"""Estimate the time, cost, requests and bytes of a job from measured coefficients.

Work is counted in core-seconds and divided by the number of CPUs. Two losses from waiting are
known and added: the wait for the last chunk and the exchange of gradients. Other losses are not
modeled.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from fer import storage
from fer.data.fetching import NUM_FETCHED_AHEAD
from fer.errors import InputError
from fer.labels import chunks
from fer.storage import listing
from fer.vision.detector import DETECTION_SIDE

DETECTION_MEGAPIXELS = DETECTION_SIDE**2 * 3 / 4 / 1e6
"""Megapixels that a larger photograph, with sides of 4 to 3, has after scaling for the detector."""

REQUESTS_PER_IMAGE = 2
"""Sequential requests per image: pyarrow sends a HEAD for the size, then a GET for the content."""

REQUESTS_PER_CHUNK = {"get": 5, "put": 6}
"""Requests per chunk: its file of the worklist is written and read, and its labels are written.

Writing a file takes three requests (begin, send and complete the upload), each at the price of a
PUT.
"""

REQUEST_PRICES = {"list": 5e-6, "put": 5e-6, "get": 4e-7}
"""Dollars per request, an assumption to check: AWS's 2025 prices of S3 Standard in us-east-1."""


@dataclass(frozen=True)
class Coefficients:
    """Measured costs of the units of work. Times are in seconds on one CPU core.

    Attributes:
        measured: Where and when the costs were measured.
        crop: Time to decode one cropped face from its own file.
        decode: Time to decode one megapixel of a photograph.
        detect: Time to detect faces in one megapixel after scaling for the detector; 0 if not
            measured.
        classify: Time to classify one face.
        pipeline: Time per image for the rest of labeling: lists, tables, processes, files.
        label_start: Time of a label job before the first image and after the last one.
        row_bytes: Bytes of the labels per row.
        chunk_bytes: Bytes of the labels per chunk for everything but rows: thumbnails and counts.
        train: Time to train on one example of FER2013's shape, by network.
        val: Time to evaluate one such example, by network.
        train_start: Time of a train job before the first step and after the last epoch.
        epoch: Time to write the checkpoint of one epoch.
        gpu_train: Time to train on one such example on a GPU, by network; empty if not measured.
        gpu_val: Time to evaluate one such example on a GPU, by network; empty if not measured.
    """

    measured: str
    crop: float
    decode: float
    detect: float
    classify: float
    pipeline: float
    label_start: float
    row_bytes: float
    chunk_bytes: float
    train: Mapping[str, float]
    val: Mapping[str, float]
    train_start: float
    epoch: float
    gpu_train: Mapping[str, float]
    gpu_val: Mapping[str, float]

    @classmethod
    def read(cls, location: str) -> "Coefficients":
        """Read coefficients from a JSON file that ``write`` wrote.

        Args:
            location: Path or URI of the file.

        Raises:
            InputError: The file can't be read, or holds other fields.
        """
        expected = {field.name for field in fields(cls)}
        try:
            content = json.loads(storage.read_bytes(location))
        except (OSError, ValueError) as error:
            raise InputError(
                f"--coefficients {location} can't be read ({error}); create the file with "
                "--calibrate."
            ) from error
        if not isinstance(content, dict) or content.keys() != expected:
            raise InputError(
                f"--coefficients {location} does not have the fields that this version expects; "
                "create the file again with --calibrate."
            )
        return cls(**content)

    def write(self, location: str) -> None:
        """Write the coefficients as JSON."""
        storage.write_bytes(location, json.dumps(asdict(self), indent=2).encode())


@dataclass(frozen=True)
class ClusterShape:
    """The worker nodes of a cluster; the head node does not count.

    Attributes:
        num_nodes: Number of worker nodes.
        cpus: CPUs per node.
        gpus: GPUs per node.
        price: Dollars per node and hour.
        gbps: Gigabits per second that a node can send.
    """

    num_nodes: int
    cpus: int
    gpus: int = 0
    price: float = 0.0
    gbps: float = 10.0


@dataclass(frozen=True)
class PlannedNetwork:
    """The network of a planned training.

    Attributes:
        num_parameters: Number of parameters; each has a gradient of four bytes.
        measured_as: The measured network from whose times those of this one follow.
        ratio: This network's multiply-adds for an example, in those of the measured one.
    """

    num_parameters: int
    measured_as: str
    ratio: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The estimate of one job.

    Attributes:
        seconds: Duration of the job.
        seconds_by_stage: The parts of ``seconds`` by stage.
        requests: Number of requests to an object store by price class: HEAD counts as ``get``, and
            every request that writes counts as ``put``.
        output_bytes: Bytes that the job writes.
    """

    seconds: float
    seconds_by_stage: Mapping[str, float]
    requests: Mapping[str, int]
    output_bytes: int

    def cost(self, shape: ClusterShape) -> dict[str, float]:
        """Return the cost in dollars of nodes and of requests; nodes are billed by the second."""
        hours = self.seconds / 3600
        requests = sum(REQUEST_PRICES[kind] * number for kind, number in self.requests.items())
        return {"nodes": shape.num_nodes * shape.price * hours, "requests": requests}


def plan_label(
    num_images: int,
    shape: ClusterShape,
    costs: Coefficients,
    *,
    megapixels: float | None,
    faces_per_image: float = 1.0,
    request_seconds: float = 0.0,
    node_start_seconds: float = 0.0,
) -> Plan:
    """Estimate a label job.

    Args:
        num_images: Number of images.
        shape: The cluster.
        costs: Measured coefficients.
        megapixels: Size of a photograph; None for images that are cropped faces.
        faces_per_image: Mean number of faces that are detected in an image.
        request_seconds: Response time of the object store; each image waits for two requests.
        node_start_seconds: Time until the nodes are ready.

    Raises:
        InputError: ``megapixels`` is given, but the coefficients do not cover detection.
    """
    detect = _detection_seconds(megapixels, costs)
    compute = detect + faces_per_image * costs.classify + costs.pipeline
    # A process computes while it waits for the next images, of which it fetches several at a time.
    per_image = max(compute, REQUESTS_PER_IMAGE * request_seconds / NUM_FETCHED_AHEAD)
    cpus = shape.num_nodes * shape.cpus
    largest, num_chunks = chunk_sizes(num_images)
    # One task works on the last chunk. On average the other CPUs wait for half of its time.
    tail = min(largest, num_images) * per_image / 2 if cpus > 1 else 0.0
    seconds_by_stage = {
        "start": node_start_seconds + costs.label_start,
        "images": num_images * per_image / cpus,
        "last chunk": tail,
    }
    rows = max(1.0, faces_per_image) * num_images
    requests = {
        "list": math.ceil(num_images / listing.PAGE_SIZE),
        "get": REQUESTS_PER_IMAGE * num_images + REQUESTS_PER_CHUNK["get"] * num_chunks,
        "put": REQUESTS_PER_CHUNK["put"] * num_chunks,
    }
    output_bytes = round(rows * costs.row_bytes + num_chunks * costs.chunk_bytes)
    return Plan(sum(seconds_by_stage.values()), seconds_by_stage, requests, output_bytes)


def _detection_seconds(megapixels: float | None, costs: Coefficients) -> float:
    """Return the time to decode an image and to detect its faces."""
    if megapixels is None:
        return costs.crop
    if not costs.detect:
        raise InputError(
            f"The coefficients ({costs.measured}) do not cover detection; run --calibrate with a "
            "detector, or plan for --detector none."
        )
    return costs.decode * megapixels + costs.detect * min(megapixels, DETECTION_MEGAPIXELS)


def chunk_sizes(num_images: int) -> tuple[int, int]:
    """Return the size of the largest chunk of a source, and the number of its chunks."""
    size, num_chunks, num_cut = chunks.MIN_IMAGES, 0, 0
    while num_cut < num_images:
        size = min(chunks.MAX_IMAGES, max(chunks.MIN_IMAGES, num_cut // chunks.GROWTH))
        if size == chunks.MAX_IMAGES:
            # Chunks grow no further: the rest, perhaps a billion images, needs no loop.
            return size, num_chunks + math.ceil((num_images - num_cut) / size)
        num_cut += size
        num_chunks += 1
    return size, num_chunks


def plan_train(
    num_examples: int,
    num_epochs: int,
    shape: ClusterShape,
    costs: Coefficients,
    network: PlannedNetwork,
    *,
    batch_size: int = 128,
    node_start_seconds: float = 0.0,
) -> Plan:
    """Estimate a train job, whose ``val`` split has an eighth as many examples as ``train``.

    Args:
        num_examples: Examples of the training split.
        num_epochs: Passes over the training split.
        shape: The cluster, with a worker on each GPU, or on each node if there are no GPUs.
        costs: Measured coefficients, which cover the network that ``network`` is measured as.
        network: The network.
        batch_size: Examples per step, over all workers.
        node_start_seconds: Time until the nodes are ready.
    """
    gpus = shape.num_nodes * shape.gpus
    num_processors = gpus or shape.num_nodes * shape.cpus
    train, val = (costs.gpu_train, costs.gpu_val) if gpus else (costs.train, costs.val)
    per_example = network.ratio * train[network.measured_as]
    per_scored = network.ratio * val[network.measured_as]
    num_workers = gpus or shape.num_nodes
    steps = num_epochs * max(1, num_examples // batch_size)
    exchange = exchange_seconds(4 * network.num_parameters, num_workers, shape.gbps)
    seconds_by_stage = {
        "start": node_start_seconds + costs.train_start,
        "steps": steps * batch_size * per_example / num_processors,
        "gradients": steps * exchange,
        "scoring": num_epochs * num_examples / 8 * per_scored / num_processors,
        "checkpoints": num_epochs * costs.epoch,
    }
    # A checkpoint that a run can resume from holds the network, its average and the momentum.
    checkpoint_bytes = 3 * 4 * network.num_parameters
    requests = {"list": num_epochs, "get": 8 * num_workers, "put": 8 * num_epochs}
    return Plan(sum(seconds_by_stage.values()), seconds_by_stage, requests, 2 * checkpoint_bytes)


def exchange_seconds(num_bytes: int, num_workers: int, gbps: float) -> float:
    """Return the least time of a ring all-reduce, without latency or overlap with computation.

    Each of N workers sends 2 (N - 1) / N times the size of the gradients (Patarasuk and Yuan 2009,
    doi 10.1016/j.jpdc.2008.09.002).

    Args:
        num_bytes: Size of the gradients.
        num_workers: N; each worker has its own link.
        gbps: Gigabits per second that a link carries.
    """
    return 2 * (num_workers - 1) / num_workers * num_bytes * 8 / (gbps * 1e9)
