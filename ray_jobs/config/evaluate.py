"""The flags of ``fer evaluate``."""

from dataclasses import dataclass
from typing import Literal

from fer.errors import InputError
from ray_jobs.config.checks import require, require_web_address
from ray_jobs.config.types import Location, Locations, OptionalUrl
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score checkpoints on a dataset and write a report with the paper's tables and figures."""

    dataset: Location
    """Folder or URI of the dataset to score on."""
    checkpoint: Locations
    """One or more folders, URIs or shipped names of checkpoints to score and compare."""
    output: Location
    """Folder or URI where the report is written."""
    split: Literal["train", "val", "test"] = "val"
    """Split of the dataset to score on. Choose networks on val, and look at test once, at the
    end."""
    tta: bool = False
    """Average the probabilities of each image and its mirror image (test-time augmentation). It
    takes twice as long."""
    robustness: bool = False
    """Also score the networks on the same faces, degraded as in photographs: small, noisy, blurred,
    compressed, turned, framed otherwise, badly lit or partly covered. It takes 24 times as
    long."""
    ensemble: bool = False
    """Also score the average of all checkpoints as one more network, and write it as a checkpoint
    into the folder ensemble of --output."""
    fusion: Literal["average", "exponential"] = "average"
    """How --ensemble weighs its members: all the same (average), or by a power of each member's
    score on the val split (exponential)."""
    notify: OptionalUrl = None
    """http:// or https:// URL that gets a POST when the job ends: the RESULT line, or the error and
    the exit code. With a secret in the environment variable FER_NOTIFY_SECRET it is signed. By
    default nothing is sent."""
    overwrite: bool = False
    """Replace the report that --output already holds."""

    def __post_init__(self) -> None:
        require_web_address(self, "notify")
        require(bool(self.checkpoint), "--checkpoint", "one or more locations", "missing")
        if self.fusion != "average" and not (self.ensemble and self.split == "val"):
            raise InputError(
                f"--fusion {self.fusion} needs --ensemble and --split val; give both, or leave "
                "--fusion out."
            )
