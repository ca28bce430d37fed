"""A search of hyperparameters, or a study of one question, over many short trainings.

1. Check: the dataset, the output, the cluster.
2. Try: each trial trains one network in one process and reports every epoch.
3. Finish: the best trial's checkpoint, the table of trials, and the page.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from fer.errors import InputError, JobError
from fer.models import checkpoint
from fer.reports import study
from fer.reports.trials import Study
from fer.reports.trials import Trial as TrialReport
from fer.training.batches import InMemoryBatches
from fer.training.run import Run
from fer.training.targets import NO_VOTES
from ray_jobs import train
from ray_jobs.cluster import autoscaling, session
from ray_jobs.config import TrainConfig, TuneConfig
from ray_jobs.pipeline import locations, outputs
from ray_jobs.pipeline.progress import Advance, progress

SHARE, GRACE_PERCENT = "percent_done", 34
"""What a trial tells of how far it is in its own schedule, and how far it gets in any case."""

TRIALS = "trials"
"""Ray Tune's own folder in the output."""

BEST = "best"
REPORT = "report.json"
PARTS = (TRIALS, BEST, "trials.csv", "pictures", "index.html")

MAY_CHANGE = frozenset(("dataset", "output", "resume", "overwrite"))
"""Flags that may differ when a study is resumed; the others fix what is tried."""

CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "no augmentation": {"augment": False},
    "no smoothing": {"label_smoothing": 0.0},
    "no average": {"ema_decay": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "dropout 0.1": {"dropout": 0.1},
    "balanced classes": {"class_balance": 0.5},
    "equalized histograms": {"preprocessing": "equalize"},
}
"""What the study of the recipe changes, one part of it at a time: the flags of ``train``."""

VARIANTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "recipe": ("change", tuple(CHANGES)),
    "votes": ("votes_weight", (0.0, 0.5, 1.0)),
    "depth": ("model", tuple(f"conv{depth}" for depth in range(1, 9))),
    "pooling": ("pooling", ("max", "fractional")),
    "batch-norm": ("batch_norm", (True, False)),
    "activation": ("activation", ("relu", "leaky_relu", "elu", "gelu", "silu")),
    "loss": ("loss", ("cross_entropy", "squared_hinge")),
}
"""Comparisons by the name of their study: the flag of ``train`` that varies, or ``change`` for a
name in ``CHANGES``, and its values."""


def run(config: TuneConfig) -> dict[str, Any]:
    """Run a study.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The dataset, the output or the cluster is not as it must be.
        JobError: No trial got as far as an epoch.
    """
    start = time.monotonic()
    config = locations.resolve(config)
    data = open_dataset(config.dataset)
    data.check_split("train", every_class=True)
    data.check_split("val")
    if config.study == "votes" and not data.existing_columns("votes"):
        raise InputError(NO_VOTES)
    if train.is_streamed(trial_config(config, {}), data):
        raise InputError(
            f"{config.dataset} is more than the memory of a trial is meant to hold: study a part "
            "of it."
        )
    claim = outputs.claim_or_resume(
        config,
        REPORT,
        PARTS,
        begun=TRIALS,
        goes_on=config.resume,
        may_change=MAY_CHANGE,
        made_from={"dataset": data.summary["fingerprint"]},
    )
    finished = storage.join(config.output, REPORT)
    if config.resume and storage.exists(finished):
        return dict(json.loads(storage.read_bytes(finished))["result"])
    session.connect(session.TRAINING_MEMORY)
    needed = {"CPU": config.cpus_per_trial, "GPU": config.gpus_per_trial}
    session.require_resources(
        [{name: need for name, need in needed.items() if need}], "Trials this large"
    )
    tune_config = _tune_config(config)
    claim.take()
    with session.unwrap_errors():
        results = _try(config, tune_config)
    return _finish(config, data, results, time.monotonic() - start)


# Try.


def _try(config: TuneConfig, tune_config: tune.TuneConfig) -> ResultGrid:
    filesystem, path = storage.filesystem(config.output)
    # A restored study prints its trials, where only the RESULT line belongs.
    chatter = contextlib.redirect_stdout(sys.stderr)
    with _keyboard_interrupts(), _progress(config) as callback, chatter:
        run_config = tune.RunConfig(
            name=TRIALS,
            storage_path=path,
            storage_filesystem=filesystem,
            callbacks=[callback],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=train.MAX_FAILURES),
            # Two, since what a killed driver had written down of a trial may lag by an epoch.
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=config.select_by
            ),
        )
        trials = f"{path}/{TRIALS}"
        if config.resume and tune.Tuner.can_restore(trials, storage_filesystem=filesystem):
            tuner = tune.Tuner.restore(
                trials, _trainable(config), resume_errored=True, storage_filesystem=filesystem
            )
        else:
            tuner = tune.Tuner(
                _trainable(config),
                param_space=param_space(config),
                tune_config=tune_config,
                run_config=run_config,
            )
        return tuner.fit()


