"""Tracking of a training run in MLflow, where users compare runs."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.queue import Queue

from fer import storage
from fer.errors import InputError, first_line
from fer.training.history import from_json_lines
from fer.training.run import METRICS
from ray_jobs.config import TrainConfig
from ray_jobs.pipeline import outputs

EXPERIMENT = "fer-on-ray"
RUN_FILE = "mlflow.json"
"""File in the output with the id of its MLflow run, so that a resumed run continues it."""


class MlflowCallback(UserCallback):  # type: ignore[misc]
    """Sends the metrics of every epoch to MLflow, from the process that controls the workers.

    Attributes:
        uri: Tracking URI of MLflow.
        run_id: Id of the run in MLflow.
        queue: Takes lines of text to the user's terminal. What the process that controls the
            workers prints only reaches its log. None in the driver, which prints.
    """

    def __init__(self, uri: str, run_id: str, queue: Queue | None = None) -> None:
        self.uri, self.run_id, self.queue = uri, run_id, queue

    def reporting_to(self, queue: Queue) -> "MlflowCallback":
        """Return this callback for another process, whose messages a queue takes."""
        return MlflowCallback(self.uri, self.run_id, queue)

    @classmethod
    def begin(cls, uri: str, config: TrainConfig) -> "MlflowCallback":
        """Begin an MLflow run with the flags of a training, or continue that of a resumed one.

        Raises:
            InputError: MLflow is not installed, or its server does not respond.
        """
        with _explain_no_response(uri):
            client = _client(uri)
            run_id = _read_run_id(config) or _create_run(client, config)
            client.update_run(run_id, status="RUNNING")
        return cls(uri, run_id)

    def after_report(
        self,
        run_context: object,  # noqa: ARG002 - Ray Train's signature
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,  # noqa: ARG002
    ) -> None:
        """Log the metrics of an epoch. If the server fails, only a message is shown."""
        try:
            client, epoch = _client(self.uri), metrics[0]["epoch"]
            _log(client, self.run_id, epoch, metrics[0])
        except Exception as error:
            self._report("an epoch", error)

    def end(self, status: str, output: str) -> None:
        """Log the epochs that MLflow has missed, and end the run there.

        Args:
            status: ``FINISHED`` or ``FAILED``.
            output: The output of the training, with the metrics of all epochs.
        """
        location = storage.join(output, METRICS)
        try:
            client = _client(self.uri)
            history = client.get_metric_history(self.run_id, "val_accuracy")
            logged = {metric.step for metric in history}
            if storage.exists(location):
                for epoch in from_json_lines(storage.read_bytes(location)):
                    if epoch["epoch"] not in logged:
                        _log(client, self.run_id, epoch["epoch"], epoch)
            client.set_terminated(self.run_id, status)
        except Exception as error:
            self._report("the end of the run", error)

    def _report(self, refused: str, error: Exception) -> None:
        message = f"MLflow did not accept {refused}: {_explain(error, self.uri)}"
        if self.queue is None:
            print(message, file=sys.stderr, flush=True)
        else:
            # Not awaited: this process must go on to control the workers.
            self.queue.actor.put_nowait.remote(message)


def _client(uri: str) -> Any:  # noqa: ANN401 - of an extra that may be absent
    # By default MLflow retries for minutes, and the workers wait meanwhile.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        from mlflow import MlflowClient  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            "--mlflow-uri needs MLflow, which is not installed; install it with "
            "pip install 'fer-on-ray[mlflow]', or leave the flag out."
        ) from error
    return MlflowClient(tracking_uri=uri or None)


@contextmanager
def _explain_no_response(uri: str) -> Iterator[None]:
    """Turn any error of MLflow into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "The server at --mlflow-uri does not respond: "
            f"{_explain(error, uri)}; check the address, or leave the flag out."
        ) from error


def require_server(uri: str) -> None:
    """Check that MLflow is available.

    Raises:
        InputError: MLflow is not installed, or its server does not respond.
    """
    with _explain_no_response(uri):
        _client(uri).get_experiment_by_name(EXPERIMENT)


def _log(client: Any, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:  # noqa: ANN401
    from mlflow.entities import Metric  # noqa: PLC0415

    now = int(time.time() * 1000)
    entries = [Metric(name, value, now, epoch) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=entries)


def _read_run_id(config: TrainConfig) -> str | None:
    location = storage.join(config.output, RUN_FILE)
    if not config.resume or not storage.exists(location):
        return None
    stored = json.loads(storage.read_bytes(location))
    is_same_server = stored["uri_sha256"] == _digest(config.mlflow_uri)
    return str(stored["run_id"]) if is_same_server else None


def _digest(uri: str | None) -> str:
    # The URI itself may hold a password, so only its digest is stored.
    return hashlib.sha256(str(uri).encode()).hexdigest()


def _create_run(client: Any, config: TrainConfig) -> str:  # noqa: ANN401
    from mlflow.entities import Param  # noqa: PLC0415

    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    run_id: str = client.create_run(
        experiment_id, run_name=storage.base_name(config.output)
    ).info.run_id
    params = [Param(name, str(value)) for name, value in outputs.flags_of(config).items()]
    client.log_batch(run_id, params=params)
    stored = {"uri_sha256": _digest(config.mlflow_uri), "run_id": run_id}
    content = json.dumps(stored).encode()
    storage.write_bytes(storage.join(config.output, RUN_FILE), content)
    return run_id


def _explain(error: Exception, uri: str) -> str:
    """Return the first line of an error without the URI, which may hold a password."""
    return first_line(error).replace(uri, "…") if uri else first_line(error)
