"""Plan: predict the time, cost, requests and bytes of a job before it runs.

1. Calibrate, with --calibrate: measure operations and small jobs on the cluster at hand.
2. Plan: compute what the planned job takes on the planned cluster.
"""

import contextlib
import io
import math
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
from PIL import Image
from rich.console import Console
from rich.table import Table

from fer import extras
from fer.cost_model import (
    ClusterShape,
    Coefficients,
    Plan,
    PlannedNetwork,
    plan_label,
    plan_train,
)
from fer.data.synthetic import Faces, draw_faces, to_csv, to_zip
from fer.errors import InputError
from fer.labels.files import read_tally
from fer.models.predictor import Predictor
from fer.training.history import from_json_lines
from fer.vision.decode import decode_image, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights
from fer.vision.shape import IMAGE_SIZE, ImageShape
from ray_jobs import jobs
from ray_jobs.cluster import session
from ray_jobs.config import IngestConfig, LabelConfig, PlanConfig, TrainConfig
from ray_jobs.pipeline import locations

DEFAULTS = Path(__file__).with_name("plan.json")
"""Coefficients that ``--calibrate`` measured, with the machine and the date."""

SMALL, LARGE = 512, 6144
"""Numbers of crops in two runs of label: the time between them is that of the extra crops."""

REPRESENTATIVES = ("conv4", "deep", "resnet4-w32", "resnet10-w48")
"""Networks whose training is measured beside that of --model: a small and a large one of each kind,
so that the others can be planned."""

NUM_TRAIN, NUM_VAL, NUM_EPOCHS = 1408, 176, 2
"""Examples of each split, and epochs, in the run of train."""

OPERATION_SECONDS = 2.0
"""How long each operation is repeated to measure it."""

MEGAPIXELS = 1.0
"""Size of the photograph that is decoded and searched for faces."""


