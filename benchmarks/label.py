"""Speed of label compared with its stages run alone, and growth of its time and memory.

    python benchmarks/label.py crops fer2013_images.zip
    python benchmarks/label.py photos photos/ --times 20
    python benchmarks/label.py s3 photos/ s3://bucket/benchmark --times 5
    python benchmarks/label.py growth --sizes 10000 100000 1000000 --stub

The sides take turns on the same images and cores, with Ray already started. The result is the ratio
of their medians. For label, `job` is the rate of the whole job, from reading the checkpoint to the
report, and `stream` the rate from the first label file to the last, without start and end. The bare
side is one plain process with one thread for each CPU. These processes start at the same time and
only decode, detect and classify: no listing, tables, files, thumbnails or report.
"""

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.synchronize import Barrier
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import torch
import tyro
from memory import MIB, measured_peaks
from PIL import Image

from fer import storage
from fer.data.items import fetch_image
from fer.data.readers import read_items
from fer.data.synthetic import draw_faces
from fer.labels.files import read_tally
from fer.models.architectures import build_model
from fer.models.engine import EngineName
from fer.models.networks import load_networks, pack_checkpoint
from fer.models.predictor import Predictor
from fer.storage import listing
from fer.vision.decode import ImageError, decode_image, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights
from ray_jobs.cluster import session
from ray_jobs.config import LabelConfig
from ray_jobs.label import run
from ray_jobs.labeling.write import FACES

Rates = dict[str, float]
"""Images per second, by the name of what was measured."""

Side = Callable[[], Rates]
"""One side of a comparison: a function that measures its rates."""

STAGES = ("decode", "detect", "classify")


# The job.


def label(name: str, place: Path | str, **flags: Any) -> Rates:  # noqa: ANN401
    """Label images and return the rates. The labels are kept.

    Args:
        name: Name of the rates.
        place: Folder or URI in which the folder ``labels`` is written.
        flags: Flags of ``LabelConfig``.
    """
    output = storage.join(str(place), "labels")
    storage.delete(output)
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
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


# Its stages, run alone.


@dataclass
class Bare:
    """The network and detector of a plain process."""

    predictor: Predictor
    detector: FaceDetector | None

    def classify(self, crops: np.ndarray) -> float:
        """Classify faces uint8 (N, 48, 48), and return the seconds that it takes."""
        start = time.perf_counter()
        self.predictor.predict_probs(crops)
        return time.perf_counter() - start

    def label(self, photographs: Sequence[Path]) -> np.ndarray:
        """Label photographs, and return the seconds of each of the ``STAGES``, (3,)."""
        seconds, crops = np.zeros(3), []
        for photograph in photographs:
            start = time.perf_counter()
            try:
                photo = decode_photo(photograph.read_bytes())
            except ImageError:
                continue
            decoded = time.perf_counter()
            crops += [face.crop for face in self.detector.detect(photo)]
            seconds[:2] += decoded - start, time.perf_counter() - decoded
        seconds[2] = self.classify(np.stack(crops))
        return seconds


Images = np.ndarray | list[Path]
Work = Callable[[Bare, Any], float | np.ndarray]


class Processes:
    """Plain processes, one for each CPU, that start each piece of work at the same time."""

    def __init__(self, checkpoint: str, engine: EngineName, weights: bytes | None = None) -> None:
        self.number = num_cpus()
        context = multiprocessing.get_context("spawn")
        arguments = (context.Barrier(self.number), checkpoint, engine, weights)
        self._pool = ProcessPoolExecutor(self.number, context, _prepare, arguments)
        # The first batch warms up the network and compiles it.
        self.run(Bare.classify, np.zeros((self.number * 128, 48, 48), np.uint8))

    def run(self, work: Work, images: Images) -> list[Any]:
        """Share out images, every n-th to a process, and return the result of each process."""
        shares = [images[first :: self.number] for first in range(self.number)]
        return list(self._pool.map(_do, [work] * self.number, shares))


_process: dict[str, Any] = {}
"""State of a plain process."""


def _prepare(barrier: Barrier, checkpoint: str, engine: EngineName, weights: bytes | None) -> None:
    predictor = Predictor.load(checkpoint, "cpu", engine, num_threads=1)
    detector = FaceDetector(weights) if weights else None
    _process.update(barrier=barrier, bare=Bare(predictor, detector))


def _do(work: Work, share: Images) -> float | np.ndarray:
    _process["barrier"].wait()
    return work(_process["bare"], share)


# A simple pipeline, as the documentation of Ray Data suggests it.


