"""What every job asks of a cluster: to join it, and to have room in it."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.data import ExecutionResources
from ray.exceptions import RayError

from fer.errors import InputError, JobError
from ray_jobs.cluster import autoscaling
from ray_jobs.cluster.autoscaling import Bundle

OBJECT_BYTES_PER_CPU = 128 * 2**20
"""What a pipeline may keep between its stages: a reader that is faster waits. Ray alone would let
it fill half of the object store."""

READERS_OF_GROWING = 16
"""Tasks that read at once on a cluster of which nobody knows how large it will be."""

TRAINING_MEMORY = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    }
}
INFERENCE_MEMORY = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    }
}
"""Runtime environments of processes that run networks: glibc (mallopt(3)) keeps what memory one
batch took for the next. Large pieces would go back to the system after each use, and be cleared,
page by page, when the next batch asks for them: an eighth of the deep network's training step, a
tenth of classifying with it. What a large picture took, inference gives back."""


def connect(runtime_env: dict[str, Any] | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one inside this process.

    Args:
        runtime_env: What all processes of the job run in, where they are alike.

    Raises:
        InputError: ``RAY_ADDRESS`` is not that of a node.
    """
    if not ray.is_initialized():
        _join(runtime_env)
    # Jobs show their own progress and errors, in the words of what they do.
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Of a cluster that grows nobody knows yet how much it will be.
    if not autoscaling.is_autoscaled():
        memory = OBJECT_BYTES_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            object_store_memory=memory
        )
    # Wrapped by Ray Data, a worker's error would lose its class and its sentence on the way.
    context.raise_original_map_exception = True


def _join(runtime_env: dict[str, Any] | None) -> None:
    # Ray reads these when it starts; a person's own setting goes before ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray ends a worker that has waited for a second: the next chunk would wait for another's start.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    address = os.environ.get("RAY_ADDRESS")
    if address and "://" in address:
        raise InputError(
            f"RAY_ADDRESS is {address}, which takes jobs that are submitted: ray job submit -- "
            "python -m ray_jobs …; unset it to use this machine alone, or give a node's HOST:6379."
        )
    ray.init(
        address=None if address else "local",
        runtime_env=runtime_env,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@contextmanager
def shutdown_on_exit() -> Iterator[None]:
    """Leave a cluster that is joined meanwhile: what Ray has to say stands before what follows."""
    was_joined = ray.is_initialized()
    try:
        yield
    finally:
        if not was_joined:
            ray.shutdown()


def require_resources(bundles: Sequence[Bundle], purpose: str) -> None:
    """Refuse what this cluster can never schedule, and wait for what its autoscaler can add.

    Args:
        bundles: ``CPU`` and ``GPU`` of each process; all must be there at the same time, those of
            a process on one node.
        purpose: What needs them, to be read before "need".

    Raises:
        InputError: The cluster has fewer, or not together, and can't have more.
    """
    placed = _num_placed(bundles)
    if autoscaling.is_autoscaled():
        if placed < len(bundles):
            autoscaling.wait_for_resources(bundles, purpose)
        return
    held = ray.cluster_resources()
    for name, needed in sum((Counter(bundle) for bundle in bundles), Counter()).items():
        if needed > held.get(name, 0):
            raise InputError(
                f"{purpose} need {needed:g} {name} in all, but the cluster has "
                f"{held.get(name, 0):g}: ask for fewer workers or add nodes."
            )
    if placed < len(bundles):
        raise InputError(
            f"{purpose} find no room: each must fit on one node, and the nodes have room for "
            f"{placed}; ask for fewer or for smaller ones."
        )


def _num_placed(bundles: Sequence[Bundle]) -> int:
    """Return how many of some bundles the nodes at hand hold together, large ones first."""
    nodes = [Counter(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    placed = 0
    for bundle in sorted(bundles, key=lambda bundle: sorted(bundle.items()), reverse=True):
        for node in nodes:
            if all(node[name] >= number for name, number in bundle.items()):
                node.subtract(bundle)
                placed += 1
                break
    return placed


def num_reader_tasks() -> int:
    """Return how many tasks that reserve no CPU may read at once for those that compute."""
    if autoscaling.is_autoscaled():
        return READERS_OF_GROWING
    return max(4, int(ray.cluster_resources().get("CPU", 1)) // 2)


def avoid_head() -> dict[str, Any]:
    """Return what keeps tasks that reserve no CPU from a head that offers none.

    Ray prefers the node that asks for them, the head of a submitted job: all that a job reads and
    writes would go through it.
    """
    for node in ray.nodes():
        if "node:__internal_head__" in node["Resources"] and not node["Resources"].get("CPU"):
            return {"label_selector": {"ray.io/node-id": f"!{node['NodeID']}"}}
    return {}


@contextmanager
def unwrap_errors() -> Iterator[None]:
    """Raise a mistake that a worker found as the sentence it is, without a traceback."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            # Ray's own double of an error has its class, and a traceback for its sentence.
            if isinstance(cause, InputError | JobError | OSError) and not isinstance(
                cause, RayError
            ):
                raise cause from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            failures = getattr(current, "worker_failures", {})
            pending += [getattr(current, name, None) for name in ("cause", "controller_failure")]
            pending += [current.__cause__, *failures.values()]
