"""Rates of the label job, and their ratios to those of what it is compared with."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import tyro
from turns import Measured, quietly

from fer import storage
from fer.labels.files import read_tally
from fer.models.engine import EngineName
from ray_jobs.config import LabelConfig
from ray_jobs.label import run
from ray_jobs.labeling.write import FACES


@dataclass(frozen=True)
class Options:
    """Options of all comparisons.

    Attributes:
        checkpoint: Checkpoint of the network.
        engine: How label and the bare processes run the network.
        detector_weights: YuNet's ONNX file. By default that of OpenCV's model zoo.
        repeats: Number of turns of each side.
    """

    checkpoint: str = "bundled"
    engine: EngineName = "auto"
    detector_weights: str | None = None
    repeats: int = 3

    @property
    def flags(self) -> dict[str, Any]:
        """The options that are flags of label."""
        return {name: value for name, value in vars(self).items() if name != "repeats"}


CommonOptions = tyro.conf.OmitArgPrefixes[Options]
DEFAULTS = Options()


def label(name: str, place: Path | str, **flags: Any) -> Measured:  # noqa: ANN401
    """Label images and return the rates. The labels are kept.

    Args:
        name: Name of the rates.
        place: Folder or URI in which the folder ``labels`` is written.
        flags: Flags of ``LabelConfig``.
    """
    output = storage.join(str(place), "labels")
    storage.delete(output)
    start = time.perf_counter()
    with quietly():
        images = run(LabelConfig(output=output, **flags))["images"]
    job = images / (time.perf_counter() - start)
    return {f"{name}, job": job, f"{name}, stream": stream_rate(output)}


def stream_rate(output: str) -> float:
    """Return images per second from the first label file to the last."""
    store, path = storage.filesystem(storage.join(output, FACES))
    files = sorted(store.get_file_info(pafs.FileSelector(path)), key=lambda file: file.mtime_ns)
    written = [storage.join(output, FACES, file.base_name) for file in files[1:]]
    images = sum(read_tally(file).images for file in written)
    seconds = (files[-1].mtime_ns - files[0].mtime_ns) / 1e9
    return images / seconds if seconds else float("nan")


def report(name: str, num_images: int, options: Options, rates: Measured) -> None:
    """Print all rates, and their ratios to the first two, which are label's job and stream."""
    print(f"{name}: {num_images:,} images, {options.engine} engine, {options.repeats} turns")
    job, stream, *_ = rates.values()
    ratios = {side: (job / rate, stream / rate) for side, rate in rates.items()}
    for side, rate in rates.items():
        to_job, to_stream = ratios[side]
        print(f"{side:15} {rate:8,.1f}/s; job {to_job:5.2f} and stream {to_stream:5.2f} of this")
    settings = {"comparison": name, "images": num_images, **dataclasses.asdict(options)}
    print(json.dumps({**settings, "rates": rates, "ratios_of_job_and_stream": ratios}))
