"""Training that is interrupted, resumed, or loses a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from trainings import FAST, history


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