@contextlib.contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C be what it is elsewhere, though Ray Tune then saves its state and returns."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
        # Ray Tune puts its own in its place, and gives it back when it has been interrupted.
        is_replaced = os.environ.get("TUNE_DISABLE_SIGINT_HANDLER") != "1"
        if is_replaced and signal.getsignal(signal.SIGINT) is handler:
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, handler)


def _trainable(config: TuneConfig) -> Callable[[dict[str, Any]], None]:
    resources = {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}
    bound = tune.with_parameters(trial, settings=dataclasses.asdict(config))
    trainable: Callable[[dict[str, Any]], None] = tune.with_resources(bound, resources)
    return trainable


def param_space(config: TuneConfig) -> dict[str, Any]:
    """Return what a study varies, as Ray Tune takes it.

    What the paper tuned (section 4.1), each in the range in which it still trains, or the variants
    of a comparison.
    """
    if config.study in VARIANTS:
        flag, values = VARIANTS[config.study]
        return {flag: tune.grid_search(list(values))}
    both = {"model": tune.choice(["shallow", "deep"])} if config.study == "paper" else {}
    return {
        **both,
        "lr": tune.loguniform(0.003, 0.3),
        "batch_size": tune.choice([32, 64, 128, 256]),
        "num_epochs": tune.randint(max(1, config.num_epochs // 3), config.num_epochs + 1),
        "weight_decay": tune.loguniform(1e-5, 1e-2),
        "dropout": tune.uniform(0.0, 0.5),
    }


def _tune_config(config: TuneConfig) -> tune.TuneConfig:
    is_comparison = config.study in VARIANTS
    # What draws at random keeps to the room by itself.
    is_drawn = not is_comparison and config.search == "random"
    return tune.TuneConfig(
        metric=config.select_by,
        mode="max",
        num_samples=1 if is_comparison else config.num_samples,
        search_alg=None if is_comparison else _search_algorithm(config),
        scheduler=FIFOScheduler() if is_comparison else _scheduler(),
        max_concurrent_trials=None if is_drawn else _concurrent_trials(config),
    )


def _search_algorithm(config: TuneConfig) -> Searcher | SearchAlgorithm:
    if config.search == "random":
        room = _concurrent_trials(config) or 0
        return BasicVariantGenerator(max_concurrent=room, random_state=config.seed)
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - an extra

    try:
        return OptunaSearch(metric=config.select_by, mode="max", seed=config.seed)
    except (ImportError, AssertionError) as error:
        raise InputError(
            "--search optuna needs Optuna, which is not installed: pip install 'fer-on-ray[tune]', "
            "or leave the flag out."
        ) from error


def _scheduler() -> TrialScheduler:
    """Stop trials that fall behind, but let each begin: rates rise before they fall.

    They are compared where they are in their own schedules: at the same epoch one that is short
    has its rate down already, and one that is long is at its highest.
    """
    return ASHAScheduler(time_attr=SHARE, max_t=100, grace_period=GRACE_PERCENT, reduction_factor=2)


def _concurrent_trials(config: TuneConfig) -> int | None:
    """Return how many trials there is room for: more would wait for each other's resources.

    On a cluster that grows those that wait are what it grows for.
    """
    if autoscaling.is_autoscaled():
        return config.max_concurrent_trials
    held = ray.cluster_resources()
    rooms = [held.get("CPU", 0) / config.cpus_per_trial]
    if config.gpus_per_trial:
        rooms.append(held.get("GPU", 0) / config.gpus_per_trial)
    room = max(1, int(min(rooms)))
    return min(room, config.max_concurrent_trials or room)


def trial(varied: dict[str, Any], settings: dict[str, Any]) -> None:
    """Train one network as a trial has it, in this process, and report every epoch."""
    config = trial_config(TuneConfig(**settings), varied)
    is_on_gpu = settings["gpus_per_trial"] > 0
    device = torch.device("cuda" if is_on_gpu else "cpu")
    torch.set_num_threads(max(1, int(settings["cpus_per_trial"])))
    data = open_dataset(config.dataset)
    begun = Run.create(train.recipe(config, device), train.architecture(config, data), device)
    if kept := tune.get_checkpoint():
        with kept.as_directory() as folder:
            begun.restore(folder)
    batches = InMemoryBatches.load(data, begun.recipe, device)
    epochs = begun.epochs(begun.network, batches, advance=lambda _step, _said: None)
    # Raised, a loss that explodes would be taken for a lost node, and the same be tried again.
    with contextlib.suppress(JobError):
        for metrics in epochs:
            told = {**metrics, SHARE: 100 * metrics["epoch"] / config.num_epochs}
            files = train.checkpoint_files(begun, config, data)
            with checkpoint.temporary_folder(files) as folder:
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))


