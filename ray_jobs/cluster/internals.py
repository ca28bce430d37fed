"""Every private name of Ray 2.60 that this project uses, behind functions of its own.

Ray documents none of these names and may change them in any release. When Ray is upgraded, run
``tests/jobs/cluster/test_internals.py``, which checks what each function relies on.

Ray is imported inside the functions: the command line needs ``is_submitted_job`` before it can
afford to import Ray, and only the AWS node provider needs boto3.
"""
# ruff: noqa: PLC0415 - see above

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fer.storage.local import escape_bytes

if TYPE_CHECKING:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

PROCESS_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
"""Undocumented environment variables that Ray reads when it starts.

``RAY_TRAIN_HEALTH_CHECK_INTERVAL_S``: how often Ray Train asks its workers for results and errors,
every 2 seconds by default.

``RAY_idle_worker_killing_time_threshold_ms``: how long an idle worker process is kept, 1 second by
default. After such a short time, the next chunk would often wait for a new process to start.
"""

OWN_CLUSTER_SETTINGS = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""Undocumented environment variables that Ray reads, for a cluster that this driver starts.

``RAY_TRAIN_ENABLE_PREEMPTION_WATCHER``: whether each training starts a process that watches for
nodes that are about to be preempted, as it does by default. No node of such a cluster can be.
"""

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"

_RETRY_HINT = re.compile(r"\n?Failed to [^\n]+ after \d+/\d+ attempts .*", re.DOTALL)

HEAD_RESOURCE = "node:__internal_head__"


def is_submitted_job() -> bool:
    """Tell whether this process is the driver of a job that ``ray job submit`` started.

    Ray's job supervisor sets this environment variable for the command that it runs.
    """
    return JOB_VARIABLE in os.environ


def is_head(node: Mapping[str, Any]) -> bool:
    """Tell whether an entry of ``ray.nodes()`` is the head, which alone offers this resource."""
    return HEAD_RESOURCE in node["Resources"]


def task_attempt_number() -> int:
    """Return how often Ray has tried the current task before: 0 in its first attempt.

    Ray counts an attempt when the worker process or its node dies. The public runtime context does
    not tell this number.
    """
    from ray._private.worker import global_worker

    return int(global_worker.core_worker.get_current_task_attempt_number())


def remove_retry_hint(error: Exception) -> None:
    """Take from an error what Ray Data adds to the arguments of each error in a map task.

    The addition explains how to configure retries, in several lines. It is appended to a message,
    or becomes the file name of an ``OSError`` that has an error number.
    """
    error.args = tuple(
        _RETRY_HINT.sub("", argument) if isinstance(argument, str) else argument
        for argument in error.args
    )
    if isinstance(error, OSError) and _RETRY_HINT.match(str(error.filename)):
        del error.filename


def look_for_results_often() -> None:
    """Let Ray Data look for finished tasks fifty times a second, instead of ten.

    It submits the next task when it has seen that one has ended, so each CPU would idle for a
    twentieth of a second between two tasks, on average.
    """
    from ray.data._internal.execution import streaming_executor_state

    streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = 0.02


def skip_needless_data_actors() -> None:
    """Let Ray Data start no processes for its own use, in a cluster that ends with this driver.

    Each takes some two seconds of a core and 190 MiB, and the first execution waits for one.
    ``_StatsActor`` tells the dashboard how executions get on. ``_AutoscalingCoordinatorActor`` asks
    for nodes and shares them out: the one node here is always there.
    """
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.stats import _StatsManager

    manager: Any = _StatsManager
    manager.gen_dataset_id_from_stats_actor = staticmethod(lambda: uuid4().hex)
    for name in ("execution_metrics", "iteration_metrics"):
        setattr(manager, f"update_{name}", staticmethod(_do_nothing))
    manager.register_dataset_to_stats_actor = staticmethod(_do_nothing)
    streaming_executor.create_cluster_autoscaler = lambda *_, **__: _FixedCluster()


def _do_nothing(*_: object, **__: object) -> None:
    pass


class _FixedCluster:
    """Ray Data's ``ClusterAutoscaler`` for a cluster that neither grows nor shrinks."""

    def __init__(self) -> None:
        import ray
        from ray.data import ExecutionResources

        self._total = ExecutionResources.from_resource_dict(ray.cluster_resources())

    def try_trigger_scaling(self) -> None:
        """Do nothing: there are no other nodes."""

    def on_executor_shutdown(self) -> None:
        """Do nothing: no nodes were asked for."""

    def get_total_resources(self) -> Any:  # noqa: ANN401 - Ray is not imported yet
        """Return what an execution may use: all that the cluster has."""
        return self._total


