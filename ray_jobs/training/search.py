"""How a study goes through its trials: which come next, how many at once, which are stopped."""

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from fer.errors import InputError
from fer.metrics import selection_metric
from ray_jobs.cluster import autoscaling
from ray_jobs.config import TuneConfig
from ray_jobs.training.studies import is_comparison
from ray_jobs.training.trial import PERCENT_DONE

GRACE_PERCENT = 34
"""How far in its own schedule every trial gets, in percent, before it can be stopped."""


def search_settings(config: TuneConfig) -> tune.TuneConfig:
    """Return how Ray Tune goes through the trials of a study.

    Raises:
        InputError: The search needs a package that is not installed.
    """
    # A random search limits its own concurrency.
    limits_itself = not is_comparison(config) and config.search == "random"
    return tune.TuneConfig(
        metric=ranking_metric(config),
        mode="max",
        num_samples=1 if is_comparison(config) else config.num_samples,
        search_alg=None if is_comparison(config) else _search_algorithm(config),
        scheduler=FIFOScheduler() if is_comparison(config) else halving_scheduler(),
        max_concurrent_trials=None if limits_itself else _max_concurrent_trials(config),
    )


def ranking_metric(config: TuneConfig) -> str:
    """Return the name of the metric that ranks the epochs and the trials of a new study."""
    return selection_metric(config.select_by, ())


def _search_algorithm(config: TuneConfig) -> Searcher | SearchAlgorithm:
    if config.search == "random":
        most = _max_concurrent_trials(config) or 0
        return BasicVariantGenerator(max_concurrent=most, random_state=config.seed)
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - an extra

    try:
        return OptunaSearch(metric=ranking_metric(config), mode="max", seed=config.seed)
    except (ImportError, AssertionError) as error:
        raise InputError(
            "--search optuna needs Optuna, which is not installed; run "
            "pip install 'fer-on-ray[tune]', or leave the flag out."
        ) from error


def halving_scheduler() -> TrialScheduler:
    """Stop trials that fall behind, but not before ``GRACE_PERCENT`` of their own schedule.

    Trials are compared by their share of the schedule, not by epoch: at the same epoch a short
    trial has lowered its learning rate already, and a long one has it at its highest.
    """
    return ASHAScheduler(
        time_attr=PERCENT_DONE, max_t=100, grace_period=GRACE_PERCENT, reduction_factor=2
    )


def _max_concurrent_trials(config: TuneConfig) -> int | None:
    """Return how many trials fit on the cluster at once: more would wait for each other.

    On a cluster with an autoscaler the waiting trials are what makes it grow.
    """
    if autoscaling.is_autoscaled():
        return config.max_concurrent_trials
    resources = ray.cluster_resources()
    rooms = [resources.get("CPU", 0) / config.cpus_per_trial]
    if config.gpus_per_trial:
        rooms.append(resources.get("GPU", 0) / config.gpus_per_trial)
    room = max(1, int(min(rooms)))
    return min(room, config.max_concurrent_trials or room)
