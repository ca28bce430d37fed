"""One trial of a study: a network that is trained in one process, which reports every epoch."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from ray import tune

from fer.data.dataset import open_dataset
from fer.errors import JobError
from fer.models import checkpoint
from fer.training.batches import InMemoryBatches
from fer.training.run import Run
from ray_jobs.config import TuneConfig
from ray_jobs.training.checkpoints import checkpoint_files
from ray_jobs.training.settings import build_architecture, build_recipe
from ray_jobs.training.studies import trial_config

PERCENT_DONE = "percent_done"
"""The metric that says how far a trial is in its own schedule, in percent."""


def trainable(config: TuneConfig) -> Callable[[dict[str, Any]], None]:
    """Return what Ray Tune runs as each trial of a study."""
    resources = {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}
    bound = tune.with_parameters(train_trial, settings=trial_settings(config))
    limited: Callable[[dict[str, Any]], None] = tune.with_resources(bound, resources)
    return limited


def trial_settings(config: TuneConfig) -> dict[str, Any]:
    """Return the flags that a trial needs: not where the end of the study is told."""
    return dataclasses.asdict(dataclasses.replace(config, notify=None))


def train_trial(varied: dict[str, Any], settings: dict[str, Any]) -> None:
    """Train one trial's network in this process, and report every epoch.

    Args:
        varied: The trial's value for each key of ``param_space``.
        settings: The flags of the study.
    """
    config = trial_config(TuneConfig(**settings), varied)
    device = torch.device("cuda" if settings["gpus_per_trial"] > 0 else "cpu")
    torch.set_num_threads(max(1, int(settings["cpus_per_trial"])))
    data = open_dataset(config.dataset)
    recipe, architecture = build_recipe(config, device), build_architecture(config, data)
    training = Run.create(recipe, architecture, device, shape=data.shape)
    if newest := tune.get_checkpoint():
        with newest.as_directory() as folder:
            training.restore(folder)
    elif config.pretrained is not None:
        training.load_pretrained(config.pretrained)
    batches = InMemoryBatches.load(data, training.recipe, device)
    epochs = training.epochs(training.trained, batches, advance=lambda _step, _details: None)
    # Ray Tune would take an exception for a lost node, and repeat a loss that explodes.
    with contextlib.suppress(JobError):
        for metrics in epochs:
            reported = {**metrics, PERCENT_DONE: 100 * metrics["epoch"] / config.num_epochs}
            files = checkpoint_files(training, config, data)
            with checkpoint.temporary_folder(files) as folder:
                tune.report(reported, checkpoint=tune.Checkpoint.from_directory(folder))
