"""How fast serve answers beside the same network in plain servers, and what it costs to start.

    python benchmarks/serve.py crops
    python benchmarks/serve.py overload
    python benchmarks/serve.py photos photos/ --detector-weights face_detection_yunet_2023mar.onnx

Servers take turns on the same cores, asked by `wrk` (https://github.com/wg/wrk, apt install wrk),
which takes a part of them too. `fer serve` has a replica a CPU, with Serve's own proxy or with
HAProxy (the environment in HAPROXY, below); its rivals, in files of their own, are FastAPI with
a batch queue by hand, serve's own application with that queue, and LitServe where it is installed.
The bare rate is the network's alone, on decoded crops. Beside each rate stands what an answer takes
of the CPUs, by process.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import torch
import tyro

from fer.data.synthetic import draw_faces
from fer.models.predictor import Predictor
from fer.vision.faces import encode_jpeg

HERE = Path(__file__).parent
NUM_CROPS = 32
BOUNDARY = "fer-benchmark"
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}

SCRIPT = """
local bodies = {}
for name in string.gmatch(os.getenv("BODIES"), "[^\\n]+") do
  local file = io.open(name, "rb")
  table.insert(bodies, file:read("*a"))
  file:close()
end
local turn = 0
request = function()
  turn = turn % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = os.getenv("CONTENT_TYPE")}, bodies[turn])
end
if os.getenv("PAUSE_MS") then
  delay = function() return tonumber(os.getenv("PAUSE_MS")) end
end
"""


@dataclass(frozen=True)
class Server:
    """A server to be asked.

    Attributes:
        name: What it is called.
        command: Starts it, but for its port.
        path: Where it takes pictures.
        environment: What it needs besides.
        takes_json: Whether a picture is base64 in JSON, and not the body.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/v1/predict"
    environment: tuple[tuple[str, str], ...] = ()
    takes_json: bool = False


@dataclass(frozen=True)
class Load:
    """What wrk saw.

    Attributes:
        rate: Good answers a second.
        p50: Milliseconds, of all answers.
        p99: Milliseconds.
        refused: Answers that were not good.
        costs: What an answer takes of the CPUs, by process.
    """

    rate: float
    p50: float
    p99: float
    refused: int
    costs: str

    def __str__(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        took = f"p50 {self.p50:6.0f} ms, p99 {self.p99:6.0f} ms{refused}"
        return f"{self.rate:6.0f} /s, {took} (CPU ms an answer: {self.costs})"


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
    """Start a server; once it has answered, yield its address and its process."""
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
        told = f", {np.median(replicas):.0f} MiB a replica" if replicas else ""
        print(f"{server.name}: ready after {time.perf_counter() - start:.1f} s{told}", flush=True)
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
            raise SystemExit(f"A server ended with code {process.returncode} before it answered.")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/readyz", timeout=5).close()
            return
        time.sleep(0.1)


def memory(process: subprocess.Popen[bytes]) -> list[tuple[str, float]]:
    """Return name and private memory in MiB of each process that a server started."""
    held = []
    for child in psutil.Process(process.pid).children(recursive=True):
        # Ray starts and ends workers at any time.
        with contextlib.suppress(psutil.Error):
            name = " ".join(child.cmdline())
            held.append((name, child.memory_full_info().uss / 2**20))
    return held


def cpu_seconds(process: psutil.Process) -> Counter[str]:
    """Return what a server's processes have used of the CPUs so far, by their names."""
    used: Counter[str] = Counter()
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            used[short_name(each)] += times.user + times.system
    return used


def short_name(process: psutil.Process) -> str:
    """Return an actor's class, without the method that it runs, or a program's name."""
    first = (process.cmdline() or ["?"])[0]
    name = first.split(".")[0] if first.startswith("ray::") else Path(first).name
    return name.removeprefix("ray::")


def costs(process: psutil.Process, before: Counter[str], answers: int) -> str:
    """Return milliseconds of the CPUs an answer, of the processes that took the most."""
    used = (cpu_seconds(process) - before).most_common(4)
    return ", ".join(f"{name} {1000 * cpu / max(1, answers):.2f}" for name, cpu in used)


def ask(
    server: tuple[str, psutil.Process],
    path: str,
    bodies: Sequence[Path],
    kind: str,
    connections: int,
    seconds: int,
    *,
    pause_ms: float | None = None,
) -> Load:
    """Ask a server for some seconds, each client again when it is answered, or a pause later."""
    address, process = server
    pause = {} if pause_ms is None else {"PAUSE_MS": f"{pause_ms:.0f}"}
    before = cpu_seconds(process)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        timing = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency"]
        told = subprocess.run(
            ["wrk", *timing, "-s", script.name, address + path],
            check=True,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "BODIES": "\n".join(map(str, bodies)),
                "CONTENT_TYPE": kind,
                **pause,
            },
        ).stdout
    if broken := re.search(r"Socket errors: (.*)", told):
        print(f"{address}: connections broke: {broken[1]}", file=sys.stderr)
    total = int(re.search(r"(\d+) requests in", told)[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    bad = int(refused[1]) if refused else 0
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]) * (1 - bad / max(1, total))
    costing = costs(process, before, total)
    return Load(rate, percentile(told, "50%"), percentile(told, "99%"), bad, costing)