def has_autoscaler_v2() -> bool:
    """Tell whether the connected cluster has an autoscaler of version 2, which reports its state.

    ``ray up`` and KubeRay start version 2. Ray keeps its version in the cluster's key-value store,
    and caches it in this process.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2())


def autoscaling_state() -> Any:  # noqa: ANN401 - a protocol buffer without type stubs
    """Return the autoscaler's state, an ``AutoscalingState`` message, as ``ray status`` reads it.

    ``ray_jobs.cluster.autoscaling`` reads these fields: ``autoscaler_state_version``,
    ``infeasible_gang_resource_requests`` (``details``), ``pending_instances``
    (``ray_node_type_name``), ``pending_instance_requests`` (``ray_node_type_name``, ``count``) and
    ``failed_instance_requests`` (``ray_node_type_name``, ``reason``, ``failed_ts``).
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined] # compiled
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=30))
    return reply.autoscaling_state


def escape_entrypoint() -> None:
    """Let Ray start although the command line holds bytes that are not valid UTF-8.

    ``ray.init`` sends the command line, which ``get_entrypoint_name`` returns, to the cluster as a
    string of a protocol buffer, which must be valid UTF-8. The bytes become escapes there.
    """
    from ray._private import utils

    original = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: escape_bytes(os.fsencode(original()))


@contextmanager
def agent_at_free_port() -> Iterator[None]:
    """Let the node that ``ray.init`` starts take a free port for its agent of submitted jobs.

    All nodes take the same port by default. The second one on a machine tries for three seconds to
    get it, starts without its agent, and logs a traceback. ``ray.init`` passes its parameters on to
    ``RayParams``, but has none for this port.
    """
    from ray._private import parameter

    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    original = parameter.RayParams
    parameter.RayParams = partial(original, dashboard_agent_listen_port=port)
    try:
        yield
    finally:
        parameter.RayParams = original


def starts_cluster() -> bool:
    """Tell whether this driver started the cluster it is connected to, which ends with it."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and bool(node.is_head())


def skip_needless_actors(trainer: "DataParallelTrainer") -> None:
    """Let a trainer start no process that its run has no use for.

    Each costs some three seconds of a core. ``DatasetManager`` hands out shares of streamed
    datasets. ``PlacementGroupCleaner`` gives back what a training holds whose controller has died,
    so a cluster that ends with its driver needs none. There it would even do harm: it looks for
    the controller in the cluster that ``ray start`` last began on this machine. If that one is
    gone, each training ends 12 seconds late; if it runs, the controller counts as dead.
    """
    from ray.train.v2._internal.callbacks import datasets, placement_group_callback

    needless: tuple[type, ...] = ()
    if not trainer.datasets:
        needless += (datasets.DatasetsCallback,)
    if starts_cluster():
        needless += (placement_group_callback.PlacementGroupCleanerCallback,)
    create = trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [
        callback for callback in create() if not isinstance(callback, needless)
    ]


def silence_pushed_errors() -> None:
    """Stop printing what the cluster pushes to this driver, for the rest of the process.

    When a driver shuts Ray Serve down, a node pushes a line to it: that the call is retried since
    the controller is gone. ``listen_error_messages`` prints each such message with this function,
    and no setting turns it off.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None


def aws_node_provider() -> Any:  # noqa: ANN401 - a class without type stubs
    """Return the class by which Ray's autoscaler starts and stops EC2 instances.

    Its ``create_node(node_config, tags, count)`` passes ``node_config`` on to EC2's RunInstances,
    tries each availability zone, and then raises a ``NodeLaunchException`` whose ``category`` is
    the error code of EC2.
    """
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return AWSNodeProvider
