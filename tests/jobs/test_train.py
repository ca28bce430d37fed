"""A dataset to a checkpoint: on one worker and on two, interrupted, resumed, refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.train import WorkerGroupError
from trainings import FAST, history

from fer import Predictor
from fer.data.dataset import open_dataset
from fer.errors import InputError, JobError
from fer.models.architectures import build_model, count_parameters
from fer.models.checkpoint import load_checkpoint, read_config
from fer.models.networks import load_networks
from fer.models.onnx_engine import OnnxEngine
from fer.models.transforms import standardize
from ray_jobs import train
from ray_jobs.cluster import autoscaling
from ray_jobs.config import TrainConfig


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_checkpoint_keeps_its_contract(trained, dataset, workers):
    folder, result = trained[workers]
    config = read_config(str(folder))
    epochs = history(folder)
    best = max(epochs, key=lambda epoch: epoch["val_macro_f1"])
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    assert result["best_epoch"] == config.training["epoch"] == best["epoch"]
    assert result["val_accuracy"] == config.scores["val_accuracy"] == best["val_accuracy"]
    parameters = count_parameters(build_model("conv2"))
    assert (result["id"], result["parameters"]) == (config.id, parameters)
    assert config.data["fingerprint"] == open_dataset(str(dataset)).summary["fingerprint"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    (member,) = load_checkpoint(str(folder)).members
    (network,) = load_networks(str(folder))
    images = torch.tensor(open_dataset(str(dataset)).read_split("val").images)
    with torch.inference_mode():
        expected = network(standardize(images)).numpy()
    np.testing.assert_allclose(OnnxEngine(member).logits(images.numpy()), expected, atol=1e-4)
    assert OnnxEngine(member, name="int8").int8_scores.num_images == len(images)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_what_is_kept_scores_what_was_reported(trained, dataset, workers):
    folder, result = trained[workers]
    val = open_dataset(str(dataset)).read_split("val")
    predicted = Predictor.load(str(folder)).predict_probs(val.images).argmax(axis=1)
    # Training may evaluate in bfloat16, where a face at the border can fall to either side.
    assert np.mean(predicted == val.labels) == pytest.approx(result["val_accuracy"], abs=0.04)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_training_learns(trained, workers):
    epochs = history(trained[workers][0])
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.1
    assert epochs[-1]["train_accuracy"] > 0.25


@pytest.fixture(scope="module")
def trained_with_copies(cluster, dataset_with_copies, tmp_path_factory):
    """The folder and the RESULT line of a training whose ``val`` holds copies of ``train``."""
    output = tmp_path_factory.mktemp("copies") / "run"
    flags = {"model": "conv2", "num_epochs": 4, "batch_size": 32, "augment": False, "lr": 0.02}
    config = TrainConfig(dataset=str(dataset_with_copies), output=str(output), int8=False, **flags)
    return output, train.run(config)


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


@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_finished(dataset, tmp_path):
    """Ctrl-C after the first epoch, on a cluster of its own."""
    output = tmp_path / "run"
    command = [sys.executable, "-m", "ray_jobs", "train", "--dataset", str(dataset)]
    command += [*FAST[:3], "8", *FAST[4:], "--output", str(output)]
    environment = {**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        while not (output / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        "fer: interrupted; the output is incomplete: run the same command with --resume to "
        "complete it."
    )
    assert not (output / "config.json").exists()
    assert 1 <= len(history(output)) < 8


def test_a_run_goes_on_only_as_it_began(fer, trained, dataset):
    folder, result = trained["1"]
    arguments = ("train", "--dataset", dataset, "--output", folder)
    run = fer(*arguments, *FAST)
    assert (run.code, "already holds a run; continue it with --resume" in run.sentence) == (2, True)
    run = fer(*arguments, *FAST, "--resume")
    assert run.code == 2
    assert "was started with --num-epochs 4 (now " in run.sentence
    assert "--augment off (now on); resume it unchanged" in run.sentence
    same = ("--num-epochs", "4", "--no-augment")
    assert fer(*arguments, *FAST, *same, "--resume").result["id"] == result["id"]


def test_a_run_goes_on_that_is_older_than_a_flag(fer, trained, dataset):
    folder, result = trained["1"]
    flags = json.loads((folder / "job.json").read_text())
    del flags["teacher"], flags["teacher_weight"]
    (folder / "job.json").write_text(json.dumps(flags))
    same = ("--num-epochs", "4", "--no-augment", "--resume")
    run = fer("train", "--dataset", dataset, "--output", folder, *FAST, *same)
    assert run.result["id"] == result["id"]


def test_a_run_does_not_go_on_with_other_data(fer, trained, other_dataset):
    data = other_dataset(fingerprint="0" * 64)
    same = ("--num-epochs", "4", "--no-augment", "--resume")
    arguments = ("train", "--dataset", data, "--output", trained["1"][0])
    run = fer(*arguments, *FAST, *same)
    assert (run.code, "was started with another dataset (" in run.sentence) == (2, True)


def test_what_can_t_begin_replaces_nothing(fer, trained, dataset):
    folder, result = trained["1"]
    arguments = ("train", "--dataset", dataset, "--output", folder, *FAST, "--overwrite")
    run = fer(*arguments, "--num-workers", "9")
    assert (run.code, "need 9 CPU in all" in run.sentence) == (2, True)
    run = fer(*arguments, "--from-checkpoint", folder)
    assert run.code == 2
    assert run.sentence == (
        f"--from-checkpoint {folder} lies inside --output {folder}, which is emptied first; "
        "choose another --output."
    )
    run = fer(*arguments, "--mlflow-uri", "http://127.0.0.1:9")
    assert (run.code, "server at --mlflow-uri does not respond" in run.sentence) == (2, True)
    assert read_config(str(folder)).id == result["id"]


def test_a_batch_larger_than_the_data(fer, dataset, tmp_path):
    output = ("--output", tmp_path / "run")
    run = fer("train", "--dataset", dataset, *output, "--batch-size", "999")
    assert (
        run.code,
        "--batch-size 999 is larger than the 168" in run.sentence,
    ) == (2, True)


def test_a_run_is_not_begun_beside_other_files(fer, dataset, tmp_path):
    (tmp_path / "mine.txt").touch()
    run = fer("train", "--dataset", dataset, "--output", tmp_path, "--resume")
    assert (run.code, "contains mine.txt, which fer did not create" in run.sentence) == (2, True)


@pytest.mark.slow
def test_a_lost_worker_changes_nothing(fer, trained, dataset, tmp_path):
    """The process that trains is killed in its second epoch, and every number of the run is that of
    one that nothing disturbed."""
    output = tmp_path / "run"
    killed = []

    def kill():
        while not (output / "metrics.jsonl").exists() or not history(output):
            time.sleep(0.02)
        (worker,) = [
            process
            for process in psutil.Process().children(recursive=True)
            if "RayTrainWorker" in " ".join(process.cmdline())
        ]
        worker.kill()
        killed.append(len(history(output)))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    undisturbed, same = trained["1"]
    arguments = (*FAST, "--num-epochs", "4", "--no-augment")
    run = fer("train", "--dataset", dataset, "--output", output, *arguments)
    killer.join(timeout=1)
    assert killed
    assert killed[0] < 4
    assert without_times(history(output)) == without_times(history(undisturbed))
    assert run.result["id"] == same["id"]


TIMES = {"seconds", "finished", "images_per_second"}


def without_times(epochs):
    return [{name: epoch[name] for name in epoch.keys() - TIMES} for epoch in epochs]


@pytest.mark.slow
def test_patience_ends_a_run_that_gets_no_better(fer, dataset, tmp_path):
    output = tmp_path / "run"
    # A rate that moves nothing: the first epoch stays the best.
    still = ("--lr", "1e-12", "--num-epochs", "9", "--patience", "2", "--ema-decay", "0")
    assert fer("train", "--dataset", dataset, "--output", output, *FAST, *still).code == 0
    epochs = history(output)
    best = max(range(len(epochs)), key=lambda epoch: epochs[epoch]["val_macro_f1"])
    assert len(epochs) == best + 3 < 9


def test_a_cluster_that_is_too_small(fer, dataset, tmp_path):
    arguments = ("train", "--dataset", dataset, "--output", tmp_path / "run", *FAST)
    run = fer(*arguments, "--num-workers", "9")
    assert run.code == 2
    assert run.sentence == (
        "9 worker(s) of 1 CPU need 9 CPU in all, but the cluster has 4; ask for fewer workers or "
        "add nodes."
    )
    run = fer(*arguments, "--use-gpu")
    assert (run.code, "need 1 GPU in all, but the cluster has 0" in run.sentence) == (2, True)


def test_workers_that_fit_in_all_and_on_no_node(monkeypatch):
    """Two nodes of three CPUs have six, and no room for three workers of two."""
    from ray_jobs.config import TrainConfig
    from ray_jobs.training.placement import place_workers

    node = {"Alive": True, "Resources": {"CPU": 3.0}}
    monkeypatch.setattr("ray.nodes", lambda: [node, node, {"Alive": False, "Resources": {}}])
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 6.0})
    waited = []
    monkeypatch.setattr(
        "ray_jobs.cluster.autoscaling.wait_for_resources", lambda *asked: waited.append(asked)
    )
    flags = {"dataset": "d", "output": "o", "cpus_per_worker": 2}
    with pytest.raises(InputError, match=r"3 worker\(s\) of 2 CPU do not fit: .* room for only 2;"):
        place_workers(TrainConfig(num_workers="3", **flags))
    assert place_workers(TrainConfig(num_workers="2:3", **flags)).num_workers == (2, 3)
    assert waited == [([{"CPU": 2}] * 2, "2 worker(s)")]
    shared = TrainConfig(dataset="d", output="o", num_workers="4")
    assert place_workers(shared).resources_per_worker == {"CPU": 1}


def test_what_others_hold_is_waited_for_with_a_word(cluster, capfd):
    num_cpus = ray.cluster_resources()["CPU"]
    other = ray.remote(num_cpus=num_cpus)(threading.Event).remote()
    ray.get(other.is_set.remote())
    threading.Timer(2.5, ray.kill, [other]).start()
    autoscaling.wait_for_resources([{"CPU": num_cpus}], "1 worker(s)")
    needed = f"1 x ({num_cpus:g} CPU)"
    message = f"Waiting for resources: 1 worker(s) need {needed}; other jobs must end first\n"
    assert capfd.readouterr().err == message


def test_a_dataset_that_is_none(fer, tmp_path):
    run = fer("train", "--dataset", tmp_path, "--output", tmp_path / "run")
    assert (run.code, "is not a finished dataset" in run.sentence) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_class_that_is_absent_from_train(fer, dataset, other_dataset, tmp_path):
    counts = open_dataset(str(dataset)).summary["counts"]
    counts["train"]["neutral"], counts["test"] = 0, dict.fromkeys(counts["test"], 0)
    data = other_dataset(counts=counts)
    run = fer("train", "--dataset", data, "--output", tmp_path / "run")
    assert (run.code, "has no train examples of neutral" in run.sentence) == (2, True)
    run = fer(
        "evaluate", "--dataset", data, "--checkpoint", "x", "--split", "test", "--output", "r"
    )
    assert (run.code, "has no test examples: it holds train, val" in run.sentence) == (2, True)


def test_a_failure_that_lasts_is_told_in_a_sentence():
    failure = WorkerGroupError("Rank 0:\nTraceback …\nOSError: No space left on device.", {})
    with pytest.raises(JobError) as told, train._explained_failures():
        raise failure
    assert str(told.value) == (
        "Training failed: OSError: No space left on device; fix the cause and continue with "
        "--resume."
    )


@pytest.mark.slow
def test_a_loss_that_explodes(fer, dataset, tmp_path):
    arguments = ("train", "--dataset", dataset, "--output", tmp_path / "run", *FAST, "--lr", "1e30")
    run = fer(*arguments)
    assert run.code == 1
    assert run.sentence == "Loss became non-finite in epoch 1; retrain with a lower --lr."
    assert not (tmp_path / "run" / "config.json").exists()
