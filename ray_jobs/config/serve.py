"""The flags of ``fer serve``."""

from dataclasses import dataclass
from typing import Literal

from fer.errors import InputError
from ray_jobs.config.checks import (
    require,
    require_above_zero,
    require_at_least,
    require_fraction,
    require_processors,
)
from ray_jobs.config.types import BUNDLED, Location, OptionalLocation
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a checkpoint over HTTP, as an API and a page to try it, until the job is stopped."""

    checkpoint: Location = BUNDLED
    """Folder, URI or shipped name of the checkpoint that classifies the faces."""
    detector: Literal["yunet", "none"] = "yunet"
    """How faces are found: yunet detects the faces of photographs; none takes each image as one
    face that is cropped as in FER2013."""
    detector_weights: OptionalLocation = None
    """Path or URI of YuNet's ONNX file. By default the file of OpenCV's model zoo is used, which is
    downloaded once."""
    min_face_size: float = 16.0
    """Smallest width, in pixels of the photograph, of a face that is classified."""
    any_orientation: bool = False
    """Also find the faces of photographs that lie on a side or upside down without saying so in
    their EXIF. A photograph without clearly upright faces is searched four times, each time turned
    by another 90 degrees."""
    min_confidence: float = 0.0
    """Smallest confidence, from 0 to 1, at which a face gets an emotion. A face below it has none,
    and an image in which no face has one has the status uncertain."""
    engine: Literal["auto", "float32", "int8"] = "auto"
    """How the network computes. auto is the fastest way that scores as well as float32: int8 on
    processors if the checkpoint has it, bfloat16 on GPUs that support it."""
    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs a token in the
    environment variable FER_API_TOKEN."""
    port: int = 8000
    """TCP port to listen on, from 1 to 65535."""
    min_replicas: int = 1
    """Number of replicas, processes that answer requests, that run even without traffic, at least
    1."""
    max_replicas: int = 1
    """Largest number of replicas, processes that answer requests, under load. It must be at least
    --min-replicas."""
    cpus_per_replica: float = 1.0
    """CPUs that each replica reserves, above 0. Its network uses as many threads."""
    gpus_per_replica: float = 0.0
    """GPUs that each replica reserves, at least 0. With 0.5 or less, replicas share a GPU."""
    max_batch_size: int = 32
    """Largest number of faces, from any number of requests, that the network classifies at once, at
    least 1."""
    batch_wait_ms: float = 2.0
    """Longest time in milliseconds that an incomplete batch waits for more faces."""
    max_images: int = 64
    """Largest number of images in a request, at least 1."""
    max_frames: int = 120
    """Largest number of frames of a video that a request may ask for, at least 1."""
    max_body_mib: float = 32.0
    """Largest size of a request's body in MiB, above 0."""
    timeout_seconds: float = 30.0
    """Longest time in seconds that a request may take, above 0."""
    allow_anonymous: bool = False
    """Start without FER_API_TOKEN even if other machines can reach the server or Ray Serve deploys
    it."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "min_replicas", "max_batch_size", "max_images", "max_frames")
        if self.max_replicas < self.min_replicas:
            raise InputError(
                f"--max-replicas must be at least --min-replicas, which is {self.min_replicas}, "
                f"but is {self.max_replicas}."
            )
        require(0 < self.port < 65536, "--port", "from 1 to 65535", self.port)
        require_fraction(self, "min_confidence")
        require_above_zero(self, "cpus_per_replica", "max_body_mib", "timeout_seconds")
        require_at_least(self, 0, "gpus_per_replica", "min_face_size", "batch_wait_ms")
        require_processors(self.engine, "--gpus-per-replica", self.gpus_per_replica > 0)
