"""A job's connection to a cluster: joining it, its resources, its errors."""

import logging
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import ray
import ray.data
from ray.data import ExecutionResources
from ray.exceptions import RayError

from fer.errors import InputError, JobError, last_line
from ray_jobs.cluster import autoscaling, internals, stderr
from ray_jobs.cluster.autoscaling import Bundle

OBJECT_BYTES_PER_CPU = 128 * 2**20
"""Bytes, for each CPU, that a pipeline may hold in the object store between its stages.

A reader that is faster than the later stages then waits. By default, Ray would let it fill half of
the object store.
"""

NUM_READER_TASKS_AUTOSCALED = 16
"""Reader tasks that run at the same time on an autoscaled cluster, whose final size is unknown."""

CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer before the job is refused."""

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
"""Runtime environments of processes that run networks.

They make glibc (mallopt(3)) keep the memory of one batch for the next. By default, glibc returns
large allocations to the system after each use, and the kernel clears them page by page when the
next batch allocates them. That takes an eighth of the deep network's training step and a tenth of
classifying with it. In inference, the memory of a large photograph still goes back to the system.
"""


def connect(runtime_env: dict[str, Any] | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one on this machine.

    Args:
        runtime_env: Runtime environment of all processes of the job, if they share one: environment
            variables, as ``INFERENCE_MEMORY``.

    Raises:
        InputError: ``RAY_ADDRESS`` is not the address of a node, or no cluster answers there.
        JobError: Ray does not start.
    """
    if not ray.is_initialized():
        _join(runtime_env)
    # Jobs report their own progress and errors.
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A job ends at its first error; Ray would print those of the tasks beside it after that.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The final size of an autoscaled cluster is unknown, so its memory gets no limit here.
    if not autoscaling.is_autoscaled():
        memory = OBJECT_BYTES_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            object_store_memory=memory
        )
    # Otherwise Ray Data wraps a worker's error, which loses its class and its message.
    context.raise_original_map_exception = True
    internals.look_for_results_often()
    if internals.starts_cluster():
        internals.skip_needless_data_actors()