def trial_config(config: TuneConfig, varied: dict[str, Any]) -> TrainConfig:
    """Return the training that a trial is: the defaults, the study's flags, what it varies."""
    names = ("model", "num_epochs", "select_by", "seed")
    common = {name: getattr(config, name) for name in names}
    flags = {**common, **varied}
    flags |= CHANGES[flags.pop("change", "none")]
    return TrainConfig(dataset=config.dataset, output=config.output, **flags)


@contextlib.contextmanager
def _progress(config: TuneConfig) -> Iterator[tune.Callback]:
    """Show how many trials are done and the best score so far."""
    values = VARIANTS[config.study][1] if config.study in VARIANTS else range(config.num_samples)
    with progress(f"Study {config.study}", "trials", len(values)) as advance:
        _Teller.advance = advance
        yield _Teller(config.select_by)


class _Teller(tune.Callback):  # type: ignore[misc]
    """Tells the progress bar what the trials report.

    The bar is the class's: Ray Tune pickles its callbacks, which a bar can't be, and gives those of
    the first run back to a study that is taken up again. What is told is read off the trials.
    """

    advance: ClassVar[Advance]

    def __init__(self, select_by: str) -> None:
        self._select_by = select_by

    def on_trial_result(self, trials: list[Trial], **_: Any) -> None:  # noqa: ANN401
        self._say(trials)

    def on_trial_complete(self, trials: list[Trial], trial: Trial, **_: Any) -> None:  # noqa: ANN401
        self._say(trials, trial)

    def on_trial_error(self, trials: list[Trial], trial: Trial, **_: Any) -> None:  # noqa: ANN401
        self._say(trials, trial)

    def _say(self, trials: list[Trial], *ended: Trial) -> None:
        done = [trial for trial in trials if trial.is_finished() or trial in ended]
        epochs = sum(trial.last_result.get("epoch", 0) for trial in trials)
        scores = [trial.metric_analysis.get(self._select_by, {}).get("max", 0) for trial in trials]
        best = {f"best {self._select_by}": f"{max(scores):.3f}"}
        _Teller.advance(len(done), epochs=epochs, **best)


# Finish.


def _finish(
    config: TuneConfig, data: Dataset, results: ResultGrid, seconds: float
) -> dict[str, Any]:
    """Keep the best trial's checkpoint, and write the table and the page, ``report.json`` last."""
    tried = [(each, result) for result in results if (each := _read_trial(result))]
    if not tried:
        reasons = (str(error).splitlines()[-1] for error in results.errors)
        told = next(reasons, "no loss stayed finite").rstrip(".")
        raise JobError(f"No trial finished an epoch: {told}.")
    best = _keep_best(config, tried)
    trials = tuple(each for each, _ in tried)
    studied = Study(
        name=config.study,
        select_by=config.select_by,
        trials=trials,
        failed=len(results) - len(trials),
        num_val=sum(data.counts("val").values()),
    )
    result_line = {
        "output": config.output,
        "checkpoint": storage.join(config.output, BEST),
        "val_accuracy": best.best(config.select_by)["val_accuracy"],
        "val_macro_f1": best.best(config.select_by)["val_macro_f1"],
        "varied": best.varied,
        "trials": len(trials),
        "failed": studied.failed,
        "report": storage.join(config.output, "index.html"),
        "seconds": round(seconds, 2),
    }
    for name, content in study.study_report(studied, result_line).items():
        storage.write_bytes(storage.join(config.output, name), content)
    return result_line


def _keep_best(config: TuneConfig, tried: Sequence[tuple[TrialReport, tune.Result]]) -> TrialReport:
    """Copy the checkpoint of the best trial, and return that trial."""
    best, result = max(tried, key=lambda pair: pair[0].best(config.select_by)[config.select_by])
    kept, _ = max(reversed(result.best_checkpoints), key=lambda pair: pair[1][config.select_by])
    with kept.as_directory() as folder:
        for name in (checkpoint.WEIGHTS, checkpoint.CONFIG):
            content = storage.read_bytes(storage.join(folder, name))
            storage.write_bytes(storage.join(config.output, f"{BEST}/{name}"), content)
    return best


def _read_trial(result: tune.Result) -> TrialReport | None:
    """Return what a trial reached; None if it got nowhere."""
    told = result.metrics_dataframe
    if not result.best_checkpoints or told is None or told.empty:
        return None
    history = tuple(told.to_dict("records"))
    varied = {name: result.config[name] for name in sorted(result.config)}
    return TrialReport(storage.base_name(result.path), varied, history)
