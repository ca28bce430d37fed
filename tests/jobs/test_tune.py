"""Many short trainings to a study: compared, searched, interrupted, resumed, refused."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from fer import Predictor
from fer.errors import InputError
from fer.models.architectures import MODELS
from fer.models.checkpoint import read_config
from ray_jobs import tune
from ray_jobs.__main__ import main
from ray_jobs.config import TrainConfig, TuneConfig
from ray_jobs.training import search, studies
from ray_jobs.training.trial import PERCENT_DONE

SMALL = ("--model", "conv2", "--num-epochs", "2", "--cpus-per-trial", "1")


@pytest.fixture(scope="module")
def compared(cluster, dataset, tmp_path_factory):
    """A comparison of two losses, and what the command line said."""
    output = tmp_path_factory.mktemp("study") / "loss"
    flags = {"study": "loss", "model": "conv2", "num_epochs": 2}
    return output, tune.run(TuneConfig(dataset=str(dataset), output=str(output), **flags))


def table_of(output):
    return list(csv.DictReader((output / "trials.csv").read_text().splitlines()))


def test_a_comparison_tries_each_variant(compared):
    output, result = compared
    rows = table_of(output)
    assert {row["loss"] for row in rows} == {"cross_entropy", "squared_hinge"}
    scores = [float(row["val_macro_f1"]) for row in rows]
    assert scores[0] == max(scores)
    # There are no copies of train in this dataset.
    assert scores == [float(row["val_macro_f1_without_copies"]) for row in rows]
    assert (result["trials"], result["failed"]) == (2, 0)
    assert result["val_macro_f1"] == pytest.approx(float(rows[0]["val_macro_f1"]))
    report = json.loads((output / "report.json").read_text())
    assert (report["study"], len(report["trials"]), report["importance"]) == ("loss", 2, {})


def test_the_best_is_a_checkpoint(compared):
    output, result = compared
    config = read_config(result["checkpoint"])
    assert config.training["loss"] == table_of(output)[0]["loss"]
    for name in ("val_macro_f1", "val_macro_f1_without_copies"):
        assert config.scores[name] == pytest.approx(result[name])
    assert Predictor.load(result["checkpoint"]).id == config.id


def test_the_page_opens_from_disk(compared):
    page = (compared[0] / "index.html").read_text()
    assert len(re.findall(r'<img[^>]*src="data:image/png;base64,', page)) == 1
    assert "squared_hinge" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


@pytest.mark.slow
@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_search_varies_what_the_paper_tuned(fer, dataset, tmp_path, search):
    arguments = ("tune", "--dataset", dataset, "--output", tmp_path / "study", *SMALL)
    run = fer(*arguments, "--num-samples", "2", "--search", search)
    assert (run.code, run.result["trials"]) == (0, 2)
    rows = table_of(tmp_path / "study")
    for name in ("lr", "batch_size", "num_epochs", "weight_decay", "dropout"):
        assert all(float(row[name]) >= 0 for row in rows)
    assert len({row["lr"] for row in rows}) == 2
    run = fer(*arguments)
    assert (run.code, "already holds a run; continue it with --resume" in run.sentence) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGKILL]
)
def test_an_interrupted_study_resumes(cluster, dataset, tmp_path, capfd, how):
    output = tmp_path / "study"
    command = [sys.executable, "-m", "ray_jobs", "tune", "--dataset", str(dataset)]
    command += ["--output", str(output), "--study", "batch-norm", *SMALL]
    # One after the other, so that the second has not begun.
    command += ["--max-concurrent-trials", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ, **pipes) as process:
        while process.poll() is None and not list(output.glob("trials/*/checkpoint_000001")):
            time.sleep(0.1)
        process.send_signal(how)
        _, errors = process.communicate(timeout=100)
    if how == signal.SIGINT:
        assert process.returncode == 1, errors
        assert errors.splitlines()[-1].startswith("fer: interrupted")
    assert not (output / "report.json").exists()
    capfd.readouterr()
    # On another cluster than the one that went with the process.
    assert main([*command[3:], "--resume"]) == 0
    resumed = capfd.readouterr().out
    assert resumed.startswith("RESULT ")
    assert json.loads(resumed.removeprefix("RESULT "))["trials"] == 2
    assert main([*command[3:], "--resume"]) == 0
    assert capfd.readouterr().out == resumed


def test_trials_are_compared_where_they_are_in_their_own_schedules():
    """Early in its schedule none is stopped, and later the worse of two at the same share."""
    scheduler = search.halving_scheduler()
    scheduler.set_search_properties("val_accuracy", "max")
    short, long = SimpleNamespace(trial_id="short"), SimpleNamespace(trial_id="long")

    def tell(trial, epoch, num_epochs, score):
        told = {PERCENT_DONE: 100 * epoch / num_epochs, "val_accuracy": score, "epoch": epoch}
        return scheduler.on_trial_result(None, trial, told)

    for trial in (short, long):
        scheduler.on_trial_add(None, trial)
    assert tell(short, 2, 4, 0.6) == TrialScheduler.CONTINUE
    assert tell(long, 2, 12, 0.2) == TrialScheduler.CONTINUE
    assert tell(long, 5, 12, 0.5) == TrialScheduler.STOP


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("deep", [f"conv{depth}" for depth in range(1, 9)]),
        ("resnet10-w32", [f"resnet{depth}-w32" for depth in range(4, 20, 2)]),
        ("resnet18-w48", [f"resnet{depth}-w48" for depth in range(4, 20, 2)]),
    ],
)
def test_the_study_of_depth_stays_in_the_family_of_the_model(model, names):
    study = TuneConfig(dataset="d", output="o", study="depth", model=model)
    assert studies.param_space(study) == {"model": {"grid_search": names}}
    assert studies.num_trials(study) == 8
    assert set(names) <= set(MODELS)


def test_seeds_repeat_each_variant():
    study = TuneConfig(dataset="d", output="o", study="loss", model="conv2", seeds=(3, 5))
    assert studies.param_space(study)["seed"] == {"grid_search": [3, 5]}
    assert studies.num_trials(study) == 4
    assert studies.trial_config(study, {"loss": "squared_hinge", "seed": 5}).seed == 5


def test_the_study_of_pretrained_weights_changes_nothing_but_the_start():
    flags = {"model": "efficientnet-lite0", "study": "pretrained", "pretrained": "imagenet"}
    study = TuneConfig(dataset="d", output="o", **flags)
    random, pretrained = (
        asdict(studies.trial_config(study, {"start": start})) for start in ("random", "pretrained")
    )
    assert {name for name in random if random[name] != pretrained[name]} == {"pretrained"}
    assert random["preprocessing"] == "imagenet"


@pytest.mark.slow
def test_a_comparison_with_seeds_reports_their_mean(fer, dataset, tmp_path):
    output = tmp_path / "study"
    flags = ("--study", "loss", "--model", "conv1", "--num-epochs", "1", "--seeds", "0", "1")
    run = fer("tune", "--dataset", dataset, "--output", output, *flags)
    assert (run.code, run.result["trials"]) == (0, 4)
    rows, variants = table_of(output), json.loads((output / "report.json").read_text())["variants"]
    assert {row["seed"] for row in rows} == {"0", "1"}
    for variant in variants:
        own = [float(row["val_accuracy"]) for row in rows if row["loss"] == variant["loss"]]
        assert variant["seeds"] == len(own) == 2
        assert variant["val_accuracy_mean"] == pytest.approx(sum(own) / 2)
    assert "±" in (output / "index.html").read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"study": "paper", "seeds": (0, 1)}, "--seeds repeats the variants of a comparison, but "),
        ({"study": "loss", "seeds": (0, 0)}, "--seeds must be different numbers, but is 0 0."),
        ({"study": "loss", "seeds": (0, -1)}, "--seeds must be from 0 to 4294967295, but is -1."),
    ],
)
def test_seeds_that_are_refused(flags, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        TuneConfig(dataset="d", output="o", **flags)


@pytest.mark.parametrize("change", studies.CHANGES)
def test_a_change_of_the_recipe_is_one_of_train_s_flags(change):
    study = TuneConfig(dataset="d", output="o", study="recipe", model="conv2", num_epochs=3)
    ours = asdict(studies.trial_config(study, {"change": change}))
    as_it_is = asdict(TrainConfig(dataset="d", output="o", model="conv2", num_epochs=3))
    changed = {name for name, value in ours.items() if value != as_it_is[name]}
    assert changed == set(studies.CHANGES[change])


def test_what_is_refused(fer, dataset, tmp_path):
    arguments = ("tune", "--dataset", dataset, "--output", tmp_path / "study", *SMALL)
    run = fer(*arguments, "--cpus-per-trial", "99")
    assert (run.code, "Trials this large need 99 CPU in all" in run.sentence) == (2, True)
    assert not (tmp_path / "study").exists()
    run = fer(*arguments, "--gpus-per-trial", "0.5")
    assert (run.code, "need 0.5 GPU in all, but the cluster has 0" in run.sentence) == (2, True)
    run = fer(*arguments, "--study", "votes")
    assert (run.code, "has no FER+ votes to learn from" in run.sentence) == (2, True)
