"""Input that ends the process which reads it: found out after some deaths, and left behind."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError
from ray.remote_function import RemoteFunction

SUSPECT_AFTER = 2
"""Deaths of a task after which its input is suspected. Nodes are lost too, but seldom twice."""


def is_poison_suspect() -> bool:
    """Tell whether the process of this task has died so often that its input may be why.

    Ray Data tries a task again without end, and says to no one how often it has.
    """
    if not ray.is_initialized():
        return False
    return bool(global_worker.core_worker.get_current_task_attempt_number() >= SUSPECT_AFTER)


def run_isolated(work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - the work's own
    """Do some work in a process of its own.

    Raises:
        ChildProcessError: It ended that process.
    """
    try:
        return ray.get(_remote(work).remote(*arguments))
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        raise ChildProcessError("it ends the process that reads it") from error


@lru_cache(maxsize=8)
def _remote(work: Callable[..., Any]) -> RemoteFunction:
    return ray.remote(num_cpus=0, max_retries=1)(work)
