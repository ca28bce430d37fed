"""Training on a dataset whose val holds images of train: what is chosen, and how it scores."""

import json
import shutil

import numpy as np
import pytest
from trainings import FAST, history

from fer import Predictor
from fer.data.dataset import open_dataset
from fer.models.checkpoint import read_config
from ray_jobs import train
from ray_jobs.config import TrainConfig


@pytest.fixture(scope="module")
def trained_with_copies(cluster, dataset_with_copies, tmp_path_factory):
    """The folder and the RESULT line of a training whose ``val`` holds copies of ``train``."""
    output = tmp_path_factory.mktemp("copies") / "run"
    flags = {"model": "conv2", "num_epochs": 4, "batch_size": 32, "augment": False, "lr": 0.02}
    config = TrainConfig(dataset=str(dataset_with_copies), output=str(output), int8=False, **flags)
    return output, train.run(config)


@pytest.mark.slow
def test_the_best_epoch_is_chosen_without_copies_of_train(trained_with_copies):
    folder, result = trained_with_copies
    epochs, config = history(folder), read_config(str(folder))
    best = max(epochs, key=lambda epoch: epoch["val_macro_f1_without_copies"])
    assert result["best_epoch"] == best["epoch"]
    for name in ("val_accuracy", "val_macro_f1"):
        for metric in (name, f"{name}_without_copies"):
            assert result[metric] == config.scores[metric] == best[metric]
        # The copies have other labels than those that were learned.
        assert best[name] < best[f"{name}_without_copies"]


@pytest.mark.slow
def test_what_is_kept_scores_what_was_reported_without_copies(
    trained_with_copies, dataset_with_copies
):
    folder, result = trained_with_copies
    data = open_dataset(str(dataset_with_copies))
    val, copies = data.read_split("val"), data.copies_of_train("val")
    rest = np.array([digest not in copies for digest in val.digests])
    predicted = Predictor.load(str(folder)).predict_probs(val.images[rest]).argmax(axis=1)
    accuracy = np.mean(predicted == val.labels[rest])
    assert accuracy == pytest.approx(result["val_accuracy_without_copies"], abs=0.05)


def older(content):
    """Return the content of a JSON file as it was before there were scores without copies."""
    if isinstance(content, list):
        return [older(item) for item in content]
    if not isinstance(content, dict):
        return content
    known = (name for name in content if not name.endswith("_without_copies"))
    return {name: older(content[name]) for name in known}


@pytest.mark.slow
def test_a_run_goes_on_that_is_older_than_the_scores_without_copies(
    fer, trained_with_copies, dataset_with_copies, tmp_path
):
    """Its epochs are ranked by the scores that all of them have."""
    folder = tmp_path / "run"
    shutil.copytree(trained_with_copies[0], folder)
    (folder / "config.json").unlink()
    for file in folder.rglob("*.json"):
        file.write_text(json.dumps(older(json.loads(file.read_text()))))
    for file in folder.rglob("*.jsonl"):
        lines = [older(json.loads(line)) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = history(folder)[trained_with_copies[1]["best_epoch"] - 1]
    assert "val_macro_f1_without_copies" not in best
    same = ("--num-epochs", "4", "--no-augment", "--resume")
    run = fer("train", "--dataset", dataset_with_copies, "--output", folder, *FAST, *same)
    assert run.code == 0, run.errors
    # What is kept of the older run is its best epoch and its newest.
    newest = history(folder)[-1]
    expected = max(best, newest, key=lambda epoch: epoch["val_macro_f1"])
    assert (run.result["resumed"], run.result["best_epoch"]) == (True, expected["epoch"])
    assert run.result["val_macro_f1"] == expected["val_macro_f1"]
    assert "val_macro_f1_without_copies" not in run.result
