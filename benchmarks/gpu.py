"""What the jobs do on a machine with an NVIDIA GPU, and how fast.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu --parts train label --models conv2 --faces 600

- `resume`: a training whose processes are killed after two epochs, and resumed, has as many epochs
  as an undisturbed one, and nearly the same scores.
- `train`: `fer train` in images per second of its last epoch, compared with a bare loop of the same
  step in which nothing waits for the processor, and with the same epochs without Ray.
- `label`: `fer label` on face crops, and on photographs if there are some, names nearly all faces
  as it does on processors in float32.
- `serve`: `fer serve` with a quarter of a GPU answers as the predictor does, and how often.
- `tests`: the tests marked `gpu` pass.

Each part is a process that may take so many seconds. A part that fails leaves the others alone. The
parts from `label` on run side by side. Each result is printed and written to the output at once.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import requests
import torch
from servers import Server, running
from torch import nn

from fer.data.dataset import Dataset, open_dataset
from fer.data.synthetic import Faces, draw_faces, to_csv
from fer.models.architectures import build_model
from fer.models.precision import autocast, has_fast_bfloat16
from fer.models.predictor import Predictor
from fer.models.transforms import Augmentation, standardize
from fer.training.batches import InMemoryBatches
from fer.training.run import Run
from fer.vision.faces import encode_jpeg
from ray_jobs import ingest, label, train
from ray_jobs.cluster import session
from ray_jobs.config import IngestConfig, LabelConfig, TrainConfig
from ray_jobs.labeling.write import FACES
from ray_jobs.training.settings import build_architecture, build_recipe

SECONDS = {"prepare": 60, "resume": 150, "train": 90, "label": 80, "serve": 70, "tests": 80}
"""How long each part may take."""

WAIT_SECONDS = 60
"""How long the part `train` waits until the part `resume` no longer uses the GPU."""

BATCH_SIZE, NUM_EPOCHS = 256, 3
NUM_CROPS, NUM_CLIENTS, NUM_REQUESTS = 2000, 16, 400
KILLED = "killed"
"""File that shows that the part `resume` no longer uses the GPU, but waits for a lease to end."""


class Part:
    """A running part: its options, and where its results go."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options, self.results = name, options, {}
        self.folder, self.device = Path(options.folder), torch.device(options.device)
        self.uses_gpu = self.device.type == "cuda"
        self.start = time.perf_counter()

    def record(self, what: str, value: object) -> None:
        """Print a result and write all of them."""
        seconds = time.perf_counter() - self.start
        print(f"[{self.name} {seconds:5.1f} s] {what}: {value}", flush=True)
        self.results[what] = value
        (self.folder / f"{self.name}.json").write_text(json.dumps(self.results))

    @property
    def dataset(self) -> str:
        """Location of the dataset to train on."""
        return self.options.dataset or str(self.folder / "data")

    def training(self, output: str, **flags: object) -> TrainConfig:
        """Return the flags of a training on the device."""
        return TrainConfig(
            dataset=self.dataset,
            output=str(self.folder / output),
            batch_size=self.options.batch_size,
            use_gpu=self.uses_gpu,
            int8=False,
            **flags,
        )

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Record a failure and go on."""
        try:
            yield
        except (Exception, SystemExit):
            self.record(f"{what} FAILED", traceback.format_exc()[-1500:])


# The parts.


def prepare(part: Part) -> None:
    """Draw faces, write some as files, and ingest the others."""
    number = part.options.faces
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:
        share = -(-number // (4 * (os.cpu_count() or 1)))
        drawn = list(pool.map(draw_faces, [share] * -(-number // share), range(number)))
    images, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    part.record("faces drawn", len(images))
    write_crops(images, part.folder / "crops")
    if part.options.dataset:
        return
    # Faces take long to draw: the dataset has each of them in several brightnesses.
    shades = [(images * (1 - 0.03 * shade)).astype(np.uint8) for shade in range(part.options.times)]
    images, labels = np.concatenate(shades), np.tile(labels, len(shades))
    splits = ["val" if row % 8 == 0 else "train" for row in range(len(images))]
    (part.folder / "drawn.csv").write_bytes(to_csv(Faces(images, labels, splits)))
    source = (str(part.folder / "drawn.csv"),)
    ingest.run(IngestConfig(source=source, output=str(part.folder / "data")))
    part.record("dataset", open_dataset(part.dataset).counts("train"))


def write_crops(images: np.ndarray, folder: Path) -> None:
    folder.mkdir()
    for number in range(NUM_CROPS):
        crop = encode_jpeg(images[number % len(images)])
        (folder / f"{number:05}.jpg").write_bytes(crop)


def resume(part: Part) -> None:
    """Compare a training that was killed and resumed with an undisturbed one."""
    flags = ["--model", part.options.models[0], "--num-epochs", "6", "--no-int8"]
    flags += ["--batch-size", str(part.options.batch_size), "--dataset", part.dataset]
    flags += ["--use-gpu"] if part.uses_gpu else []

    def start(output: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray_jobs", "train", *flags, *more]
        return subprocess.Popen(
            [*command, "--output", str(part.folder / output)],
            env={**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"},
            stdout=subprocess.DEVNULL,
            stderr=(part.folder / f"{output}{'-'.join(more)}.log").open("wb"),
            start_new_session=True,
        )

    disturbed, undisturbed = start("disturbed"), start("undisturbed")
    while len(history(part.folder / "disturbed")) < 2 and disturbed.poll() is None:
        time.sleep(0.05)
    os.killpg(disturbed.pid, signal.SIGKILL)
    part.record("epochs when killed", len(history(part.folder / "disturbed")))
    part.record("exit code undisturbed", undisturbed.wait())
    (part.folder / KILLED).touch()
    resumed = start("disturbed", "--resume")
    part.record("exit code resumed", resumed.wait())
    for run in ("undisturbed", "disturbed"):
        last = history(part.folder / run)[-1]
        names = ("epoch", "train_loss", "val_loss", "val_accuracy")
        part.record(run, {name: round(last[name], 4) for name in names})
    for log in sorted(part.folder.glob("*disturbed*.log")):
        part.record(log.name, log.read_text()[-400:])


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of a training's epochs so far."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def train_networks(part: Part) -> None:
    """Train each network by the job, by a bare loop, and without Ray."""
    if part.uses_gpu:
        part.record("GPU", f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    part.record("precision", "bfloat16" if has_fast_bfloat16(part.device) else "float32")
    data = open_dataset(part.dataset)
    for model in part.options.models:
        config = part.training(f"train-{model}", model=model, num_epochs=NUM_EPOCHS)
        for is_tuned in (False, True):
            torch.backends.cudnn.benchmark = is_tuned
            name = f"{model}, bare loop{', cuDNN tuned' if is_tuned else ''}"
            with part.attempt(name):
                part.record(f"{name}, images/s", round(bare_loop(part, config, data)))
        torch.backends.cudnn.benchmark = False
        with part.attempt(f"{model}, fer train"):
            train.run(config)
            rates = [epoch["images_per_second"] for epoch in history(Path(config.output))]
            part.record(f"{model}, fer train, images/s of each epoch", [round(r) for r in rates])
            seconds = [round(epoch["seconds"], 2) for epoch in history(Path(config.output))]
            part.record(f"{model}, fer train, seconds of each epoch", seconds)
            part.record(f"{model}, fer train, scores", history(Path(config.output))[-1])
        for fraction in (0.0, 0.3):
            with part.attempt(f"{model}, without Ray"):
                config = part.training("", model=model, num_epochs=2, degrade_fraction=fraction)
                rate = round(rate_without_ray(part, config, data))
                part.record(f"{model}, without Ray, {fraction:.0%} degraded, images/s", rate)


def bare_loop(part: Part, config: TrainConfig, data: Dataset) -> float:
    """Return images per second of one epoch over images on the device, after ten steps."""
    device, examples = part.device, data.read_split("train")
    images = torch.tensor(examples.images, device=device)
    labels = torch.tensor(examples.labels, device=device)
    model = build_model(config.model).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    size, generator = config.batch_size, torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), device=device).split(size)[:-1] or (slice(None),)
    # Drawn once: what remains is the time of the device.
    augmentation = Augmentation.draw(size, generator)
    augmentation = Augmentation(augmentation.matrices.to(device))
    for step, rows in enumerate([*order[:10], *order]):
        if step == len(order[:10]):
            start = now(device)
        batch = augmentation.apply(standardize(images[rows]))
        with autocast(device, enabled=has_fast_bfloat16(device)):
            logits = model(batch.contiguous(memory_format=torch.channels_last))
        loss = criterion(logits.float(), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return len(order) * size / (now(device) - start)


def now(device: torch.device) -> float:
    """Return the time at which a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def rate_without_ray(part: Part, config: TrainConfig, data: Dataset) -> float:
    """Return images per second of the second epoch of the same training in this process."""
    recipe = build_recipe(config, part.device)
    run = Run.create(recipe, build_architecture(config, data), part.device, shape=data.shape)
    batches = InMemoryBatches.load(data, recipe, part.device)
    epochs = list(run.epochs(run.trained, batches, lambda _step, _details: None))
    return float(epochs[-1]["images_per_second"])


