"""The flags of ``fer demo``."""

from dataclasses import dataclass

from ray_jobs.config.checks import require_at_least, require_seed
from ray_jobs.config.types import Location
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run ingest, train, evaluate and label on drawn faces, in minutes."""

    output: Location = "demo"
    """Folder where all results of the demo are written."""
    num_faces: int = 640
    """Number of faces to draw, at least 100."""
    num_epochs: int = 3
    """Number of passes over the training split for each network, at least 1."""
    seed: int = 0
    """Random seed of the drawn faces and of training, from 0 to 4294967295."""
    overwrite: bool = False
    """Replace the demo that --output already holds."""

    def __post_init__(self) -> None:
        require_at_least(self, 100, "num_faces")
        require_at_least(self, 1, "num_epochs")
        require_seed(self.seed)
