"""Clusters of several nodes on this machine. Each node is a process group with its own folder."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # How long an elastic run waits for a replacement before it starts with the remaining nodes.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "OMP_NUM_THREADS": "1",
}


def free_port():
    """Return a free port below those that Linux assigns by itself."""
    while True:
        with socket.socket() as probe:
            try:
                port = random.randint(5000, 9900)
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Nodes:
    """A head without CPUs, and nodes that can be added and killed.

    Use it as a context manager: it kills everything that it has started.
    """

    def __init__(self, folder, *, has_dashboard=False, **environment):
        self.folder, self.port = folder, free_port()
        self.dashboard_port = free_port() if has_dashboard else None
        self.environment = {**os.environ, **ENVIRONMENT, **environment}
        self.environment.pop("RAY_ADDRESS", None)
        self.started = {}

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self):
        return f"http://127.0.0.1:{self.dashboard_port}"

    def __enter__(self):
        self.start_head()
        return self

    def __exit__(self, *_):
        for name in [*self.started]:
            self.kill(name)

    def start_head(self, *flags):
        board = [f"--dashboard-port={self.dashboard_port}"] if self.dashboard_port else []
        self._start(
            "head",
            *("--head", f"--port={self.port}", "--num-cpus=0"),
            f"--include-dashboard={bool(self.dashboard_port)}",
            *(f"--ray-client-server-port={free_port()}", *board, *flags),
        )

    def add(self, name, num_cpus=1):
        flags = (f"--address={self.address}", f"--num-cpus={num_cpus}")
        try:
            self._start(name, *flags)
        except AssertionError:
            # Ray gives a node half a minute to start, which a busy machine may not have.
            self._start(name, *flags)

    def _start(self, name, *flags):
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        # The path must be short, because the paths of Unix sockets are limited.
        session = f"/tmp/fer-{self.port}-{name}"
        command = [
            *(*RAY, "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={session}"),
            # The agent that runs submitted jobs listens on this port. Nodes share a machine here.
            *(f"--dashboard-agent-listen-port={free_port()}", *flags),
        ]
        with (folder / "log").open("w") as log:
            self.started[name] = subprocess.Popen(
                command,
                cwd=folder,
                env={**self.environment, "TMPDIR": str(folder / "tmp"), "HOME": str(folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(name, folder / "log")

    def _wait(self, name, log):
        until = time.monotonic() + 60
        while "This command will now block" not in log.read_text():
            if self.started[name].poll() is not None or time.monotonic() > until:
                self.kill(name)
                raise AssertionError(log.read_text())
            time.sleep(0.1)

    def kill(self, name):
        """Kill a node at once, as when a machine fails."""
        process = self.started.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(f"/tmp/fer-{self.port}-{name}", ignore_errors=True)

    def job(self, *arguments, cwd=None, **environment):
        """Start a job whose driver is a process on this machine."""
        return subprocess.Popen(
            [sys.executable, "-m", "ray_jobs", *map(str, arguments)],
            cwd=cwd or self.folder,
            env={**self.environment, "RAY_ADDRESS": self.address, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Autoscaled(Nodes):
    """An autoscaled cluster with the node types of ``cluster.yaml``, run by Ray's fake provider.

    The fake provider is configured as an external one: its example.yaml is not in Ray's wheel, so
    neither its type ``fake_multinode`` nor ``AutoscalingCluster`` starts. The node types keep their
    names, limits and logical GPUs. Each node has two CPUs.
    """

    HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"

    def __enter__(self):
        config = self.folder / "autoscaling.json"
        config.write_text(json.dumps(self.config()))
        self.environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": self.HEAD,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": self.HEAD,
        }
        self.start_head(f"--autoscaling-config={config}")
        return self

    def config(self):
        config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        types = config["available_node_types"]
        nodes = {
            name: {
                "min_workers": types[name]["min_workers"],
                "max_workers": types[name]["max_workers"],
                "resources": {**types[name]["resources"], "CPU": 2},
                "node_config": {},
            }
            for name in types
            if name != config["head_node_type"]
        }
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        lists = ("initialization", "setup", "head_setup", "worker_setup")
        starts = ("head_start_ray", "worker_start_ray")
        return {
            "cluster_name": config["cluster_name"],
            "max_workers": config["max_workers"],
            "upscaling_speed": config["upscaling_speed"],
            "idle_timeout_minutes": 0.2,
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider"
                ".FakeMultiNodeProvider",
                "launch_multiple": True,
                "head_node_id": self.HEAD,
                "gcs_address": self.address,
                "disable_launch_config_check": True,
                "disable_node_updaters": True,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {**nodes, "ray.head.default": head},
            **{f"{name}_commands": [] for name in (*lists, *starts)},
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
        }
