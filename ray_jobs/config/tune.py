"""The flags of ``fer tune``."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fer.errors import InputError
from ray_jobs.config.checks import (
    forbid_together,
    require_above_zero,
    require_at_least,
    require_distinct,
    require_poolable,
    require_seed,
    require_web_address,
)
from ray_jobs.config.types import (
    Location,
    Model,
    OptionalInt,
    OptionalLocation,
    OptionalUrl,
    Study,
)
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search hyperparameters, or compare variants of one choice, over many short training runs."""

    dataset: Location
    """Folder or URI of the dataset to train on."""
    output: Location
    """Folder or URI where the study is written."""
    study: Study = "search"
    """What is studied. search varies the learning rate, batch size, epochs, weight decay and
    dropout of --model. paper does the same for both networks of the paper. recipe leaves out or
    changes one part of training at a time. The others compare the variants of the choice that they
    are named after, all else equal."""
    model: Model = "deep"
    """Network to train in each trial. --study paper chooses its own networks and ignores this flag.
    --study depth takes only the family from it: the residual networks of its width, or else the
    plain networks."""
    pretrained: OptionalLocation = None
    """Published weights of --model that --study pretrained compares with random ones, as for
    fer train: a file, or imagenet for those of efficientnet-lite0."""
    num_samples: int = 16
    """Number of trials of --study search and --study paper, at least 1. A comparison runs one trial
    for each variant and each of --seeds."""
    search: Literal["random", "optuna"] = "random"
    """How a search chooses the values of the next trial: at random, or by Optuna."""
    num_epochs: int = 12
    """Largest number of passes over the training split in a trial, at least 1."""
    max_concurrent_trials: OptionalInt = None
    """Largest number of trials that run at the same time, at least 1. By default as many run as the
    cluster has room for."""
    cpus_per_trial: float = 1.0
    """CPUs that each trial reserves, above 0. With fractions, trials share a CPU."""
    gpus_per_trial: float = 0.0
    """GPUs that each trial reserves, at least 0. With fractions, trials share a GPU."""
    select_by: Literal["val_macro_f1", "val_accuracy"] = "val_macro_f1"
    """Score on the val split by which trials and epochs are ranked, without images that the train
    split holds too."""
    seed: int = 0
    """Random seed of the search and of every trial, from 0 to 4294967295."""
    seeds: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """Random seeds of a comparison, from 0 to 4294967295: each variant is trained once with each of
    them, and the report shows means and standard deviations. By default each variant is trained
    once, with --seed."""
    notify: OptionalUrl = None
    """http:// or https:// URL that gets a POST when the job ends: the RESULT line, or the error and
    the exit code. With a secret in the environment variable FER_NOTIFY_SECRET it is signed. By
    default nothing is sent."""
    resume: bool = False
    """Continue the unfinished study that --output holds, or begin one if there is none."""
    overwrite: bool = False
    """Replace the study that --output already holds."""

    def __post_init__(self) -> None:
        require_web_address(self, "notify")
        require_at_least(self, 1, "num_samples", "num_epochs", "max_concurrent_trials")
        require_seed(self.seed)
        for seed in self.seeds:
            require_seed(seed, "--seeds")
        require_distinct("--seeds", self.seeds)
        if self.seeds and self.study in ("search", "paper"):
            raise InputError(
                f"--seeds repeats the variants of a comparison, but --study {self.study} searches; "
                "leave --seeds out, or choose a comparison such as --study recipe."
            )
        if (self.pretrained is not None) != (self.study == "pretrained"):
            raise InputError(
                "--study pretrained and --pretrained go together: the study compares those weights "
                "with random ones; give both, or neither."
            )
        require_poolable(self.model, "--study pooling", self.study == "pooling")
        require_above_zero(self, "cpus_per_trial")
        require_at_least(self, 0, "gpus_per_trial")
        forbid_together(self, "resume", "overwrite")
