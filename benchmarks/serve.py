"""Speed of serve compared with plain servers of the same network, and its time to start.

    python benchmarks/serve.py crops
    python benchmarks/serve.py overload
    python benchmarks/serve.py photos photos/ --detector-weights face_detection_yunet_2023mar.onnx

Servers take turns on the same cores. The load comes from `wrk` (https://github.com/wg/wrk, apt
install wrk), which uses a share of the cores too. `fer serve` has one replica for each CPU, with
Serve's own proxy or with HAProxy (environment HAPROXY below). Its rivals, in files of their own,
are FastAPI with a hand-written batch queue, serve's own application with that queue, and LitServe
if it is installed. The bare rate is that of the network alone on decoded crops. With each rate, the
benchmark prints the CPU time of a response, by process.
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


@dataclass(frozen=True)
class Load:
    """Results of wrk.

    Attributes:
        rate: Successful responses per second.
        p50: Median latency in milliseconds, over all responses.
        p99: 99th percentile of the latency in milliseconds.
        refused: Number of responses that were not successful.
        costs: CPU time of a response, by process.
    """

    rate: float
    p50: float
    p99: float
    refused: int
    costs: str

    def __str__(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        latency = f"p50 {self.p50:6.0f} ms, p99 {self.p99:6.0f} ms{refused}"
        return f"{self.rate:6.0f} /s, {latency} (CPU ms per response: {self.costs})"


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


def cpu_seconds(process: psutil.Process) -> Counter[str]:
    """Return the CPU time that a server's processes have used so far, by their names."""
    used: Counter[str] = Counter()
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            used[short_name(member)] += times.user + times.system
    return used


def short_name(process: psutil.Process) -> str:
    """Return the class of an actor, without the method that it runs, or the program's name."""
    first = (process.cmdline() or ["?"])[0]
    name = first.split(".")[0] if first.startswith("ray::") else Path(first).name
    return name.removeprefix("ray::")


def cpu_costs(process: psutil.Process, before: Counter[str], responses: int) -> str:
    """Return CPU milliseconds per response of the four processes that used the most."""
    used = (cpu_seconds(process) - before).most_common(4)
    return ", ".join(f"{name} {1000 * cpu / max(1, responses):.2f}" for name, cpu in used)


def load_server(
    server: tuple[str, psutil.Process],
    path: str,
    bodies: Sequence[Path],
    kind: str,
    connections: int,
    seconds: int,
    *,
    pause_ms: float | None = None,
) -> Load:
    """Load a server. Each client sends its next request after a response and a pause."""
    address, process = server
    pause = {} if pause_ms is None else {"PAUSE_MS": f"{pause_ms:.0f}"}
    before = cpu_seconds(process)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        timing = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency"]
        output = subprocess.run(
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
    if broken := re.search(r"Socket errors: (.*)", output):
        print(f"{address}: connections failed: {broken[1]}", file=sys.stderr)
    total = int(re.search(r"(\d+) requests in", output)[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    bad = int(refused[1]) if refused else 0
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]) * (1 - bad / max(1, total))
    costs = cpu_costs(process, before, total)
    return Load(rate, percentile(output, "50%"), percentile(output, "99%"), bad, costs)


def percentile(output: str, which: str) -> float:
    """Return a percentile of the latency in milliseconds, read from the output of wrk."""
    number, unit = re.search(rf"\s{which}\s+([\d.]+)(us|ms|s|m)\b", output).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


def write_bodies(folder: Path) -> tuple[Path, Path, Path]:
    """Write a crop as JPEG, the same crop in JSON, and a form with 32 crops; return the files."""
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
    """Return crops per second of the network alone, on all CPUs."""
    predictor, images = Predictor.load(), draw_faces(NUM_CROPS, seed=0)[0]
    predictor.predict_probs(images)
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        predictor.predict_probs(images)
        rounds += 1
    return rounds * NUM_CROPS / (time.perf_counter() - start)


def crops(seconds: int = 15) -> None:
    """Measure face crops: 32 in each request, and one in each request.

    Args:
        seconds: Duration of each measurement.
    """
    form = f"multipart/form-data; boundary={BOUNDARY}"
    with tempfile.TemporaryDirectory() as name:
        one, one_json, batch = write_bodies(Path(name))
        bare = bare_rate()
        print(f"the network alone: {bare:.0f} crops/s", flush=True)
        for server in [*fer_servers("--detector", "none"), *rivals()]:
            single = (one_json, "application/json") if server.takes_json else (one, "image/jpeg")
            with running(server) as running_server:
                load_server(running_server, server.path, [single[0]], single[1], 8, 3)
                if server.path == "/v1/predict":
                    load = load_server(running_server, server.path, [batch], form, 4, seconds)
                    share = load.rate * NUM_CROPS / bare
                    print(f"  32 per request, 4 clients: {load}; {share:.2f} of the network alone")
                load = load_server(running_server, server.path, [single[0]], single[1], 64, seconds)
                print(f"  1 per request, 64 clients: {load}", flush=True)


def overload(seconds: int = 15, times: int = 10) -> None:
    """Measure overload: one crop in each request, at capacity and at a multiple of it.

    Args:
        seconds: Duration of each measurement.
        times: Ratio of the request rate to the rate that the server reached with 64 clients.
    """
    with tempfile.TemporaryDirectory() as name:
        one, _, _ = write_bodies(Path(name))
        for server in fer_servers("--detector", "none"):
            with running(server) as running_server:
                load_server(running_server, server.path, [one], "image/jpeg", 8, 3)
                load = load_server(running_server, server.path, [one], "image/jpeg", 64, seconds)
                print(f"  64 clients: {load}", flush=True)
                clients = 64 * times
                pause_ms = 1000 * clients / (times * load.rate)
                load = load_server(
                    running_server,
                    server.path,
                    [one],
                    "image/jpeg",
                    clients,
                    seconds,
                    pause_ms=pause_ms,
                )
                print(f"  {clients} clients with pauses of {pause_ms:.0f} ms: {load}", flush=True)


def photos(
    folder: Annotated[Path, tyro.conf.Positional], detector_weights: Path, seconds: int = 15
) -> None:
    """Measure photographs, one in each request.

    Args:
        folder: Folder of JPEG files, which are sent in turn.
        detector_weights: YuNet's ONNX file.
        seconds: Duration of each measurement.
    """
    files = sorted(folder.rglob("*.jpg"))[:64]
    for server in fer_servers("--detector-weights", str(detector_weights)):
        with running(server) as running_server:
            for clients in (1, 8, 64):
                load = load_server(
                    running_server, server.path, files, "image/jpeg", clients, seconds
                )
                print(f"  photographs, {clients:2} clients: {load}", flush=True)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"crops": crops, "overload": overload, "photos": photos})
