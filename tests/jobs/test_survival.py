"""Training that loses a node, its driver, or its store for a while, and ends as it would have."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import boto3
import numpy as np
import pytest
from chaos import ChaoticNodes, run_under_faults
from fault_proxy import Fault, fault_proxy
from nodes import ENVIRONMENT
from safetensors.numpy import load_file

# Several trainings each, of which the first of a kind is the undisturbed one.
pytestmark = pytest.mark.slow

FLAGS = (
    "--model",
    "shallow",
    "--num-epochs",
    "8",
    "--batch-size",
    "32",
    "--lr",
    "0.02",
    "--no-int8",
)
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
TIMES = {"seconds", "finished", "images_per_second"}


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(epochs):
    return [{name: epoch[name] for name in epoch.keys() - TIMES} for epoch in epochs]


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """Train where nothing is lost, on one worker or two, once each."""
    folder, runs = tmp_path_factory.mktemp("undisturbed"), {}

    def run(workers):
        if workers not in runs:
            runs[workers] = folder / workers
            train(dataset, runs[workers], "--num-workers", workers)
        return history(runs[workers])

    run.folder = folder
    return run


def train(dataset, output, *flags, **environment):
    command = [sys.executable, "-m", "ray_jobs", "train", "--dataset", str(dataset)]
    command += ["--output", str(output), *FLAGS, *flags]
    return subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT, **environment},
        check=True,
        capture_output=True,
        text=True,
    )


def train_on_nodes(dataset, output, num_nodes, *flags):
    script = Path(__file__).with_name("lost_node.py")
    command = [sys.executable, str(script), str(num_nodes), "node", "train", str(output)]
    command += ["--dataset", str(dataset), *FLAGS, *flags]
    done = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed a node" in done.stderr
    return history(output)


@pytest.mark.nightly
def test_a_lost_node_is_replaced_by_another(dataset, undisturbed, tmp_path):
    """Two workers on three nodes, of which one that works goes."""
    epochs = train_on_nodes(dataset, tmp_path / "run", 3, "--num-workers", "2")
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 9))
    assert {epoch["num_workers"] for epoch in epochs} == {2}
    expected = undisturbed("2")
    assert epochs[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], abs=0.02)
    assert epochs[-1]["val_loss"] == pytest.approx(expected[-1]["val_loss"], abs=0.05)


@pytest.mark.nightly
def test_an_elastic_run_goes_on_with_the_workers_that_are_left(dataset, undisturbed, tmp_path):
    epochs = train_on_nodes(dataset, tmp_path / "run", 2, "--num-workers", "1:2")
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 9))
    workers = [epoch["num_workers"] for epoch in epochs]
    assert (workers[0], workers[-1], sorted(workers, reverse=True)) == (2, 1, workers)
    # The same examples in the same global batches, but for what batch normalization sees.
    assert epochs[-1]["train_loss"] == pytest.approx(undisturbed("1")[-1]["train_loss"], abs=0.15)


@pytest.mark.nightly
def test_a_store_that_fails_while_a_checkpoint_uploads(s3_server, dataset, undisturbed, tmp_path):
    with fault_proxy(s3_server) as proxy:
        outage = Fault(r"^(PUT|POST) /open/hiccup/last/checkpoint", times=0)
        proxy.faults.append(outage)
        output, read = "s3://open/hiccup", boto3.client("s3", endpoint_url=s3_server)
        command = [sys.executable, "-m", "ray_jobs", "train", "--dataset", str(dataset)]
        environment = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.endpoint}
        with subprocess.Popen(
            [*command, "--output", output, *FLAGS], env=environment, **PIPES
        ) as process:
            while len(epochs_in_bucket(read)) < 2 and process.poll() is None:
                time.sleep(0.1)
            outage.times = 6
            _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert outage.hits == 6
    assert without_times(epochs_in_bucket(read)) == without_times(undisturbed("1"))


def epochs_in_bucket(client):
    try:
        content = client.get_object(Bucket="open", Key="hiccup/metrics.jsonl")["Body"].read()
    except client.exceptions.NoSuchKey:
        return []
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.nightly
def test_a_killed_driver_is_submitted_again(dataset, undisturbed, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, "-m", "ray_jobs", "train", "--dataset", str(dataset)]
    command += ["--output", str(output), *FLAGS]
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(command, env=environment, **PIPES) as process:
        while not (output / "metrics.jsonl").exists() or len(history(output)) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.communicate(timeout=30)
    assert not (output / "config.json").exists()
    train(dataset, output, "--resume")
    assert without_times(history(output)) == without_times(undisturbed("1"))


def test_whatever_fails_training_ends_with_the_same_weights(
    training_seed, dataset, undisturbed, tmp_path
):
    chance, output = random.Random(training_seed), tmp_path / "run"

    def num_epochs():
        return len(history(output)) if (output / "metrics.jsonl").exists() else 0

    job = ("train", "--dataset", dataset, "--output", output, *FLAGS)
    # Ray Train 2.60 may wait for ever for a call that failed.
    with ChaoticNodes(tmp_path / "nodes", with_rpc_failures=False) as nodes:
        story = run_under_faults(nodes, chance, num_epochs, *job)
    print(training_seed, story.events)
    expected = undisturbed("1")
    assert without_times(history(output)) == without_times(expected)
    assert weights(output).keys() == weights(undisturbed.folder / "1").keys()
    for name, tensor in weights(undisturbed.folder / "1").items():
        np.testing.assert_array_equal(weights(output)[name], tensor, err_msg=name)


def weights(folder):
    return load_file(folder / "model.safetensors")
