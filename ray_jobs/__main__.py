"""One command line for every job: ``fer JOB --flags``, or ``python -m ray_jobs JOB --flags``."""

import gc
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from fer.errors import InputError, JobError
from ray_jobs import config
from ray_jobs.config import JobConfig
from ray_jobs.pipeline import locations

MODULES: dict[type, str] = {
    config.IngestConfig: "ingest",
    config.TrainConfig: "train",
    config.TuneConfig: "tune",
    config.EvaluateConfig: "evaluate",
    config.LabelConfig: "label",
    config.ServeConfig: "serve",
    config.ExportConfig: "export",
    config.PlanConfig: "plan",
    config.DemoConfig: "demo",
}
REPEATABLE = ("--source", "--classes", "--checkpoint", "--include", "--exclude", "--format")
"""Flags that take several values, after one flag or after several."""

FAILED, MISUSED = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job and print its RESULT line; serve, which ends when it is stopped, has none.

    Args:
        argv: Name of the job and its flags; by default those of the process.

    Returns:
        0 when the job is done, 1 when it failed, 2 when it was asked for wrongly.
    """
    code = _run(sys.argv[1:] if argv is None else argv)
    if code != 0:
        # An error's frames hold the processes of its pipeline, which end with their last handle.
        gc.collect()
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        chosen = parse(arguments)
        job = importlib.import_module(f"ray_jobs.{MODULES[type(chosen)]}")
        session = importlib.import_module("ray_jobs.cluster.session")
        with session.shutdown_on_exit(), locations.explain_refusals(chosen):
            result = job.run(chosen)
    except InputError as error:
        return _tell(error, MISUSED)
    except (JobError, OSError) as error:
        return _tell(error, FAILED)
    except KeyboardInterrupt:
        return _tell("interrupted, and nothing that looks finished was left behind.", FAILED)
    if result is not None:
        print("RESULT", json.dumps(result), flush=True)
    return 0


def parse(arguments: Sequence[str]) -> Any:  # noqa: ANN401 - any job's configuration
    """Return the configuration that a job's name and flags ask for.

    Raises:
        InputError: A flag has a value that it can't have.
        SystemExit: A name or a flag is not known, with code 2; or help was asked for, with 0.
    """
    return tyro.cli(
        JobConfig,
        prog="fer",
        description="Facial emotion recognition as a cluster job.",
        args=spread_repeatable(arguments),
    )


def spread_repeatable(arguments: Sequence[str]) -> list[str]:
    """Turn ``--source a b`` into ``--source a --source b``, the one form that is parsed."""
    spread: list[str] = []
    flag, is_first_value = None, False
    for argument in arguments:
        if argument.startswith("--"):
            flag, is_first_value = (argument if argument in REPEATABLE else None), True
        elif flag and is_first_value:
            is_first_value = False
        elif flag:
            spread.append(flag)
        spread.append(argument)
    return spread


def _tell(message: object, code: int) -> int:
    print(f"fer: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
