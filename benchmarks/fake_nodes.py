"""A Ray cluster of many cheap nodes on this machine, for tasks that mostly sleep.

Each node is a raylet with a CPU in name only, a small object store, Ray's agent of runtime
environments, and a worker. Ray's second agent, which a node has for its metrics and for the
dashboard, is left out: it would take about 70 MiB and compete for the same cores.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import ray
from memory import MIB
from ray._private import services
from ray._private.node import Node
from ray._private.utils import set_kill_on_parent_death_linux
from ray.cluster_utils import Cluster

from ray_jobs.cluster import session

HEAD_STORE_BYTES, STORE_BYTES = 256 * MIB, 80 * MIB
"""Size of the object stores of the head and of each other node. Ray wants at least 75 MB."""

SPARE_BYTES = 2**30
"""Memory that the nodes leave free: the driver and their workers still grow."""

START_SECONDS, END_SECONDS = 300, 60
"""How long a worker may take to start while others do, and all processes to end."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_register_timeout_seconds": str(START_SECONDS),
    # Each raylet would look at the memory of the whole machine four times a second.
    "RAY_memory_monitor_refresh_ms": "0",
    # The first node's workers wait for the last node.
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",
}

AGENT_FLAG = "--dashboard_agent_command="

NO_AGENT = """\
cd "$1"
for port in metrics_agent metrics_export dashboard_agent_listen; do
  echo -1 > "$RAY_NODE_ID.$port"
  mv "$RAY_NODE_ID.$port" "${port}_port_$RAY_NODE_ID"
done
while kill -0 $PPID; do sleep 10; done
"""
"""What a raylet runs as its agent, since it refuses to have none. As Ray's agent does without the
dependencies of the dashboard, it writes that no port is in use, and ends with the raylet."""

_start_ray_process = services.start_ray_process


class FakeNodes:
    """A head without CPUs, which this process joins as a driver, and nodes of one CPU each."""

    def __init__(self, folder: Path) -> None:
        self._agent = folder / "no_agent.sh"
        self._agent.write_text(NO_AGENT)
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": HEAD_STORE_BYTES,
                "dashboard_port": _free_port(),
                "include_dashboard": False,
                "include_log_monitor": False,
                "no_monitor": True,
            },
        )
        os.environ["RAY_ADDRESS"] = self._cluster.address
        session.connect(session.INFERENCE_MEMORY)
        self._workers: list[ray.ObjectRef[str]] = []

    def add(self) -> None:
        """Add a node, and let its workers start meanwhile."""
        with patch.object(services, "start_ray_process", self._start_without_agent):
            node = self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        here = {"ray.io/node-id": node.node_id}
        start = ray.remote(lambda name: import_module(name).__name__)
        start = start.options(num_cpus=1, label_selector=here)
        self._workers.append(start.remote("ray_jobs.labeling.on_cpus"))

    def wait(self) -> None:
        """Wait until the workers of all nodes have started."""
        ray.get(self._workers, timeout=START_SECONDS)
        # Its limits follow the number of CPUs.
        session.connect(session.INFERENCE_MEMORY)

    def of_head(self) -> list[psutil.Process]:
        """Return the processes of the head, without the driver."""
        return _processes([self._cluster.head_node])

    def of_others(self) -> list[psutil.Process]:
        """Return the processes of all other nodes."""
        return _processes(self._cluster.worker_nodes)

    def node_bytes(self) -> int:
        """Return the memory that a node takes, without what its processes share with others."""
        total = 0
        for process in self.of_others():
            with suppress(psutil.Error):
                total += process.memory_full_info().uss
        return total // len(self._cluster.worker_nodes)

    def shut_down(self) -> None:
        """End all processes of the cluster, and wait for them."""
        processes = _children(psutil.Process())
        ray.shutdown()
        self._cluster.shutdown()
        psutil.wait_procs(processes, END_SECONDS)

    def _start_without_agent(self, command: Sequence[str], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        agent = f"{AGENT_FLAG}sh {self._agent} {self._cluster.head_node.get_session_dir_path()}"
        command = [agent if part.startswith(AGENT_FLAG) else part for part in command]
        return _start_ray_process(command, *arguments, **options)


@contextmanager
def fake_nodes(folder: Path) -> Iterator[FakeNodes]:
    """Start a cluster without nodes and join it, in a process that ends with its parent.

    Args:
        folder: Folder of Ray's files. Its path must be short, as those of Unix sockets must be.
    """
    # The nodes end with this process. By default, it would outlive the one that started it.
    set_kill_on_parent_death_linux()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= {**SETTINGS, "RAY_TMPDIR": str(folder)}
    nodes = FakeNodes(folder)
    try:
        yield nodes
    finally:
        nodes.shut_down()


def require_memory(num_nodes: int, node_bytes: int) -> None:
    """Refuse nodes that do not fit into memory beside the one that already runs.

    Args:
        num_nodes: Number of nodes, with that one.
        node_bytes: Memory that a node takes.

    Raises:
        SystemExit: They do not fit.
    """
    free_bytes = max(0, psutil.virtual_memory().available - SPARE_BYTES)
    if (num_nodes - 1) * node_bytes > free_bytes:
        raise SystemExit(
            f"{num_nodes} nodes of {node_bytes / MIB:.0f} MiB do not fit into the "
            f"{free_bytes / 2**30:.1f} GiB of memory that they may take; end other programs, or "
            f"ask for at most {1 + free_bytes // node_bytes} --nodes."
        )


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU time that processes have taken, those that have ended left out."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _processes(nodes: Iterable[Node]) -> list[psutil.Process]:
    started = [infos for node in nodes for infos in node.all_processes.values()]
    parents = [psutil.Process(info.process.pid) for infos in started for info in infos]
    return [*parents, *(child for parent in parents for child in _children(parent))]


def _children(process: psutil.Process) -> list[psutil.Process]:
    return list(process.children(recursive=True))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