def run(config: PlanConfig) -> dict[str, Any]:
    """Plan a job.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The coefficients can't be read, or do not cover the planned job.
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
    network = planned_network(config, costs) if config.job == "train" else None
    plan = _plan(config, shape, costs, network)
    result = {
        "job": config.job,
        "seconds": round(plan.seconds, 1),
        "parts": {name: round(seconds, 1) for name, seconds in plan.seconds_by_stage.items()},
        "node_hours": round(config.num_nodes * plan.seconds / 3600, 3),
        "cost": {name: round(dollars, 4) for name, dollars in plan.cost(shape).items()},
        "requests": dict(plan.requests),
        "output_bytes": plan.output_bytes,
        "measured_as": network and network.measured_as,
        "coefficients": vars(costs),
    }
    _print_table(config, result)
    return result


def _plan(
    config: PlanConfig, shape: ClusterShape, costs: Coefficients, network: PlannedNetwork | None
) -> Plan:
    if network is not None:
        return plan_train(
            config.num_images,
            config.num_epochs,
            shape,
            costs,
            network,
            batch_size=config.batch_size,
            node_start_seconds=config.start_seconds,
        )
    has_photographs = config.detector == "yunet"
    return plan_label(
        config.num_images,
        shape,
        costs,
        megapixels=config.megapixels if has_photographs else None,
        faces_per_image=config.faces_per_image if has_photographs else 1.0,
        request_seconds=config.request_ms / 1000,
        node_start_seconds=config.start_seconds,
    )


def planned_network(config: PlanConfig, costs: Coefficients) -> PlannedNetwork:
    """Return what the network of a planned training costs, from the most similar measured one.

    Networks of one family do the same per multiply-add, more or less, so that their times are to
    each other as their multiply-adds for an image.

    Raises:
        InputError: torch is missing, the network does not take the images, or no network like it
            was measured.
    """
    extras.require_torch("--job train")
    from fer.models.architectures import (  # noqa: PLC0415 - imports torch, as no other plan does
        build_model,
        count_multiply_adds,
        count_parameters,
        family_of,
    )

    network = build_model(
        config.model, shape=ImageShape(config.image_size, 3 if config.color else 1)
    )
    own = count_multiply_adds(network)
    measured = costs.gpu_train if config.gpus_per_node else costs.train
    family = family_of(config.model)
    sizes = {
        name: count_multiply_adds(build_model(name))
        for name in measured
        if family_of(name) == family
    }
    if not sizes:
        where = "a GPU" if config.gpus_per_node else "a CPU"
        on_gpu = " --use-gpu on a machine with a GPU" if config.gpus_per_node else ""
        raise InputError(
            f"The coefficients do not cover networks like {config.model} on {where}; run "
            f"--calibrate with --model {_measurable(config.model)}{on_gpu}."
        )
    nearest = min(sizes, key=lambda name: (name != config.model, abs(math.log(own / sizes[name]))))
    return PlannedNetwork(count_parameters(network), nearest, own / sizes[nearest])


def _measurable(model: str) -> str:
    """Return a network, or one like it, that takes the faces that trainings are measured on."""
    from fer.models.architectures import (  # noqa: PLC0415 - imports torch
        FAMILIES,
        family_of,
        smallest_side,
    )

    like = (model, *FAMILIES[family_of(model)])
    return next(name for name in like if smallest_side(name) <= IMAGE_SIZE)


def _print_table(config: PlanConfig, result: dict[str, Any]) -> None:
    """Print a plan as a table, on standard error."""
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
    console.print(f"Measured on: {result['coefficients']['measured']}")
    if result["measured_as"] not in (None, config.model):
        console.print(f"The time of {config.model} follows from that of {result['measured_as']}.")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


# Calibrate.


def calibrate(config: PlanConfig) -> Coefficients:
    """Measure what each operation takes on the cluster at hand.

    Operations run on every CPU at once, as in jobs, so that the contention of cores that share
    their memory is measured too.
    """
    extras.require_torch("--calibrate")
    if (other := _measurable(config.model)) != config.model:
        raise InputError(
            f"--calibrate trains on faces of {IMAGE_SIZE}x{IMAGE_SIZE} pixels, which "
            f"{config.model} does not take; choose --model {other}, from which its time follows."
        )
    session.connect(session.INFERENCE_MEMORY)
    session.require_resources([{"CPU": 1}], "Measurements")
    if len([node for node in ray.nodes() if node["Alive"]]) > 1:
        raise InputError(
            "--calibrate measures a single machine, since its samples lie on a local disk, but "
            "this cluster has several; unset RAY_ADDRESS and run it on a node of the planned kind."
        )
    cpus = int(ray.cluster_resources()["CPU"])
    weights = load_detector_weights(config.detector_weights) if config.detector == "yunet" else None
    _print_step("decoding, detecting and classifying")
    operations = _mean(
        [ray.remote(num_cpus=1)(_measure_operations).remote(weights) for _ in range(cpus)]
    )
    with tempfile.TemporaryDirectory() as name, session.unwrap_errors():
        folder = Path(name)
        _print_step("two small runs of label")
        labeled = _measure_label(folder, cpus, operations)
        models = dict.fromkeys((config.model, *REPRESENTATIVES))
        trained = _merge([_measure_train(folder, model, cpus) for model in models])
        gpu = _merge([_measure_train(folder, model) for model in models]) if config.use_gpu else {}
    measured: dict[str, Any] = {**operations, **labeled, **trained}
    measured |= {f"gpu_{split}": gpu.get(split, {}) for split in ("train", "val")}
    import torch  # noqa: PLC0415 - plans need none

    where = f"{cpus} x {platform.machine()} CPU, torch {torch.__version__}, {date.today()}"
    return Coefficients(measured=where, **measured)


def _print_step(step: str) -> None:
    print(f"Measuring: {step}", file=sys.stderr, flush=True)


def _mean(refs: list[Any]) -> dict[str, float]:
    measured = ray.get(refs)
    return {name: float(np.mean([seconds[name] for seconds in measured])) for name in measured[0]}


def _measure_operations(weights: bytes | None) -> dict[str, float]:
    """Return the seconds of each operation on one CPU, by the name of its coefficient."""
    faces, _ = draw_faces(512, seed=0)
    predictor = Predictor.load("bundled", "cpu", num_threads=1)
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
    """Return the mean seconds that an operation takes, without its first run."""
    work()
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < OPERATION_SECONDS:
        work()
        times += 1
    return (time.perf_counter() - start) / times


def encode(pixels: np.ndarray, form: str) -> bytes:
    """Return an image uint8 (H, W) or (H, W, 3) as a file of a format that Pillow knows."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=90)
    return buffer.getvalue()


