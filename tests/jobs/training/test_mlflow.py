"""Tracking of a training run in MLflow."""

import json
import shutil
import sys
from contextlib import closing
from dataclasses import replace

import pytest

# MLflow's store of runs calls deprecated functions of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FAST = ("--model", "conv2", "--num-epochs", "2", "--batch-size", "32", "--lr", "0.02", "--no-int8")


@pytest.fixture(scope="module")
def new_store(tmp_path_factory):
    """MLflow's store in a file, without runs: to make its tables takes seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def server(new_store, tmp_path):
    """A store of a test's own, which needs no server to answer."""
    shutil.copyfile(new_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.slow
def test_flags_and_epochs_are_logged(fer, dataset, server, tmp_path):
    from mlflow import MlflowClient

    output = tmp_path / "run"
    flags = ("--dataset", dataset, "--output", output, "--mlflow-uri", server)
    assert fer("train", *flags, *FAST).code == 0
    run_id = json.loads((output / "mlflow.json").read_text())["run_id"]
    client = MlflowClient(server)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    # A URI may hold a password.
    assert server not in (output / "job.json").read_text() + (output / "config.json").read_text()
    assert "mlflow_uri" not in run.data.params
    assert run.data.params.items() >= {"model": "conv2", "lr": "0.02", "num_epochs": "2"}.items()
    epochs = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    history = client.get_metric_history(run_id, "val_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [
        (epoch["epoch"], epoch["val_accuracy"]) for epoch in epochs
    ]


def test_a_resumed_training_continues_its_mlflow_run(server, tmp_path):
    from ray_jobs.config import TrainConfig
    from ray_jobs.training.mlflow import MlflowCallback

    config = TrainConfig(dataset="d", output=str(tmp_path / "run"), mlflow_uri=server)
    begun = MlflowCallback.begin(server, config)
    resumed = MlflowCallback.begin(server, replace(config, resume=True))
    assert resumed.run_id == begun.run_id
    assert MlflowCallback.begin(server, config).run_id != begun.run_id


def test_a_failing_server_does_not_stop_training(tmp_path, capsys):
    from ray_jobs.training.mlflow import MlflowCallback

    tracker = MlflowCallback(f"sqlite:///{tmp_path}/none/mlflow.db", "unknown")
    tracker.after_report(None, [{"epoch": 1, "val_accuracy": 0.5}], None)
    tracker.end("FINISHED", str(tmp_path))
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors if line.startswith("MLflow")] == [
        "MLflow did not accept an epoch",
        "MLflow did not accept the end of the run",
    ]


def test_missed_epochs_are_logged_at_the_end(server, tmp_path):
    from mlflow import MlflowClient

    from ray_jobs.config import TrainConfig
    from ray_jobs.training.mlflow import MlflowCallback

    config = TrainConfig(dataset="d", output=str(tmp_path), mlflow_uri=server)
    tracker = MlflowCallback.begin(server, config)
    epochs = [{"epoch": epoch, "val_accuracy": epoch / 10} for epoch in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    tracker.after_report(None, [epochs[1]], None)
    tracker.end("FAILED", str(tmp_path))
    client = MlflowClient(server)
    history = client.get_metric_history(tracker.run_id, "val_accuracy")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]
    assert client.get_run(tracker.run_id).info.status == "FAILED"


def test_rejects_a_server_that_does_not_respond(fer, dataset, tmp_path):
    flags = ("--dataset", dataset, "--output", tmp_path / "run")
    run = fer("train", *flags, "--mlflow-uri", "nonsense://nowhere", *FAST)
    assert (run.code, "The server at --mlflow-uri does not respond: " in run.sentence) == (
        2,
        True,
    )


def test_rejects_mlflow_that_is_not_installed(fer, dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    flags = ("--dataset", dataset, "--output", tmp_path / "run")
    run = fer("train", *flags, "--mlflow-uri", "sqlite:///x.db", *FAST)
    assert (run.code, "pip install 'fer-on-ray[mlflow]', or leave" in run.sentence) == (2, True)


@pytest.fixture
def full_server(server):
    """A store that takes runs and flags, and refuses metrics as a full disk does."""
    import sqlite3

    with closing(sqlite3.connect(server.removeprefix("sqlite:///"))) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metrics "
            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        database.commit()
    return server


@pytest.mark.slow
def test_what_the_server_refuses_is_seen_where_the_job_was_started(
    fer, dataset, full_server, tmp_path
):
    flags = ("--dataset", dataset, "--output", tmp_path / "run", "--mlflow-uri", full_server)
    run = fer("train", *flags, *FAST)
    assert run.code == 0
    told = [line for line in run.errors.splitlines() if line.startswith("MLflow did not accept ")]
    assert [line.partition(": ")[0].removeprefix("MLflow did not accept ") for line in told] == [
        *("an epoch", "an epoch", "the end of the run")
    ]
    assert all(line.partition(": ")[2] for line in told)
    assert full_server not in run.errors


def test_an_error_without_a_message_is_told_by_its_class():
    from ray_jobs.training import mlflow

    assert mlflow._explain(TimeoutError(), "sqlite:///x") == "TimeoutError"
    assert mlflow._explain(OSError("no sqlite:///x.\nline"), "sqlite:///x") == "no …"
    assert mlflow._explain(OSError("as it is"), "") == "as it is"