def _join(runtime_env: dict[str, Any] | None) -> None:
    # Ray reads these variables when it starts. A user's own setting takes precedence.
    address = os.environ.get("RAY_ADDRESS")
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    settings |= internals.PROCESS_SETTINGS
    if not address:
        settings |= internals.OWN_CLUSTER_SETTINGS
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if address and address not in ("auto", "local"):
        _check_address(address)
    internals.escape_entrypoint()
    # The first processes of a cluster start with it, and serve no tasks of a runtime environment.
    variables = {} if address else (runtime_env or {}).get("env_vars", {})
    try:
        with stderr.filtered(), internals.agent_at_free_port(), inherited(variables):
            ray.init(
                address=None if address else "local",
                # It takes seconds to start. Who wants it starts a cluster with ray start --head.
                include_dashboard=None if address else False,
                runtime_env=runtime_env if address else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        # Ray raises plain exceptions, such as for a node that timed out during startup.
        raise _explain_start(address, error) from error
    _end_on_sigterm()


@contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Let processes that start meanwhile inherit environment variables."""
    original = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            if name in original:
                os.environ[name] = original[name]
            else:
                del os.environ[name]


def _end_on_sigterm() -> None:
    """Let SIGTERM, by which schedulers stop a job, end it as SIGINT does.

    Ray's core handles the signal since it was started: it prints a stack trace and aborts, so the
    job would neither withdraw its lease nor say anything.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _check_address(address: str) -> None:
    """Check that a cluster answers at an address, which Ray would try for a quarter of an hour.

    Raises:
        InputError: It is not the address of a node, or no cluster answers there.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise InputError(
            f"RAY_ADDRESS must be a node's HOST:PORT, such as HOST:6379, but is {address}; correct "
            "it, submit the job to the http:// address of a dashboard with ray job submit -- "
            "python -m ray_jobs …, or unset RAY_ADDRESS to run on this machine alone."
        )
    reason = _find_refusal(host.strip("[]"), int(port))
    if reason is not None:
        raise InputError(
            f"No Ray cluster answers at RAY_ADDRESS {address} ({reason}); start the cluster, "
            "correct the address, or unset RAY_ADDRESS to run on this machine alone."
        )


def _find_refusal(host: str, port: int) -> str | None:
    """Return why a node can't be reached; None if something there speaks gRPC, as Ray does."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        # The handshake needs Ray's certificates.
        return None
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return "what listens there is not Ray"
    return None


def _explain_start(address: str | None, error: Exception) -> InputError | JobError:
    """Return one sentence for an error of ``ray.init``."""
    if address == "auto" and isinstance(error, ConnectionError):
        return InputError(
            "RAY_ADDRESS is auto, but no Ray cluster runs on this machine; start one with ray "
            "start --head, or unset RAY_ADDRESS to start one for this job alone."
        )
    # Ray's ConnectionError names the address alone; the error it was raised from says what failed.
    reason = last_line(error.__cause__ or error)
    if address in (None, "", "local"):
        return JobError(
            f"Ray did not start on this machine: {reason}; check its memory and disks, and the "
            "logs in session_latest/logs below RAY_TMPDIR, which is /tmp/ray by default."
        )
    return JobError(
        f"The Ray cluster at {address} can't be joined: {reason}; check that its nodes run, with "
        f"ray status --address {address}, and that this machine has the same version of Ray."
    )


@contextmanager
def shutdown_on_exit() -> Iterator[None]:
    """Disconnect from Ray at the end, if the block connected to it.

    Ray's last log lines then appear before the job's own last line.
    """
    was_joined = ray.is_initialized()
    try:
        yield
    finally:
        if not was_joined:
            ray.shutdown()


def require_resources(bundles: Sequence[Bundle], purpose: str) -> None:
    """Refuse resources that this cluster can never have, and wait for its autoscaler to add nodes.

    Resources that other jobs hold count as available.

    Args:
        bundles: ``CPU`` and ``GPU`` of each process. A process needs its bundle on one node, and
            all processes run at the same time.
        purpose: What needs the resources, in words that precede "need".

    Raises:
        InputError: The cluster has too few resources, or not together on one node, and cannot have
            more.
    """
    placed = _num_placed(bundles)
    if autoscaling.is_autoscaled():
        if placed < len(bundles):
            autoscaling.wait_for_resources(bundles, purpose)
        return
    total = ray.cluster_resources()
    for name, needed in sum((Counter(bundle) for bundle in bundles), Counter()).items():
        if needed > total.get(name, 0):
            raise InputError(
                f"{purpose} need {needed:g} {name} in all, but the cluster has "
                f"{total.get(name, 0):g}; ask for fewer workers or add nodes."
            )
    if placed < len(bundles):
        raise InputError(
            f"{purpose} do not fit: each must fit on one node, but the nodes have room for only "
            f"{placed}; ask for fewer or for smaller ones."
        )


def _num_placed(bundles: Sequence[Bundle]) -> int:
    """Return how many bundles fit on the current nodes together, placing large bundles first."""
    nodes = [Counter(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    placed = 0
    for bundle in sorted(bundles, key=lambda bundle: sorted(bundle.items()), reverse=True):
        for node in nodes:
            if all(node[name] >= number for name, number in bundle.items()):
                node.subtract(bundle)
                placed += 1
                break
    return placed


def num_cpus() -> int:
    """Return the number of CPUs that the cluster has now."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def num_reader_tasks() -> int:
    """Return how many reader tasks, which reserve no CPU, may run at the same time."""
    if autoscaling.is_autoscaled():
        return NUM_READER_TASKS_AUTOSCALED
    return max(4, num_cpus() // 2)


def avoid_head() -> dict[str, Any]:
    """Return task options that keep tasks without CPUs off a head node that offers no CPU.

    Ray prefers to run such tasks on the node of the driver, which is the head for a submitted job.
    Everything that a job reads and writes would then pass through the head.
    """
    for node in ray.nodes():
        if internals.is_head(node) and not node["Resources"].get("CPU"):
            return {"label_selector": {"ray.io/node-id": f"!{node['NodeID']}"}}
    return {}


@contextmanager
def unwrap_errors() -> Iterator[None]:
    """Replace an error that comes from a worker by the error that the worker raised.

    Ray wraps a worker's error in its own, with a traceback as the message. This finds the
    ``InputError``, ``JobError`` or ``OSError`` inside, whose message is one sentence for the user.
    """
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            # Ray's RayTaskError also derives from the error's class, but its text is a traceback.
            if isinstance(cause, InputError | JobError | OSError) and not isinstance(
                cause, RayError
            ):
                internals.remove_retry_hint(cause)
                raise cause from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and everything that caused it, across Ray's wrappers.

    ``cause`` is an attribute of ``RayTaskError``, ``controller_failure`` and ``worker_failures`` of
    Ray Train's errors.
    """
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
