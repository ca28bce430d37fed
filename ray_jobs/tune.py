"""Tune: search hyperparameters, or study one question, over many short trainings.

1. Check: the dataset, the output, the cluster.
2. Try: each trial trains one network in one process and reports every epoch.
3. Finish: the best trial's checkpoint, the table of trials, and the page.
"""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ray
import torch
from ray import tune
from ray.tune import ResultGrid
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from fer import storage
from fer.data.dataset import Dataset, open_dataset
from fer.errors import InputError, JobError, last_line
from fer.metrics import VAL_SCORES, selection_metric
from fer.models import checkpoint
from fer.reports import trials
from fer.reports.study import study_report
from fer.training.batches import InMemoryBatches
from fer.training.run import Run
from fer.training.targets import NO_VOTES
from ray_jobs.cluster import autoscaling, session
from ray_jobs.config import TuneConfig
from ray_jobs.pipeline.outputs import OutputSpec, Reservation
from ray_jobs.pipeline.progress import Advance, progress
from ray_jobs.pipeline.resumable import run_resumable
from ray_jobs.training.checkpoints import checkpoint_files, finished_files
from ray_jobs.training.settings import (
    MAX_FAILURES,
    build_architecture,
    build_recipe,
    is_streamed,
)
from ray_jobs.training.studies import is_comparison, num_trials, param_space, trial_config

PERCENT_DONE, GRACE_PERCENT = "percent_done", 34
"""The metric that says how far a trial is in its own schedule, in percent, and how far every trial
gets before it can be stopped."""

TRIALS = "trials"
"""Ray Tune's own folder in the output."""

BEST = "best"

OUTPUT = OutputSpec(
    completed_by="report.json",
    contents=(TRIALS, BEST, "trials.csv", "pictures", "index.html"),
    started_by=TRIALS,
    # The dataset has a fingerprint; all other flags define which trials there are.
    changeable_flags=frozenset(("dataset", "output", "resume", "overwrite")),
)


@dataclass(frozen=True)
class _Inputs:
    """The dataset that all trials train on."""

    data: Dataset

    @property
    def fingerprints(self) -> dict[str, str]:
        """The digest of the dataset."""
        return {"dataset": self.data.summary["fingerprint"]}


def run(config: TuneConfig) -> dict[str, Any]:
    """Run a study.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The dataset, the output or the cluster is not as the job needs it.
        JobError: No trial finished an epoch.
    """
    return run_resumable(config, OUTPUT, _check, _tune)


def _check(config: TuneConfig) -> _Inputs:
    data = open_dataset(config.dataset)
    data.check_split("train", every_class=True)
    data.check_split("val")
    if config.study == "votes" and not data.existing_columns("votes"):
        raise InputError(NO_VOTES)
    if is_streamed(trial_config(config, {}), data):
        raise InputError(
            f"{config.dataset} is larger than a trial may hold in memory; study a part of it."
        )
    return _Inputs(data)


def _tune(config: TuneConfig, inputs: _Inputs, output: Reservation) -> dict[str, Any]:
    session.connect(session.TRAINING_MEMORY)
    needed = {"CPU": config.cpus_per_trial, "GPU": config.gpus_per_trial}
    trial_resources = {name: number for name, number in needed.items() if number}
    session.require_resources([trial_resources], "Trials this large")
    tune_config = _tune_config(config)
    output.begin()
    results = _run_trials(config, tune_config)
    return _finish(config, inputs.data, results, output)


# Try.


def _run_trials(config: TuneConfig, tune_config: tune.TuneConfig) -> ResultGrid:
    # A restored study prints its trials to standard output, where only the RESULT line belongs.
    chatter = contextlib.redirect_stdout(sys.stderr)
    with _keyboard_interrupts(), _progress(config) as callback, chatter:
        return _tuner(config, tune_config, callback).fit()