def photograph(face: np.ndarray) -> np.ndarray:
    """Return an image uint8 (H, W, 3) of a megapixel, noisy enough for a JPEG of about 270 KB."""
    side = int((MEGAPIXELS * 1e6) ** 0.5)
    large = Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    return np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)


def _measure_label(folder: Path, cpus: int, operations: dict[str, float]) -> dict[str, float]:
    """Return the coefficients of label, from two runs with different numbers of crops."""
    seconds = {}
    for number in (SMALL, LARGE):
        images, labels = draw_faces(number, seed=number)
        drawn = folder / f"{number}.zip"
        drawn.write_bytes(to_zip(Faces(images, labels, ["train"] * number)))
        output = folder / f"labels-{number}"
        with _quietly():
            result = _run(LabelConfig(images=str(drawn), output=str(output), detector="none"))
        seconds[number] = result["seconds"]
    per_image = cpus * (seconds[LARGE] - seconds[SMALL]) / (LARGE - SMALL)
    rows, sizes = zip(*map(_size, (output / "faces").iterdir()), strict=True)
    row_bytes, chunk_bytes = np.polyfit(rows, sizes, deg=1)
    return {
        "pipeline": max(0.0, per_image - operations["crop"] - operations["classify"]),
        "label_start": max(0.0, seconds[SMALL] - SMALL * per_image / cpus),
        "row_bytes": float(row_bytes),
        "chunk_bytes": float(max(0.0, chunk_bytes)),
    }


def _size(file: Path) -> tuple[int, int]:
    """Return how many images a file of labels has, and how many bytes."""
    return read_tally(str(file)).images, file.stat().st_size


def _measure_train(folder: Path, model: Any, cpus: int | None = None) -> dict[str, Any]:  # noqa: ANN401
    """Return the coefficients of train, from a short run on all CPUs, or on one GPU."""
    _print_step(f"a small run of train, {model}{'' if cpus else ' on a GPU'}")
    if cpus is None:
        session.require_resources([{"GPU": 1}], "Measurements of training on a GPU")
    flags: dict[str, Any] = {} if cpus else {"use_gpu": True, "cpus_per_worker": 1}
    processors, output = cpus or 1, folder / f"{model}-{cpus}"
    with _quietly():
        result = _run(
            TrainConfig(
                dataset=_dataset(folder),
                output=str(output),
                model=model,
                num_epochs=NUM_EPOCHS,
                **flags,
            )
        )
    epochs = from_json_lines((output / "metrics.jsonl").read_bytes())
    # The first epoch is a warm-up.
    last = epochs[-1]
    steps = NUM_TRAIN // 128 * 128 / last["images_per_second"]
    between = last["finished"] - epochs[-2]["finished"]
    return {
        "train": {model: processors / last["images_per_second"]},
        "val": {model: processors * max(0.0, last["seconds"] - steps) / NUM_VAL},
        "epoch": max(0.0, between - last["seconds"]),
        "train_start": max(0.0, result["seconds"] - NUM_EPOCHS * between),
    }


def _merge(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the coefficients of several runs: each network's own, and the mean of the others."""
    return {
        name: {model: seconds for run in runs for model, seconds in run[name].items()}
        if isinstance(value, dict)
        else float(np.mean([run[name] for run in runs]))
        for name, value in runs[0].items()
    }


def _run(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any job's configuration
    """Run a small job and return its RESULT line."""
    result = jobs.run(config)
    assert result is not None
    return result


def _dataset(folder: Path) -> str:
    data = folder / "data"
    if not data.exists():
        images, labels = draw_faces(NUM_TRAIN + NUM_VAL, seed=0)
        splits = ["val"] * NUM_VAL + ["train"] * NUM_TRAIN
        (folder / "drawn.csv").write_bytes(to_csv(Faces(images, labels, splits)))
        with _quietly():
            _run(IngestConfig(source=(str(folder / "drawn.csv"),), output=str(data)))
    return str(data)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide the progress of the small jobs."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
