"""What a job takes, told before it runs: time, cost, requests and bytes, by measured coefficients.

Work is counted in core-seconds and divided among all CPUs: what a cluster loses by waiting for its
slowest is added where it is known (the last chunk, the exchange of gradients), and nothing else is.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from fer import storage
from fer.errors import InputError
from fer.labels import chunks
from fer.storage import listing
from fer.vision.detector import DETECTION_SIDE

NUM_PARAMETERS = {"shallow": 4_927_111, "deep": 4_474_759}
"""Numbers of a network, each of which is a gradient of four bytes."""

DETECTION_MEGAPIXELS = DETECTION_SIDE**2 * 3 / 4 / 1e6
"""Megapixels that the detector sees of a larger photograph, whose sides are as 4 to 3."""

REQUESTS_PER_IMAGE = 2
"""Requests for an image, one after the other: a HEAD tells pyarrow its size, a GET brings it."""

REQUESTS_PER_CHUNK = {"get": 5, "put": 6}
"""The same for a chunk: its file of the manifest is written and read, its labels are written; what
is written is begun, sent and ended, three requests that cost what a PUT does."""

REQUEST_PRICES = {"list": 5e-6, "put": 5e-6, "get": 4e-7}
"""Dollars a request: S3 Standard in us-east-1 as AWS listed it in 2025, an assumption to check."""


@dataclass(frozen=True)
class Coefficients:
    """What one core takes for one of something, in seconds, and what comes with every job.

    Attributes:
        measured: Where and when.
        crop: Decoding a face that is a file of its own.
        decode: Decoding a megapixel of a photograph.
        detect: Finding faces, a megapixel of those that are looked at; 0 where not measured.
        classify: The network, a face.
        pipeline: All else of labeling, an image: lists, tables, processes, files.
        label_start: Seconds before the first image and after the last one.
        row_bytes: Bytes of the labels, a row.
        chunk_bytes: The same of a chunk besides: its thumbnails and what was counted.
        train: A step's share of an image, by network.
        val: Scoring an image.
        train_start: Seconds before the first step and after the last epoch.
        epoch: Seconds that an epoch's checkpoint takes.
        gpu_train: The same as train on a GPU, by network; empty where that was not measured.
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
    val: float
    train_start: float
    epoch: float
    gpu_train: Mapping[str, float]

    @classmethod
    def read(cls, location: str) -> "Coefficients":
        """Read what was written by ``write``.

        Raises:
            InputError: The file is not there, or is something else.
        """
        expected = {field.name for field in fields(cls)}
        try:
            told = json.loads(storage.read_bytes(location))
        except (OSError, ValueError) as error:
            raise InputError(
                f"--coefficients {location} can't be read ({error}): make it with --calibrate."
            ) from error
        if not isinstance(told, dict) or told.keys() != expected:
            raise InputError(
                f"--coefficients {location} are not those of this version: make the file anew with "
                "--calibrate."
            )
        return cls(**told)

    def write(self, location: str) -> None:
        """Write the coefficients as JSON."""
        storage.write_bytes(location, json.dumps(asdict(self), indent=2).encode())


@dataclass(frozen=True)
class ClusterShape:
    """A cluster, without its head.

    Attributes:
        num_nodes: Workers' nodes.
        cpus: CPUs of each.
        gpus: GPUs of each.
        price: Dollars an hour of each.
        gbps: Gigabits a second that a node sends.
    """

    num_nodes: int
    cpus: int
    gpus: int = 0
    price: float = 0.0
    gbps: float = 10.0