def _tuner(config: TuneConfig, tune_config: tune.TuneConfig, callback: tune.Callback) -> tune.Tuner:
    """Return a new study, or the restored one that the output holds."""
    filesystem, path = storage.filesystem(config.output)
    folder = f"{path}/{TRIALS}"
    if config.resume and tune.Tuner.can_restore(folder, storage_filesystem=filesystem):
        return tune.Tuner.restore(
            folder, _trainable(config), resume_errored=True, storage_filesystem=filesystem
        )
    run_config = tune.RunConfig(
        name=TRIALS,
        storage_path=path,
        storage_filesystem=filesystem,
        callbacks=[callback],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        # Two, since the state that a killed driver wrote about a trial may be an epoch old.
        checkpoint_config=tune.CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute=_metric(config)
        ),
    )
    return tune.Tuner(
        _trainable(config),
        param_space=param_space(config),
        tune_config=tune_config,
        run_config=run_config,
    )


@contextlib.contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt as elsewhere: Ray Tune saves its state and returns."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
        # Ray Tune installs its own handler, and restores this one when it was interrupted.
        is_replaced = os.environ.get("TUNE_DISABLE_SIGINT_HANDLER") != "1"
        if is_replaced and signal.getsignal(signal.SIGINT) is handler:
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, handler)


def _trainable(config: TuneConfig) -> Callable[[dict[str, Any]], None]:
    resources = {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}
    bound = tune.with_parameters(train_trial, settings=_settings(config))
    trainable: Callable[[dict[str, Any]], None] = tune.with_resources(bound, resources)
    return trainable


def _settings(config: TuneConfig) -> dict[str, Any]:
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
    training = Run.create(build_recipe(config, device), build_architecture(config, data), device)
    if newest := tune.get_checkpoint():
        with newest.as_directory() as folder:
            training.restore(folder)
    batches = InMemoryBatches.load(data, training.recipe, device)
    epochs = training.epochs(training.network, batches, advance=lambda _step, _details: None)
    # Ray Tune would take an exception for a lost node, and repeat a loss that explodes.
    with contextlib.suppress(JobError):
        for metrics in epochs:
            reported = {**metrics, PERCENT_DONE: 100 * metrics["epoch"] / config.num_epochs}
            files = checkpoint_files(training, config, data)
            with checkpoint.temporary_folder(files) as folder:
                tune.report(reported, checkpoint=tune.Checkpoint.from_directory(folder))


def _tune_config(config: TuneConfig) -> tune.TuneConfig:
    # A random search limits its own concurrency.
    limits_itself = not is_comparison(config) and config.search == "random"
    return tune.TuneConfig(
        metric=_metric(config),
        mode="max",
        num_samples=1 if is_comparison(config) else config.num_samples,
        search_alg=None if is_comparison(config) else _search_algorithm(config),
        scheduler=FIFOScheduler() if is_comparison(config) else _scheduler(),
        max_concurrent_trials=None if limits_itself else _max_concurrent_trials(config),
    )


def _metric(config: TuneConfig) -> str:
    """Return the name of the metric that ranks the epochs and the trials of a new study."""
    return selection_metric(config.select_by, ())


def _search_algorithm(config: TuneConfig) -> Searcher | SearchAlgorithm:
    if config.search == "random":
        most = _max_concurrent_trials(config) or 0
        return BasicVariantGenerator(max_concurrent=most, random_state=config.seed)
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - an extra

    try:
        return OptunaSearch(metric=_metric(config), mode="max", seed=config.seed)
    except (ImportError, AssertionError) as error:
        raise InputError(
            "--search optuna needs Optuna, which is not installed; run "
            "pip install 'fer-on-ray[tune]', or leave the flag out."
        ) from error


def _scheduler() -> TrialScheduler:
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


@contextlib.contextmanager
def _progress(config: TuneConfig) -> Iterator[tune.Callback]:
    """Show how many trials are done and the best score so far."""
    with progress(f"Study {config.study}", "trials", num_trials(config)) as advance:
        _ProgressCallback.advance = advance
        yield _ProgressCallback(_metric(config))