def plain_example(images: str, output: str, checkpoint: str) -> None:
    """Read images as rows, map functions over them, and run a float32 network in actors."""

    def standardize(row: dict[str, Any]) -> dict[str, Any]:
        image = row["image"].astype(np.float32)
        return {"path": row["path"], "image": (image - image.mean()) / max(image.std(), 1.0)}

    class Network:
        def __init__(self) -> None:
            (self.model,) = load_networks(checkpoint)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            with torch.inference_mode():
                logits = self.model(torch.tensor(batch["image"]).unsqueeze(1))
            return {"path": batch["path"], "probabilities": logits.softmax(dim=1).numpy()}

    (
        ray.data.read_images(images, size=(48, 48), mode="L", include_paths=True)
        .map(standardize)
        .map_batches(
            Network,
            batch_size=128,
            compute=ray.data.ActorPoolStrategy(size=num_cpus()),
            # With a whole CPU for each actor, no CPU would be left for reading: a deadlock.
            num_cpus=0.5,
        )
        .write_parquet(output)
    )


def plain_rate(images: Path, folder: Path, checkpoint: str) -> float:
    """Run the plain example with Ray Data's default settings; return images per second."""
    output, context = folder / "plain", ray.data.DataContext()
    context.enable_progress_bars = False
    start = time.perf_counter()
    with ray.data.DataContext.current(context):
        plain_example(str(images), str(output), checkpoint)
    seconds = time.perf_counter() - start
    num_images = pq.read_table(output, columns=["path"]).num_rows
    shutil.rmtree(output)
    return num_images / seconds


# Comparisons.


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


Source = tyro.conf.Positional[str]
CommonOptions = tyro.conf.OmitArgPrefixes[Options]


def crops(images: Source, options: CommonOptions = Options(), *, limit: int | None = None) -> None:
    """Compare label on face crops with the network alone and with a plain example of Ray Data.

    Args:
        images: Folder or archive of face crops.
        options: Options of all comparisons.
        limit: Number of images to stop after.
    """
    with working_folder() as folder:
        files = copy_images(images, folder / "faces", limit=limit)
        pixels = np.stack([decode_image(file.read_bytes()).pixels for file in files])
        bare = Processes(options.checkpoint, options.engine)

        def job() -> Rates:
            flags = {"images": images, "limit": limit, "detector": "none", **options.flags}
            return label("label", folder, **flags)

        def network() -> Rates:
            return {"network alone": len(pixels) / np.mean(bare.run(Bare.classify, pixels))}

        def plain() -> Rates:
            return {"plain example": plain_rate(folder / "faces", folder, options.checkpoint)}

        report("crops", len(files), options, take_turns((job, network, plain), options.repeats))


def photos(images: Source, options: CommonOptions = Options(), *, times: int = 20) -> None:
    """Compare label on photographs with the sum of decoding, detecting and classifying.

    Args:
        images: Folder of photographs.
        options: Options of all comparisons.
        times: Number of copies of each photograph, under different names.
    """
    with working_folder() as folder:
        files = copy_images(images, folder / "photos", times=times)
        bare = Processes(
            options.checkpoint, options.engine, load_detector_weights(options.detector_weights)
        )

        def job() -> Rates:
            return label("label", folder, images=str(folder / "photos"), **options.flags)

        def stages() -> Rates:
            seconds = np.mean(bare.run(Bare.label, files), axis=0)
            by_stage = dict(zip(STAGES, len(files) / seconds, strict=True))
            return {"bare stages": len(files) / seconds.sum(), **by_stage}

        report("photos", len(files), options, take_turns((job, stages), options.repeats))


def s3(
    images: Source,
    location: tyro.conf.Positional[str],
    options: CommonOptions = Options(),
    *,
    detector: Literal["yunet", "none"] = "yunet",
    times: int = 1,
    limit: int | None = None,
) -> None:
    """Compare label on an object store, named by the environment, with a local disk.

    Args:
        images: Folder of photographs, or folder or archive of face crops.
        location: URI of an empty prefix. What the benchmark writes there is deleted.
        options: Options of all comparisons.
        detector: Detector of the faces.
        times: Number of copies of each image, under different names.
        limit: Number of images to stop after.
    """
    store, path = storage.filesystem(location)
    if not listing.is_empty(location):
        raise SystemExit(f"{location} is not empty; name an empty prefix.")
    with working_folder() as folder, contextlib.ExitStack() as cleanup:
        files = copy_images(images, folder / "images", times=times, limit=limit)
        cleanup.callback(storage.delete, location)
        pafs.copy_files(str(folder), path, destination_filesystem=store)
        flags = {"detector": detector, **options.flags}

        def remote() -> Rates:
            return label("S3", location, images=storage.join(location, "images"), **flags)

        def local() -> Rates:
            return label("disk", folder, images=str(folder / "images"), **flags)

        rates = take_turns((remote, local), options.repeats)
        same = emotions(location).items() & emotions(str(folder)).items()
        print(f"the same emotion in {len(same)} of {len(emotions(location))} rows")
    report("s3", len(files), options, rates)


def growth(
    *,
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    stub: bool = False,
    checkpoint: str = "bundled",
) -> None:
    """Measure time an image and peak memory with more and more face crops.

    Each size runs in its own process and cluster. The files are hard links to a thousand drawn
    faces, so that a million of them fit into the page cache.

    Args:
        sizes: Numbers of faces.
        stub: Use an untrained network of one convolution instead of the checkpoint.
        checkpoint: Checkpoint of the network.
    """
    spawn = multiprocessing.get_context("spawn")
    for size in sizes:
        with ProcessPoolExecutor(1, spawn) as alone:
            result = alone.submit(label_drawn, size, stub, checkpoint).result()
        print(json.dumps(result), flush=True)


