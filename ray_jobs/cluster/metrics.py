"""The jobs' own metrics, which Ray's Prometheus endpoints carry beside Ray's.

Names follow Prometheus' conventions (https://prometheus.io/docs/practices/naming/). Ray puts
``ray_`` before them. What is recorded is recorded once a chunk, an epoch or a batch, never once a
face: Ray Data's workers do not record at all, because the driver gets what a chunk took with its
tally. Ray keeps the series of each process that ever recorded until its node ends, so the fewer
processes record, the better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import ray.util.metrics

MAX_OBSERVED = 64
"""Most faces of a chunk or a batch whose confidence is observed: every so-manyth of them."""


@dataclass(frozen=True)
class Metric:
    """A metric as the code names it.

    Attributes:
        name: The name without Ray's prefix.
        description: What is counted or measured, as a noun.
        tags: Names of its labels.
    """

    kind: ClassVar[str]
    name: str
    description: str
    tags: tuple[str, ...] = ()

    @property
    def exported_name(self) -> str:
        """The name that Prometheus sees."""
        return f"ray_{self.name}"


@dataclass(frozen=True)
class Counter(Metric):
    """A number that only grows."""

    kind: ClassVar[str] = "counter"

    def add(self, number: float, **tags: str) -> None:
        """Add a number, which may be 0."""
        if number:
            _instrument(self).inc(number, tags)


@dataclass(frozen=True)
class Gauge(Metric):
    """A number that goes up and down, for as long as the process that sets it lives."""

    kind: ClassVar[str] = "gauge"

    def set(self, value: float, **tags: str) -> None:
        """Set the number."""
        _instrument(self).set(value, tags)


@dataclass(frozen=True)
class Histogram(Metric):
    """Numbers of values up to each of some bounds.

    Ray passes on only the bucket of each value, so the sum that it exports is an approximation.

    Attributes:
        bounds: Upper bounds of the buckets, above 0.
    """

    kind: ClassVar[str] = "histogram"
    bounds: tuple[float, ...] = ()

    def observe(self, value: float, **tags: str) -> None:
        """Count a value."""
        _instrument(self).observe(value, tags)


@cache
def _instrument(metric: Metric) -> Any:  # noqa: ANN401 - one of three classes of Ray
    """Return this process's instrument of a metric."""
    bounds = {"boundaries": list(metric.bounds)} if isinstance(metric, Histogram) else {}
    made: type = getattr(ray.util.metrics, type(metric).__name__)
    return made(metric.name, metric.description, tag_keys=metric.tags, **bounds)


SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

LATENCIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

INGEST_EXAMPLES = Counter("fer_ingest_examples_total", "Examples that were written")
INGEST_REJECTS = Counter("fer_ingest_rejects_total", "Images and rows that were rejected")

LABEL_IMAGES = Counter("fer_label_images_total", "Images and frames of videos that got rows")
LABEL_FACES = Counter("fer_label_faces_total", "Faces that the network classified")
LABEL_FAILURES = Counter(
    "fer_label_failures_total",
    "Images that could not be used, by the status of their row",
    ("status",),
)
LABEL_BYTES = Counter("fer_label_read_bytes_total", "Bytes of images and videos that were read")
LABEL_SECONDS = Counter(
    "fer_label_stage_seconds_total",
    "Seconds that all tasks together spent in a stage: `detect` (with fetching and decoding), "
    "`classify` or `write`",
    ("stage",),
)
LABEL_CHUNKS = Histogram("fer_label_chunk_images", "Images and frames of a chunk", (), SIZES)
LABEL_CONFIDENCE = Histogram(
    "fer_label_confidence_ratio",
    f"Confidence of the most probable emotion, for up to {MAX_OBSERVED} faces of each chunk",
    ("emotion",),
    SHARES,
)

TRAIN_EPOCHS = Counter("fer_train_epochs_total", "Epochs that were trained", ("run",))
TRAIN_LOSS = Gauge("fer_train_loss", "Mean loss of the last epoch", ("run", "split"))
TRAIN_ACCURACY = Gauge(
    "fer_train_accuracy_ratio", "Accuracy of the last epoch, 0 to 1", ("run", "split")
)
TRAIN_MACRO_F1 = Gauge(
    "fer_train_macro_f1_ratio", "Macro-F1 of the last epoch, 0 to 1", ("run", "split")
)
TRAIN_SPEED = Gauge(
    "fer_train_images_per_second", "Images per second of all workers in the last epoch", ("run",)
)
TRAIN_WORKERS = Gauge("fer_train_workers", "Workers that share each batch", ("run",))

SERVE_IMAGES = Counter(
    "fer_serve_images_total",
    "Images and videos of requests, by the status of their result",
    ("status",),
)
SERVE_FACES = Counter("fer_serve_faces_total", "Faces that the network classified")
SERVE_REQUESTS = Histogram(
    "fer_serve_request_seconds",
    "Seconds from the decoded request to its answer, in a replica",
    (),
    LATENCIES,
)
SERVE_SECONDS = Counter(
    "fer_serve_network_seconds_total", "Seconds that replicas' networks computed"
)
SERVE_BATCHES = Histogram(
    "fer_serve_batch_faces", "Faces that the network classified at once", (), SIZES
)
SERVE_WAITING = Gauge("fer_serve_waiting_faces", "Faces of a replica that wait for its network")
SERVE_CONFIDENCE = Histogram(
    "fer_serve_confidence_ratio",
    f"Confidence of the most probable emotion, for up to {MAX_OBSERVED} faces of each batch",
    ("emotion",),
    SHARES,
)

METRICS = tuple(value for value in list(vars().values()) if isinstance(value, Metric))
"""All metrics, in the order of this module."""


def observe_confidences(metric: Histogram, faces: Sequence[tuple[str, float]]) -> None:
    """Observe the confidence of some faces, pairs of an emotion and its probability."""
    for emotion, confidence in faces[:: stride(len(faces))]:
        metric.observe(confidence, emotion=emotion)


def stride(num_faces: int) -> int:
    """Return the step by which at most ``MAX_OBSERVED`` faces are taken out of all."""
    return max(1, -(-num_faces // MAX_OBSERVED))


def record_epoch(run: str, epoch: Mapping[str, float]) -> None:
    """Record an epoch of a training.

    Args:
        run: Name of the training.
        epoch: Its metrics, as ``metrics.jsonl`` has them.
    """
    TRAIN_EPOCHS.add(1, run=run)
    for split in ("train", "val"):
        TRAIN_LOSS.set(epoch[f"{split}_loss"], run=run, split=split)
        TRAIN_ACCURACY.set(epoch[f"{split}_accuracy"], run=run, split=split)
    TRAIN_MACRO_F1.set(epoch["val_macro_f1"], run=run, split="val")
    TRAIN_SPEED.set(epoch["images_per_second"], run=run)
    TRAIN_WORKERS.set(epoch["num_workers"], run=run)