class _ProgressCallback(tune.Callback):  # type: ignore[misc]
    """Updates the progress bar from what the trials report.

    The bar belongs to the class: Ray Tune pickles its callbacks, which a bar cannot survive, and a
    restored study gets back the callbacks of its first run.
    """

    advance: ClassVar[Advance]

    def __init__(self, select_by: str) -> None:
        self._select_by = select_by

    def on_trial_result(self, trials: list[Trial], **_: Any) -> None:  # noqa: ANN401
        self._update(trials)

    def on_trial_complete(self, trials: list[Trial], trial: Trial, **_: Any) -> None:  # noqa: ANN401
        self._update(trials, trial)

    def on_trial_error(self, trials: list[Trial], trial: Trial, **_: Any) -> None:  # noqa: ANN401
        self._update(trials, trial)

    def _update(self, trials: list[Trial], *ended: Trial) -> None:
        done = [trial for trial in trials if trial.is_finished() or trial in ended]
        epochs = sum(trial.last_result.get("epoch", 0) for trial in trials)
        scores = [trial.metric_analysis.get(self._select_by, {}).get("max", 0) for trial in trials]
        best = {f"best {self._select_by}": f"{max(scores):.3f}"}
        _ProgressCallback.advance(len(done), epochs=epochs, **best)


# Finish.


def _finish(
    config: TuneConfig, data: Dataset, results: ResultGrid, output: Reservation
) -> dict[str, Any]:
    """Copy the best trial's checkpoint, and write the table and the page, ``report.json`` last."""
    scored = [(trial, result) for result in results if (trial := _read_trial(result))]
    if not scored:
        reason = next(map(last_line, results.errors), "every loss became non-finite")
        raise JobError(f"No trial finished an epoch: {reason}.")
    # A study that an earlier version began may hold epochs without the newer scores.
    epochs = (epoch for trial, _ in scored for epoch in trial.history)
    metric = selection_metric(config.select_by, epochs)
    best = _copy_best(config, scored, metric)
    study = trials.Study(
        name=config.study,
        metric=metric,
        trials=tuple(trial for trial, _ in scored),
        failed=len(results) - len(scored),
        num_val=sum(data.counts("val").values()),
        num_classes=len(data.class_names),
    )
    result = {
        "output": config.output,
        "checkpoint": storage.join(config.output, BEST),
        **{name: score for name, score in best.best(metric).items() if name in VAL_SCORES},
        "varied": best.varied,
        "trials": len(scored),
        "failed": study.failed,
        "report": storage.join(config.output, "index.html"),
        "seconds": round(output.elapsed_seconds, 2),
    }
    # The report's last file is the one that completes the output.
    for name, content in study_report(study, result).items():
        storage.write_bytes(storage.join(config.output, name), content)
    return result


def _copy_best(
    config: TuneConfig, scored: Sequence[tuple[trials.Trial, tune.Result]], metric: str
) -> trials.Trial:
    """Copy the checkpoint of the best trial, and return that trial."""
    best, result = max(scored, key=lambda pair: pair[0].best(metric)[metric])
    newest_best, _ = max(reversed(result.best_checkpoints), key=lambda pair: pair[1][metric])
    with newest_best.as_directory() as folder:
        for name, content in finished_files(folder, None):
            storage.write_bytes(storage.join(config.output, f"{BEST}/{name}"), content)
    return best


def _read_trial(result: tune.Result) -> trials.Trial | None:
    """Return what a trial reached; None if it finished no epoch."""
    metrics = result.metrics_dataframe
    if not result.best_checkpoints or metrics is None or metrics.empty:
        return None
    # A metric that only some epochs have is nan in the others: no epoch reports one that is nan.
    history = tuple(
        {name: value for name, value in epoch.items() if value == value}  # noqa: PLR0124
        for epoch in metrics.to_dict("records")
    )
    varied = {name: result.config[name] for name in sorted(result.config)}
    return trials.Trial(storage.base_name(result.path), varied, history)
