"""One command line for every job: ``fer JOB --flags``, or ``python -m ray_jobs JOB --flags``."""

import importlib
import json
import sys
from collections.abc import Sequence

import tyro

from fer.errors import InputError, JobError
from ray_jobs import config
from ray_jobs.config import JobConfig

MODULES: dict[type, str] = {
    config.IngestConfig: "ingest",
    config.TrainConfig: "train",
    config.TuneConfig: "tune",
    config.EvaluateConfig: "evaluate",
    config.LabelConfig: "label",
    config.ExportConfig: "export",
    config.DemoConfig: "demo",
}
REPEATABLE = ("--source", "--classes", "--checkpoint")
"""Flags that take several values, after one flag or after several."""

FAILED, MISUSED = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job and print its RESULT line.

    Args:
        argv: Name of the job and its flags; by default those of the process.

    Returns:
        0 when the job is done, 1 when it failed, 2 when it was asked for wrongly.
    """
    arguments = spread_repeatable(sys.argv[1:] if argv is None else argv)
    try:
        chosen = tyro.cli(
            JobConfig,
            prog="fer",
            description="Facial emotion recognition as a cluster job.",
            args=arguments,
        )
        job = importlib.import_module(f"ray_jobs.{MODULES[type(chosen)]}")
        print("RESULT", json.dumps(job.run(chosen)), flush=True)
    except InputError as error:
        return _tell(error, MISUSED)
    except (JobError, OSError) as error:
        return _tell(error, FAILED)
    except KeyboardInterrupt:
        return _tell("interrupted, and nothing that looks finished was left behind.", FAILED)
    return 0


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
