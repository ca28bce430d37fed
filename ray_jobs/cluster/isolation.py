"""Poison tasks: input that kills each process that reads it.

Ray Data restarts the task of a killed process without end, so one such file would stop a job
forever. So would one that makes a decoder hang, whose process ``watchdog`` ends. A task that has
been retried a few times therefore reads each input in an isolated process. The input that kills
that process is given up, and the rest of the task goes on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.remote_function import RemoteFunction

from ray_jobs.cluster import internals

SUSPECT_AFTER = 2
"""Failed attempts of a task after which its input is suspected.

Nodes fail too, but seldom twice under the same task.
"""


def is_poison_suspect() -> bool:
    """Tell whether the current task has failed so often that its input may be the cause."""
    return ray.is_initialized() and internals.task_attempt_number() >= SUSPECT_AFTER


def run_isolated(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """Call a function in a process of its own and return its result.

    Raises:
        ChildProcessError: The call killed that process, twice.
    """
    with _explain_deaths():
        return ray.get(_remote(function).remote(*arguments))


def iterate_isolated(function: Callable[..., Iterator[Any]], *arguments: object) -> Iterator[Any]:
    """Yield what a generator yields that runs in a process of its own.

    Raises:
        ChildProcessError: It killed that process, twice, after what was yielded before.
    """
    with _explain_deaths():
        for item in _remote(function).remote(*arguments):
            try:
                yield ray.get(item)
            except RayTaskError as error:
                raise error.cause from None


@contextmanager
def _explain_deaths() -> Iterator[None]:
    try:
        yield
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        raise ChildProcessError("it crashes or hangs the process that reads it") from error


@lru_cache(maxsize=8)
def _remote(function: Callable[..., Any]) -> RemoteFunction:
    return ray.remote(num_cpus=0, max_retries=1)(function)
