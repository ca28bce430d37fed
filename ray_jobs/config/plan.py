"""The flags of ``fer plan``."""

from dataclasses import dataclass
from typing import Literal

from fer.vision.shape import MAX_SIZE, MIN_SIZE
from ray_jobs.config.checks import require, require_above_zero, require_at_least
from ray_jobs.config.types import Model, OptionalLocation
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Predict the time, cost, requests and output size of a job before it runs."""

    job: Literal["label", "train"] = "label"
    """Job to plan."""
    num_images: int = 1_000_000
    """Number of images to label, or of examples to train on, at least 1. For train, an eighth as
    many examples are scored in each epoch."""
    detector: Literal["yunet", "none"] = "yunet"
    """Detector of the planned label job: yunet for photographs, none for faces that are already
    cropped."""
    megapixels: float = 1.0
    """Size of each photograph to label, in millions of pixels, above 0."""
    faces_per_image: float = 1.0
    """Mean number of faces in a photograph to label, at least 0."""
    request_ms: float = 0.0
    """Time in milliseconds that the store takes to answer a request, at least 0. Each image waits
    for two requests. Use 0 for a disk; 20 to 50 is an assumption for S3 in the same region."""
    model: Model = "deep"
    """Network of the planned train job. Its time follows from the multiply-adds of the most similar
    network that was measured."""
    image_size: int = 48
    """Side in pixels of the images of the planned train job, from 24 to 224."""
    color: bool = False
    """Plan to train on images in color."""
    num_epochs: int = 30
    """Number of passes over the training split in the planned train job, at least 1."""
    batch_size: int = 128
    """Number of examples in each training step of the planned train job, over all workers, at least
    1."""
    num_nodes: int = 1
    """Number of nodes that the planned job runs on, at least 1."""
    cpus_per_node: int = 16
    """Number of CPUs of each node, at least 1."""
    gpus_per_node: int = 0
    """Number of GPUs of each node, at least 0. A planned train job has one worker on each GPU."""
    price_per_hour: float = 0.714
    """Price of a node in US dollars an hour, at least 0. The default is that of an on-demand
    c7i.4xlarge in us-east-1, as AWS listed it in 2025."""
    link_gbps: float = 10.0
    """Network bandwidth of each node in gigabits a second, above 0."""
    start_seconds: float = 0.0
    """Seconds until the nodes are ready, at least 0. Allow some minutes for nodes that are started
    for the job."""
    calibrate: bool = False
    """First measure the coefficients of the plan on this machine, which takes some minutes."""
    coefficients: OptionalLocation = None
    """Path or URI of the JSON file from which the coefficients of the plan are read, or to which
    --calibrate writes them. By default the coefficients that fer-on-ray ships are read."""
    detector_weights: OptionalLocation = None
    """Path or URI of YuNet's ONNX file, which --calibrate runs. By default the file of OpenCV's
    model zoo is used, which is downloaded once."""
    use_gpu: bool = False
    """Let --calibrate measure training on a GPU too."""

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "num_images", "num_epochs", "batch_size", "num_nodes", "cpus_per_node"
        )
        is_size = MIN_SIZE <= self.image_size <= MAX_SIZE
        require(is_size, "--image-size", f"from {MIN_SIZE} to {MAX_SIZE}", self.image_size)
        require_above_zero(self, "megapixels", "link_gbps")
        require_at_least(
            self, 0, "faces_per_image", "request_ms", "price_per_hour", "start_seconds"
        )
        require_at_least(self, 0, "gpus_per_node")
