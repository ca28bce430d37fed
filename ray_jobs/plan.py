"""Time, cost, requests and bytes of a job, before it runs.

1. Calibrate, where that is asked for: pieces of the work, and small jobs, on the cluster at hand.
2. Plan: the same for the images and the cluster that are asked about.
"""

import contextlib
import io
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from fer.cost_model import ClusterShape, Coefficients, Plan, plan_label, plan_train
from fer.data.synthetic import Faces, draw_faces, to_csv, to_zip
from fer.errors import InputError
from fer.labels.files import read_tally
from fer.models.predictor import Predictor
from fer.training.history import from_json_lines
from fer.vision.decode import decode_image, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights
from ray_jobs import ingest, label, train
from ray_jobs.cluster import session
from ray_jobs.config import IngestConfig, LabelConfig, PlanConfig, TrainConfig
from ray_jobs.pipeline import locations

DEFAULTS = Path(__file__).with_name("plan.json")
"""Coefficients that ``--calibrate`` measured, and where and when."""

SMALL, LARGE = 512, 6144
"""Crops of the two runs of label whose difference is what one takes."""

NUM_TRAIN, NUM_VAL, NUM_EPOCHS = 1408, 176, 2
"""Faces and epochs of the run of train."""

PIECE_SECONDS = 2.0
"""How long a piece is repeated."""

MEGAPIXELS = 1.0
"""Size of the photograph that is decoded and looked at."""


def run(config: PlanConfig) -> dict[str, Any]:
    """Plan a job.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The coefficients can't be read, or say nothing of what is asked.
    """
    config = locations.resolve(config)
    if config.calibrate:
        costs = calibrate(config)
        if config.coefficients is not None:
            costs.write(config.coefficients)
    else:
        costs = Coefficients.read(config.coefficients or str(DEFAULTS))
    shape = ClusterShape(
        config.num_nodes,
        config.cpus_per_node,
        config.gpus_per_node,
        config.price_per_hour,
        config.link_gbps,
    )
    planned = _plan(config, shape, costs)
    result = {
        "job": config.job,
        "seconds": round(planned.seconds, 1),
        "parts": {name: round(seconds, 1) for name, seconds in planned.seconds_by_stage.items()},
        "node_hours": round(config.num_nodes * planned.seconds / 3600, 3),
        "cost": {name: round(dollars, 4) for name, dollars in planned.cost(shape).items()},
        "requests": dict(planned.requests),
        "output_bytes": planned.output_bytes,
        "coefficients": vars(costs),
    }
    _tell(config, result)
    return result


def _plan(config: PlanConfig, shape: ClusterShape, costs: Coefficients) -> Plan:
    if config.job == "train":
        return plan_train(
            config.num_images,
            config.num_epochs,
            shape,
            costs,
            model=config.model,
            batch_size=config.batch_size,
            seconds_per_start=config.start_seconds,
        )
    are_photographs = config.detector == "yunet"
    return plan_label(
        config.num_images,
        shape,
        costs,
        megapixels=config.megapixels if are_photographs else None,
        faces_per_image=config.faces_per_image if are_photographs else 1.0,
        request_seconds=config.request_ms / 1000,
        seconds_per_start=config.start_seconds,
    )