def percentile(told: str, which: str) -> float:
    """Return a latency in milliseconds."""
    number, unit = re.search(rf"\s{which}\s+([\d.]+)(us|ms|s|m)\b", told).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


def write_bodies(folder: Path) -> tuple[Path, Path, Path]:
    """Write a crop as JPEG, the same as JSON, and a form of 32; return all."""
    crops = [encode_jpeg(image) for image in draw_faces(NUM_CROPS, seed=0)[0]]
    heads = [
        f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
        f'Content-Disposition: form-data; name="images"; filename="{number}.jpg"\r\n\r\n'
        for number in range(NUM_CROPS)
    ]
    parts = [head.encode() + crop + b"\r\n" for head, crop in zip(heads, crops, strict=True)]
    (folder / "one.jpg").write_bytes(crops[0])
    (folder / "form").write_bytes(b"".join(parts) + f"--{BOUNDARY}--\r\n".encode())
    (folder / "one.json").write_text(json.dumps({"data": b64encode(crops[0]).decode()}))
    return folder / "one.jpg", folder / "one.json", folder / "form"


def bare_rate(seconds: float = 5.0) -> float:
    """Return crops a second of the network alone, on all CPUs."""
    torch.set_num_threads(os.cpu_count() or 1)
    predictor, images = Predictor.load(), draw_faces(NUM_CROPS, seed=0)[0]
    predictor.predict_probs(images)
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        predictor.predict_probs(images)
        rounds += 1
    return rounds * NUM_CROPS / (time.perf_counter() - start)


def crops(seconds: int = 15) -> None:
    """Crops, 32 a request and one a request.

    Args:
        seconds: How long each server is asked each way.
    """
    form = f"multipart/form-data; boundary={BOUNDARY}"
    with tempfile.TemporaryDirectory() as name:
        one, one_json, batch = write_bodies(Path(name))
        bare = bare_rate()
        print(f"the network alone: {bare:.0f} crops/s", flush=True)
        for server in [*fer_servers("--detector", "none"), *rivals()]:
            single = (one_json, "application/json") if server.takes_json else (one, "image/jpeg")
            with running(server) as at:
                ask(at, server.path, [single[0]], single[1], 8, 3)
                if server.path == "/v1/predict":
                    load = ask(at, server.path, [batch], form, 4, seconds)
                    share = load.rate * NUM_CROPS / bare
                    print(f"  32 a request, 4 at a time: {load}; {share:.2f} of the network alone")
                load = ask(at, server.path, [single[0]], single[1], 64, seconds)
                print(f"  one a request, 64 at a time: {load}", flush=True)


def overload(seconds: int = 15, times: int = 10) -> None:
    """Crops, one a request, as many as can be answered and so many times as many.

    Args:
        seconds: How long each server is asked each way.
        times: Requests that come, to those that the server answered from 64 clients.
    """
    with tempfile.TemporaryDirectory() as name:
        one, _, _ = write_bodies(Path(name))
        for server in fer_servers("--detector", "none"):
            with running(server) as at:
                ask(at, server.path, [one], "image/jpeg", 8, 3)
                load = ask(at, server.path, [one], "image/jpeg", 64, seconds)
                print(f"  64 clients: {load}", flush=True)
                clients = 64 * times
                pause_ms = 1000 * clients / (times * load.rate)
                load = ask(
                    at, server.path, [one], "image/jpeg", clients, seconds, pause_ms=pause_ms
                )
                print(
                    f"  {clients} clients, each again after {pause_ms:.0f} ms: {load}", flush=True
                )


def photos(
    folder: Annotated[Path, tyro.conf.Positional], detector_weights: Path, seconds: int = 15
) -> None:
    """Photographs, one a request.

    Args:
        folder: JPEG files, taken in turns.
        detector_weights: YuNet's ONNX file.
        seconds: How long a server is asked by each number of clients.
    """
    files = sorted(folder.rglob("*.jpg"))[:64]
    for server in fer_servers("--detector-weights", str(detector_weights)):
        with running(server) as at:
            for clients in (1, 8, 64):
                load = ask(at, server.path, files, "image/jpeg", clients, seconds)
                print(f"  photographs, {clients:2} at a time: {load}", flush=True)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"crops": crops, "overload": overload, "photos": photos})
