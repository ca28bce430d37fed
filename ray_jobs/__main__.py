"""One command line for every job: ``fer JOB --flags``, or ``python -m ray_jobs JOB --flags``."""

import gc
import json
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from fer.errors import InputError, JobError
from ray_jobs import flag_names, jobs
from ray_jobs.config import JobConfig
from ray_jobs.pipeline import locations

REPEATABLE = frozenset(
    ("--source", "--classes", "--checkpoint", "--include", "--exclude", "--format", "--seeds")
)
"""Flags that take several values, after one flag or after several of the same name."""

FAILED, MISUSED = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job and print its RESULT line; serve, which runs until it is stopped, has none.

    Args:
        argv: Name of the job and its flags; by default those of the process.

    Returns:
        0 if the job finished, 1 if it failed, 2 if a flag or an input was wrong.
    """
    code = _run(sys.argv[1:] if argv is None else argv)
    if code != 0:
        # Ray Data ends a pipeline's processes with their last handle, which an error's frames hold.
        gc.collect()
    return code


def _run(arguments: Sequence[str]) -> int:
    config = None
    try:
        config = parse(arguments)
        from ray_jobs.cluster import session  # noqa: PLC0415 - imports Ray, which --help must not

        with session.shutdown_on_exit(), locations.explain_refusals(config):
            result = jobs.run(config)
    except InputError as error:
        return _fail(config, MISUSED, str(error))
    except (JobError, OSError) as error:
        return _fail(config, FAILED, str(error))
    except KeyboardInterrupt:
        return _fail(config, FAILED, _interruption(config))
    except Exception as error:
        _notify(config, FAILED, error=f"{type(error).__name__}: see the traceback in the log.")
        raise
    if result is not None:
        print("RESULT", json.dumps(result), flush=True)
        _notify(config, 0, result=result)
    return 0


def parse(arguments: Sequence[str]) -> Any:  # noqa: ANN401 - any job's configuration
    """Return the configuration that a job's name and flags describe.

    Raises:
        InputError: The job or a flag is unknown, one is missing, or a value is out of range.
        SystemExit: With code 2, a value is not of its flag's type; with code 0, help was printed.
    """
    flag_names.check(arguments)
    return tyro.cli(
        JobConfig,
        prog="fer",
        description="Facial emotion recognition as a cluster job.",
        args=spread_repeatable(arguments),
    )


def spread_repeatable(arguments: Sequence[str]) -> list[str]:
    """Turn ``--source a b`` into ``--source a --source b``, the only form that tyro parses."""
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


def _interruption(config: Any) -> str:  # noqa: ANN401 - any job's
    """Say that a job was interrupted, and how to go on."""
    if not hasattr(config, "output"):
        return "interrupted."
    command = "the same command with --resume" if hasattr(config, "resume") else "the same command"
    return f"interrupted; the output is incomplete: run {command} to complete it."


def _fail(config: Any, code: int, message: str) -> int:  # noqa: ANN401 - any job's, or None
    _notify(config, code, error=message)
    print(f"fer: {message}", file=sys.stderr)
    return code


def _notify(config: Any, code: int, **ending: object) -> None:  # noqa: ANN401 - any job's, or None
    """Tell the URL of ``--notify``, if there is one, how the job ended."""
    if url := getattr(config, "notify", None):
        from ray_jobs import notification  # noqa: PLC0415 - imports requests, which few need

        notification.send(url, {"job": jobs.MODULES[type(config)], "code": code, **ending})


if __name__ == "__main__":
    sys.exit(main())