def _tell(config: PlanConfig, result: dict[str, Any]) -> None:
    """Show a plan as a table, on standard error."""
    what = f"{config.num_images:,} images"
    nodes = f"{config.num_nodes} node(s) of {config.cpus_per_node} CPU"
    table = Table(title=f"{config.job}: {what} on {nodes}", title_justify="left")
    table.add_column("")
    table.add_column("planned", justify="right")
    for name, seconds in result["parts"].items():
        table.add_row(name, _duration(seconds))
    table.add_row("time", _duration(result["seconds"]), style="bold")
    for name, dollars in result["cost"].items():
        table.add_row(f"cost of {name}", f"${dollars:,.2f}")
    for kind, number in result["requests"].items():
        table.add_row(f"{kind} requests", f"{number:,}")
    table.add_row("output", f"{result['output_bytes'] / 1e6:,.1f} MB")
    console = Console(stderr=True)
    console.print(table)
    console.print(f"By what was measured: {result['coefficients']['measured']}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


# Calibrate.


def calibrate(config: PlanConfig) -> Coefficients:
    """Measure what one of something takes on the cluster at hand.

    Pieces are run on every CPU at once, as jobs run them, so that cores that share their memory
    are measured as they are.
    """
    session.connect()
    session.require_resources([{"CPU": 1}], "Measurements")
    if len([node for node in ray.nodes() if node["Alive"]]) > 1:
        raise InputError(
            "--calibrate measures one machine, on whose disk its samples lie, and this cluster has "
            "several: run it on a node of the kind to be planned for, without RAY_ADDRESS."
        )
    cpus = int(ray.cluster_resources()["CPU"])
    weights = load_detector_weights(config.detector_weights) if config.detector == "yunet" else None
    _say("decoding, detecting and classifying")
    pieces = _mean([ray.remote(num_cpus=1)(_pieces).remote(weights) for _ in range(cpus)])
    with tempfile.TemporaryDirectory() as name, session.unwrap_errors():
        folder = Path(name)
        _say("two small runs of label")
        labeled = _measure_label(folder, cpus, pieces)
        _say(f"a small run of train, the {config.model} network")
        trained = _measure_train(folder, config.model, cpus)
        gpu = _measure_gpu(folder, config) if config.use_gpu else {}
    measured: dict[str, Any] = {**pieces, **labeled, **trained, "gpu_train": gpu}
    where = f"{cpus} x {platform.machine()} CPU, torch {torch.__version__}, {date.today()}"
    return Coefficients(measured=where, **measured)


def _say(doing: str) -> None:
    print(f"Measuring: {doing}", file=sys.stderr, flush=True)


def _mean(measured: list[Any]) -> dict[str, float]:
    told = ray.get(measured)
    return {name: float(np.mean([each[name] for each in told])) for name in told[0]}


def _pieces(weights: bytes | None) -> dict[str, float]:
    """Return the seconds of each piece on one CPU, by the name of its coefficient."""
    torch.set_num_threads(1)
    faces, _ = draw_faces(512, seed=0)
    predictor = Predictor.load("bundled", "cpu")
    file = encode(faces[0], "PNG")
    large = encode(photograph(faces[0]), "JPEG")
    seconds = {
        "crop": _seconds_of(lambda: decode_image(file)),
        "decode": _seconds_of(lambda: decode_photo(large)) / MEGAPIXELS,
        "classify": _seconds_of(lambda: predictor.predict_probs(faces)) / len(faces),
        "detect": 0.0,
    }
    if weights is not None:
        detector, photo = FaceDetector(weights), decode_photo(large)
        seconds["detect"] = _seconds_of(lambda: detector.detect(photo)) / MEGAPIXELS
    return seconds


def _seconds_of(work: Callable[[], object]) -> float:
    """Return what a piece takes, the first time left aside."""
    work()
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < PIECE_SECONDS:
        work()
        times += 1
    return (time.perf_counter() - start) / times


def encode(pixels: np.ndarray, form: str) -> bytes:
    """Return a picture uint8 (H, W) or (H, W, 3) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=90)
    return buffer.getvalue()


def photograph(face: np.ndarray) -> np.ndarray:
    """Return a picture uint8 (H, W, 3) of a megapixel, noisy so that its JPEG has some 270 KB."""
    side = int((MEGAPIXELS * 1e6) ** 0.5)
    large = Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    return np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)


def _measure_label(folder: Path, cpus: int, pieces: dict[str, float]) -> dict[str, float]:
    """Return the coefficients of label, from two runs on crops that differ in their number."""
    seconds = {}
    for number in (SMALL, LARGE):
        images, labels = draw_faces(number, seed=number)
        drawn = folder / f"{number}.zip"
        drawn.write_bytes(to_zip(Faces(images, labels, ["train"] * number)))
        output = folder / f"labels-{number}"
        with _quietly():
            told = label.run(LabelConfig(images=str(drawn), output=str(output), detector="none"))
        seconds[number] = told["seconds"]
    per_image = cpus * (seconds[LARGE] - seconds[SMALL]) / (LARGE - SMALL)
    rows, sizes = zip(*map(_size, (output / "faces").iterdir()), strict=True)
    row_bytes, chunk_bytes = np.polyfit(rows, sizes, deg=1)
    return {
        "pipeline": max(0.0, per_image - pieces["crop"] - pieces["classify"]),
        "label_start": max(0.0, seconds[SMALL] - SMALL * per_image / cpus),
        "row_bytes": float(row_bytes),
        "chunk_bytes": float(max(0.0, chunk_bytes)),
    }


def _size(file: Path) -> tuple[int, int]:
    """Return how many images a file of labels has, and how many bytes."""
    return read_tally(str(file)).images, file.stat().st_size


def _measure_train(folder: Path, model: Any, cpus: int, **flags: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the coefficients of train, from a short run."""
    output = folder / f"run-{len(flags)}"
    with _quietly():
        told = train.run(
            TrainConfig(
                dataset=_dataset(folder),
                output=str(output),
                model=model,
                num_epochs=NUM_EPOCHS,
                **flags,
            )
        )
    epochs = from_json_lines((output / "metrics.jsonl").read_bytes())
    # The first epoch warms up.
    last = epochs[-1]
    steps = NUM_TRAIN // 128 * 128 / last["images_per_second"]
    between = last["finished"] - epochs[-2]["finished"]
    return {
        "train": {model: cpus / last["images_per_second"]},
        "val": cpus * max(0.0, last["seconds"] - steps) / NUM_VAL,
        "epoch": max(0.0, between - last["seconds"]),
        "train_start": max(0.0, told["seconds"] - NUM_EPOCHS * between),
    }


def _measure_gpu(folder: Path, config: PlanConfig) -> dict[str, float]:
    session.require_resources([{"GPU": 1}], "Training that is measured on a GPU")
    _say("the same on a GPU")
    trained = _measure_train(folder, config.model, 1, use_gpu=True, cpus_per_worker=1)
    return dict(trained["train"])


def _dataset(folder: Path) -> str:
    data = folder / "data"
    if not data.exists():
        images, labels = draw_faces(NUM_TRAIN + NUM_VAL, seed=0)
        splits = ["val"] * NUM_VAL + ["train"] * NUM_TRAIN
        (folder / "drawn.csv").write_bytes(to_csv(Faces(images, labels, splits)))
        with _quietly():
            ingest.run(IngestConfig(source=(str(folder / "drawn.csv"),), output=str(data)))
    return str(data)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the progress of small runs to themselves."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
