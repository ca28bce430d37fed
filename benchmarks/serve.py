"""Speed of serve compared with plain servers of the same network, and its time to start.

    python benchmarks/serve.py crops
    python benchmarks/serve.py overload
    python benchmarks/serve.py photos photos/ --detector-weights face_detection_yunet_2023mar.onnx

Servers take turns on the same cores. The load comes from `wrk` (https://github.com/wg/wrk, apt
install wrk), which uses a share of the cores too. `fer serve` has one replica for each CPU, with
Serve's own proxy or with HAProxy (environment HAPROXY in servers.py). Its rivals, in files of their
own, are FastAPI with a hand-written batch queue, serve's own application with that queue, and
LitServe if it is installed. The bare rate is that of the network alone on decoded crops. With each
rate, the benchmark prints the CPU time of a response, by process.
"""

import json
import tempfile
import time
from base64 import b64encode
from pathlib import Path
from typing import Annotated

import tyro
from servers import fer_servers, rivals, running
from wrk import load_server

from fer.data.synthetic import draw_faces
from fer.models.predictor import Predictor
from fer.vision.faces import encode_jpeg

NUM_CROPS = 32
BOUNDARY = "fer-benchmark"


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


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"crops": crops, "overload": overload, "photos": photos})
