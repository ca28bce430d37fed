"""A dataset to a checkpoint: on one worker and on two, and what is refused."""

import threading

import numpy as np
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
    assert run.sentence.startswith("Loss became non-finite in epoch 1; retrain with a lower --lr")
    assert not (tmp_path / "run" / "config.json").exists()