def label_images(part: Part) -> None:
    """Label crops and photographs on the device, and again on processors in float32."""
    session.connect()
    sources = {"crops": (str(part.folder / "crops"), {"detector": "none"})}
    if part.options.photographs:
        weights = {"detector_weights": part.options.detector_weights}
        sources["photographs"] = (part.options.photographs, weights)
    for name, (images, flags) in sources.items():
        with part.attempt(name):
            rows = []
            for side in ({"use_gpu": part.uses_gpu}, {"engine": "float32"}):
                output = str(part.folder / f"{name}-{next(iter(side))}")
                result = label.run(LabelConfig(images=images, output=output, **flags, **side))
                rows.append(read_rows(output))
                part.record(
                    f"{name} with {side}",
                    {key: result[key] for key in ("images_per_second", "faces", "seconds")}
                    | {"engines": sorted({row["engine"] for row in rows[-1].values()} - {None})},
                )
            part.record(f"{name}, named the same", same_share(*rows))


def read_rows(output: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows of labels by image and face."""
    columns = ["image", "face", "emotion", "probabilities", "engine"]
    table = pq.read_table(Path(output) / FACES, columns=columns)
    return {(row["image"], row["face"]): row for row in table.to_pylist() if row["emotion"]}


def same_share(rows: dict[Any, Any], others: dict[Any, Any]) -> dict[str, float]:
    """Compare two labelings: shares of equal emotions, and the differences of probabilities."""
    both = rows.keys() & others.keys()
    same = [rows[key]["emotion"] == others[key]["emotion"] for key in both]
    drift = [
        np.abs(np.subtract(rows[key]["probabilities"], others[key]["probabilities"])).max()
        for key in both
    ]
    return {
        "rows": len(rows),
        "rows on processors": len(others),
        "same emotion": float(np.mean(same)),
        "mean drift": float(np.mean(drift)),
        "largest drift": float(np.max(drift)),
    }


def serve_and_explain(part: Part) -> None:
    """Ask a server, and record what it wrote if it failed."""
    try:
        serve_crops(part)
    except (Exception, SystemExit):
        part.record("server's log", (part.folder / "server.log").read_text()[-1500:])
        raise


def serve_crops(part: Part) -> None:
    """Ask a server about crops, one after the other and from many clients at once."""
    flags = ["--detector", "none", "--gpus-per-replica", "0.25" if part.uses_gpu else "0"]
    # Its standard error would be lost otherwise.
    logged = ("bash", "-c", f'exec "$0" "$@" 2> {part.folder}/server.log')
    server = Server("fer serve", (*logged, sys.executable, "-m", "ray_jobs", "serve", *flags))
    crops = [file.read_bytes() for file in sorted((part.folder / "crops").iterdir())[:200]]
    with running(server) as (address, _):
        part.record("ready", True)
        sessions = [requests.Session() for _ in range(NUM_CLIENTS)]

        def ask(number: int) -> dict[str, float]:
            answer = sessions[number % NUM_CLIENTS].post(
                f"{address}{server.path}",
                data=crops[number % len(crops)],
                headers={"content-type": "image/jpeg"},
                timeout=20,
            )
            answer.raise_for_status()
            return answer.json()["results"][0]["faces"][0]["probabilities"]

        answers = [ask(number) for number in range(64)]
        expected = Predictor.load(device="cpu", engine="float32").predict(crops[:64])
        drift = [
            max(abs(answer[name] - value) for name, value in right.probabilities.items())
            for answer, right in zip(answers, expected, strict=True)
        ]
        part.record("largest drift from float32 on processors", round(max(drift), 4))

        def ask_many(client: int) -> None:
            for number in range(NUM_REQUESTS // NUM_CLIENTS):
                ask(number * NUM_CLIENTS + client)

        start = time.perf_counter()
        with ThreadPoolExecutor(NUM_CLIENTS) as clients:
            list(clients.map(ask_many, range(NUM_CLIENTS)))
        rate = NUM_REQUESTS / (time.perf_counter() - start)
        part.record(f"requests/s of {NUM_CLIENTS} clients", round(rate, 1))


def run_tests(part: Part) -> None:
    """Run the tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-m", "gpu", "-W", "default"]
    files = ["tests/models/test_on_gpu.py", "tests/training/test_training_on_gpu.py"]
    tests = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--color=no", *files],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    part.record("exit code", tests.returncode)
    part.record("output", (tests.stdout + tests.stderr)[-3000:])


PARTS: dict[str, Callable[[Part], None]] = {
    "prepare": prepare,
    "resume": resume,
    "train": train_networks,
    "label": label_images,
    "serve": serve_and_explain,
    "tests": run_tests,
}


# Their processes.


def start_part(
    name: str, folder: str, patience: float
) -> tuple[str, subprocess.Popen[bytes], float]:
    """Start a part in a process of its own, and return it with the time at which it must end."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", name, "--folder", folder]
    with (Path(folder) / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    return name, process, time.monotonic() + SECONDS[name] * patience


def finish_part(name: str, process: subprocess.Popen[bytes], deadline: float, work: Path) -> None:
    """Wait for a part, end what is left of it, and print how it failed if it did."""
    try:
        code = str(process.wait(max(0.1, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        code = "none: it took too long"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if code != "0":
        tail = (work / f"{name}.log").read_text(errors="replace")[-2500:]
        print(f"[{name}] FAILED, exit code {code}\n{tail}", flush=True)


def write_results(work: Path, output: Path) -> None:
    """Write the results of all parts so far."""
    files = {name: work / f"{name}.json" for name in PARTS}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    output.write_text(json.dumps(results, indent=1))


def run_parts(options: argparse.Namespace, work: Path) -> None:
    """Run the parts in their order: the first ones alone, the last ones side by side."""
    started, output = [], Path(options.output)
    for name in PARTS:
        if name not in (*options.parts, "prepare"):
            continue
        started.append(start_part(name, str(work), options.patience))
        if name in ("prepare", "train"):
            finish_part(*started.pop(), work)
        elif name == "resume":
            wait_until_killed(started[-1][1], work, WAIT_SECONDS * options.patience)
        write_results(work, output)
    for part in started:
        finish_part(*part, work)
        write_results(work, output)


def wait_until_killed(process: subprocess.Popen[bytes], work: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not (work / KILLED).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--output", default="gpu.json")
    parser.add_argument("--dataset", help="dataset to train on instead of drawn faces")
    parser.add_argument("--models", nargs="+", default=["resnet10-w48", "deep"])
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--faces", type=int, default=4000, help="number of faces to draw")
    parser.add_argument("--times", type=int, default=5, help="brightnesses of each drawn face")
    parser.add_argument("--photographs", help="folder of photographs to label too")
    parser.add_argument("--detector-weights", help="YuNet's ONNX file, for the photographs")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all timeouts")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.part:
        part = Part(options.part, options)
        with part.attempt(options.part):
            PARTS[options.part](part)
        ray.shutdown()
        return
    # Processes that outlive a part may still write there.
    with TemporaryDirectory(ignore_cleanup_errors=True) as work:
        run_parts(options, Path(work))


if __name__ == "__main__":
    main()
