"""A training run as a run of MLflow, where people compare it with others."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.train import Checkpoint, UserCallback

from fer import storage
from fer.errors import InputError
from fer.training.history import from_json_lines
from fer.training.run import METRICS
from ray_jobs.config import TrainConfig
from ray_jobs.pipeline import outputs

EXPERIMENT = "fer-on-ray"
RUN_FILE = "mlflow.json"
"""The file in an output that names its run of MLflow, for when it is resumed."""


class MlflowCallback(UserCallback):  # type: ignore[misc]
    """Hands every epoch's metrics to MLflow, from the process that controls the workers.

    Attributes:
        uri: MLflow's tracking server or folder.
        run_id: MLflow's name of the run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id

    @classmethod
    def begin(cls, uri: str, config: TrainConfig) -> "MlflowCallback":
        """Begin a run with the flags of a training, or go on with the one of the same output.

        Raises:
            InputError: MLflow is not installed, or does not answer.
        """
        with _silence_told(uri):
            client = _client(uri)
            run_id = _remembered(config) or _create(client, config)
            client.update_run(run_id, status="RUNNING")
        return cls(uri, run_id)

    def after_report(
        self,
        run_context: object,  # noqa: ARG002 - Ray Train's signature
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,  # noqa: ARG002
    ) -> None:
        """Log the metrics of an epoch; a server that is gone loses them, and not the training."""
        try:
            client, epoch = _client(self.uri), metrics[0]["epoch"]
            _log(client, self.run_id, epoch, metrics[0])
        except Exception as error:
            print(f"MLflow did not take an epoch: {_first_line(error)}", file=sys.stderr)

    def end(self, status: str, output: str) -> None:
        """Tell MLflow how the run ended, ``FINISHED`` or ``FAILED``, and what it has missed."""
        location = storage.join(output, METRICS)
        try:
            client = _client(self.uri)
            known = {each.step for each in client.get_metric_history(self.run_id, "val_accuracy")}
            if storage.exists(location):
                for epoch in from_json_lines(storage.read_bytes(location)):
                    if epoch["epoch"] not in known:
                        _log(client, self.run_id, epoch["epoch"], epoch)
            client.set_terminated(self.run_id, status)
        except Exception as error:
            print(f"MLflow did not take the end: {_first_line(error)}", file=sys.stderr)


def _client(uri: str) -> Any:  # noqa: ANN401 - of an extra that may be absent
    # MLflow would go on for minutes, and the workers wait.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        from mlflow import MlflowClient  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            "--mlflow-uri needs MLflow, which is not installed: pip install 'fer-on-ray[mlflow]', "
            "or leave the flag out."
        ) from error
    return MlflowClient(tracking_uri=uri or None)


@contextmanager
def _silence_told(uri: str) -> Iterator[None]:
    """Raise what a server fails with as a sentence, without its address."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "The server of --mlflow-uri does not answer: "
            f"{_first_line(error).replace(uri, '…')}; check it, or leave the flag out."
        ) from error


def require_server(uri: str) -> None:
    """Refuse to go on without MLflow.

    Raises:
        InputError: It is not installed, or does not answer.
    """
    with _silence_told(uri):
        _client(uri).get_experiment_by_name(EXPERIMENT)


def _log(client: Any, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:  # noqa: ANN401
    from mlflow.entities import Metric  # noqa: PLC0415

    now = int(time.time() * 1000)
    told = [Metric(name, value, now, epoch) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=told)


def _remembered(config: TrainConfig) -> str | None:
    location = storage.join(config.output, RUN_FILE)
    if not config.resume or not storage.exists(location):
        return None
    remembered = json.loads(storage.read_bytes(location))
    is_same = remembered["uri_sha256"] == _digest(config.mlflow_uri)
    return str(remembered["run_id"]) if is_same else None


def _digest(uri: str | None) -> str:
    # The address itself may hold a password.
    return hashlib.sha256(str(uri).encode()).hexdigest()


def _create(client: Any, config: TrainConfig) -> str:  # noqa: ANN401
    from mlflow.entities import Param  # noqa: PLC0415

    experiment = client.get_experiment_by_name(EXPERIMENT)
    known = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    run_id: str = client.create_run(known, run_name=storage.base_name(config.output)).info.run_id
    params = [Param(name, str(value)) for name, value in outputs.flags_of(config).items()]
    client.log_batch(run_id, params=params)
    remembered = {"uri_sha256": _digest(config.mlflow_uri), "run_id": run_id}
    content = json.dumps(remembered).encode()
    storage.write_bytes(storage.join(config.output, RUN_FILE), content)
    return run_id


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