@dataclass(frozen=True)
class Plan:
    """What a job takes.

    Attributes:
        seconds: From its start to its end, on nodes that are there.
        seconds_by_stage: The same by what takes it.
        requests: To an object store, by what they cost: HEAD as GET, all that writes as PUT.
        output_bytes: What it writes.
    """

    seconds: float
    seconds_by_stage: Mapping[str, float]
    requests: Mapping[str, int]
    output_bytes: int

    def cost(self, shape: ClusterShape) -> dict[str, float]:
        """Return dollars by what costs them, the nodes' to the second."""
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
    seconds_per_start: float = 0.0,
) -> Plan:
    """Return what labeling takes.

    Args:
        num_images: How many.
        shape: The cluster.
        costs: What one of something takes.
        megapixels: Size of a photograph; None for faces that are cropped already.
        faces_per_image: How many are found.
        request_seconds: What the store takes to answer a request; each image waits for two.
        seconds_per_start: What the nodes take to be there.

    Raises:
        InputError: Photographs are asked for, and detecting was not measured.
    """
    look = costs.crop
    if megapixels is not None and not costs.detect:
        raise InputError(
            f"{costs.measured} measured no detector: --calibrate with one, or plan for --detector "
            "none."
        )
    if megapixels is not None:
        look = costs.decode * megapixels + costs.detect * min(megapixels, DETECTION_MEGAPIXELS)
    compute = look + faces_per_image * costs.classify + costs.pipeline
    # Looking waits for the store; classifying, in a process of its own, goes on meanwhile.
    per_image = max(compute, look + REQUESTS_PER_IMAGE * request_seconds)
    cpus = shape.num_nodes * shape.cpus
    sizes = chunk_sizes(num_images)
    largest, num_chunks = sizes
    # The last chunk is one task's: on average the others wait for half of it.
    tail = min(largest, num_images) * per_image / 2 if cpus > 1 else 0.0
    seconds_by_stage = {
        "start": seconds_per_start + costs.label_start,
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


def chunk_sizes(num_images: int) -> tuple[int, int]:
    """Return how large the largest chunk of a source is, and how many chunks there are."""
    size, number, seen = chunks.MIN_IMAGES, 0, 0
    while seen < num_images:
        size = min(chunks.MAX_IMAGES, max(chunks.MIN_IMAGES, seen // chunks.GROWTH))
        if size == chunks.MAX_IMAGES:
            return size, number + math.ceil((num_images - seen) / size)
        seen += size
        number += 1
    return size, number


def plan_train(
    num_examples: int,
    num_epochs: int,
    shape: ClusterShape,
    costs: Coefficients,
    *,
    model: str = "deep",
    batch_size: int = 128,
    seconds_per_start: float = 0.0,
) -> Plan:
    """Return what training takes, with an eighth as many examples to score on.

    Args:
        num_examples: Those of the training split.
        num_epochs: Passes over them.
        shape: The cluster, with a worker on each GPU, or on each node where there are none.
        costs: What one of something takes.
        model: The network.
        batch_size: Examples a step, of all workers.
        seconds_per_start: What the nodes take to be there.

    Raises:
        InputError: Nothing was measured of this network, or on a GPU.
    """
    gpus = shape.num_nodes * shape.gpus
    per_example = (costs.gpu_train if gpus else costs.train).get(model)
    if per_example is None:
        where = "a GPU" if gpus else "a CPU"
        raise InputError(
            f"Nothing was measured of the {model} network on {where}: run --calibrate where there "
            f"is one, with --model {model}{' and --use-gpu' if gpus else ''}."
        )
    num_workers = gpus or shape.num_nodes
    share = gpus or shape.num_nodes * shape.cpus
    steps = num_epochs * max(1, num_examples // batch_size)
    exchange = exchange_seconds(4 * NUM_PARAMETERS[model], num_workers, shape.gbps)
    seconds_by_stage = {
        "start": seconds_per_start + costs.train_start,
        "steps": steps * batch_size * per_example / share,
        "gradients": steps * exchange,
        "scoring": num_epochs * num_examples / 8 * costs.val / (shape.num_nodes * shape.cpus),
        "checkpoints": num_epochs * costs.epoch,
    }
    # A checkpoint with all that resuming needs: the network, its average and the momentum.
    checkpoint_bytes = 3 * 4 * NUM_PARAMETERS[model]
    requests = {"list": num_epochs, "get": 8 * num_workers, "put": 8 * num_epochs}
    return Plan(sum(seconds_by_stage.values()), seconds_by_stage, requests, 2 * checkpoint_bytes)


def exchange_seconds(num_bytes: int, num_workers: int, gbps: float) -> float:
    """Return what a ring all-reduce of gradients takes at best, without latency or overlap.

    Each worker sends 2 (N - 1) / N of the bytes (Patarasuk and Yuan 2009, doi
    10.1016/j.jpdc.2008.09.002).

    Args:
        num_bytes: Size of the gradients.
        num_workers: N, each on a link of its own.
        gbps: Gigabits a second that a link carries.
    """
    return 2 * (num_workers - 1) / num_workers * num_bytes * 8 / (gbps * 1e9)
