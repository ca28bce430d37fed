"""Servers to measure: serve behind its proxies, and the plain servers that are its rivals."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).parent
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@dataclass(frozen=True)
class Server:
    """A server to measure.

    Attributes:
        name: Its name in the output.
        command: Command that starts it, without the port.
        path: Path of its predictions.
        environment: Environment variables that it needs.
        takes_json: Whether a request is JSON with a base64 image; otherwise the image is the body.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/v1/predict"
    environment: tuple[tuple[str, str], ...] = ()
    takes_json: bool = False


def fer_servers(*flags: str) -> list[Server]:
    cpus = str(os.cpu_count())
    replicas = ("--min-replicas", cpus, "--max-replicas", cpus)
    command = (sys.executable, "-m", "ray_jobs", "serve", *replicas, *flags)
    return [
        Server("fer serve", command),
        Server("fer serve, HAProxy", command, environment=tuple(HAPROXY.items())),
    ]


def rivals() -> list[Server]:
    plain = str(HERE / "rival_fastapi.py")
    servers = [
        Server("fastapi", (sys.executable, plain, "fastapi"), "/predict"),
        Server("fer's own application", (sys.executable, plain, "own")),
    ]
    if find_spec("litserve"):
        command = (sys.executable, str(HERE / "rival_litserve.py"))
        servers.append(Server("litserve", command, "/predict", takes_json=True))
    return servers


@contextlib.contextmanager
def running(server: Server) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server, wait until it is ready, and yield its address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, **dict(server.environment)}
    environment.pop("RAY_ADDRESS", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*server.command, "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, address)
        replicas = [size for name, size in memory(process) if "ServeReplica" in name]
        size = f", {np.median(replicas):.0f} MiB a replica" if replicas else ""
        print(f"{server.name}: ready after {time.perf_counter() - start:.1f} s{size}", flush=True)
        yield address, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    while True:
        if process.poll() is not None:
            raise SystemExit(
                f"The server exited with code {process.returncode} before it was ready."
            )
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/readyz", timeout=5).close()
            return
        time.sleep(0.1)


def memory(process: subprocess.Popen[bytes]) -> list[tuple[str, float]]:
    """Return the name and the private memory in MiB of each process that a server started."""
    sizes = []
    for child in psutil.Process(process.pid).children(recursive=True):
        # Ray may end a worker process at any time.
        with contextlib.suppress(psutil.Error):
            name = " ".join(child.cmdline())
            sizes.append((name, child.memory_full_info().uss / 2**20))
    return sizes