def label_drawn(size: int, stub: bool, checkpoint: str) -> dict[str, Any]:
    """Label drawn faces, in a process that has not done anything before."""
    with working_folder(with_ray=False) as folder:
        link_faces(folder / "faces", size)
        if stub:
            checkpoint = write_stub(folder / "stub")
        flags = {"images": str(folder / "faces"), "checkpoint": checkpoint, "detector": "none"}
        with measured_peaks() as peaks:
            session.connect()
            rates = label("label", folder, **flags)
    return {
        "faces": size,
        "network": "untrained, one convolution" if stub else checkpoint,
        "milliseconds an image": {name: round(1000 / rate, 3) for name, rate in rates.items()},
        "driver MiB": peaks.driver // MIB,
        "object store MiB": peaks.object_store // MIB,
    }


# Shared by the comparisons.


@contextlib.contextmanager
def working_folder(*, with_ray: bool = True) -> Iterator[Path]:
    """Yield a temporary folder, with Ray started unless the caller starts it later."""
    with tempfile.TemporaryDirectory() as folder:
        if with_ray:
            session.connect()
        try:
            yield Path(folder)
        finally:
            ray.shutdown()


def num_cpus() -> int:
    """Return the number of CPUs of the cluster, which limits the processes of label's stages."""
    return int(ray.cluster_resources()["CPU"])


def take_turns(sides: Sequence[Side], repeats: int) -> Rates:
    """Run the sides in turn, ``repeats`` times, and return the medians of their rates."""
    rates = defaultdict(list)
    for _ in range(repeats):
        for side in sides:
            for name, rate in side().items():
                rates[name].append(rate)
    return {name: statistics.median(values) for name, values in rates.items()}


def report(name: str, num_images: int, options: Options, rates: Rates) -> None:
    """Print all rates, and their ratios to the first two, which are label's job and stream."""
    print(f"{name}: {num_images:,} images, {options.engine} engine, {options.repeats} turns")
    job, stream, *_ = rates.values()
    ratios = {side: (job / rate, stream / rate) for side, rate in rates.items()}
    for side, rate in rates.items():
        to_job, to_stream = ratios[side]
        print(f"{side:15} {rate:8,.1f}/s; job {to_job:5.2f} and stream {to_stream:5.2f} of this")
    settings = {"comparison": name, "images": num_images, **dataclasses.asdict(options)}
    print(json.dumps({**settings, "rates": rates, "ratios_of_job_and_stream": ratios}))


def copy_images(
    source: str, folder: Path, *, times: int = 1, limit: int | None = None
) -> list[Path]:
    """Write the images of a source as files, each ``times`` times under different names."""
    files = []
    images = (item for item in read_items(storage.resolve(source)) if item.kind == "image")
    for copy in range(times):
        (folder / str(copy)).mkdir(parents=True)
    for number, item in enumerate(islice(images, limit)):
        content, suffix = fetch_image(item), PurePath(item.source).suffix
        for copy in range(times):
            files.append(folder / str(copy) / f"{number:06d}{suffix}")
            files[-1].write_bytes(content)
    return files


def emotions(place: str) -> dict[tuple[str, int], str]:
    """Return the emotion of each face, by the image's path below a place and the face's number."""
    store, path = storage.filesystem(storage.join(place, "labels", FACES))
    rows = pq.read_table(path, filesystem=store).to_pylist()
    return {(row["image"].removeprefix(place), row["face"]): row["emotion"] for row in rows}


NUM_DRAWN = 1000
"""Number of different faces. Each file can have at most 65,000 hard links."""


def link_faces(folder: Path, size: int) -> None:
    """Write a thousand drawn faces, and hard links to them in folders of a thousand files."""
    images, _ = draw_faces(NUM_DRAWN, seed=0)
    for number in range(size):
        group, member = divmod(number, NUM_DRAWN)
        file = folder / f"{group:06d}" / f"{member:03d}.png"
        if not member:
            file.parent.mkdir(parents=True)
        if not group:
            Image.fromarray(images[member]).save(file)
        else:
            os.link(folder / f"{0:06d}" / file.name, file)


def write_stub(folder: Path) -> str:
    """Write an untrained network of one convolution as a checkpoint, and return its location."""
    network, architecture = build_model("conv1"), {"name": "conv1", "arguments": {}}
    for name, content in pack_checkpoint(network, architecture).items():
        storage.write_bytes(storage.join(str(folder), name), content)
    return str(folder)


if __name__ == "__main__":
    measures = {"crops": crops, "photos": photos, "s3": s3, "growth": growth}
    tyro.extras.subcommand_cli_from_dict(measures, description=__doc__)
