"""How fast label is beside its parts run bare, and whether its time and memory grow.

    python benchmarks/label.py crops fer2013_images.zip
    python benchmarks/label.py photos photos/ --times 20
    python benchmarks/label.py s3 photos/ s3://bucket/benchmark --times 5
    python benchmarks/label.py growth --sizes 10000 100000 1000000 --stub

The sides take turns on the same images and cores, Ray already up; what counts is the ratio of their
medians. Of label, `job` is the rate of all that it does, from reading the checkpoint to the report,
and `stream` that from the first file of labels to the last, without what begins and ends it. The
bare side is as many plain processes as there are CPUs, of one thread each, that begin at the same
time and do nothing but the work: no listing, tables, files, thumbnails or report.
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
from memory import MIB, watched
from PIL import Image

from fer import storage
from fer.data.sources import fetch_image, read_items
from fer.data.synthetic import draw_faces
from fer.labels.files import read_tally
from fer.models.checkpoint import load_checkpoint, pack_checkpoint
from fer.models.convnet import build_model
from fer.models.engine import EngineName
from fer.models.predictor import Predictor
from fer.storage import listing
from fer.vision.decode import ImageError, decode_image, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights
from ray_jobs.cluster import session
from ray_jobs.config import LabelConfig
from ray_jobs.label import run
from ray_jobs.labeling.write import FACES

Rates = dict[str, float]
"""Images a second, by what reached them."""

Side = Callable[[], Rates]

STAGES = ("decode", "detect", "classify")


# The job.


def label(name: str, place: Path | str, **flags: Any) -> Rates:  # noqa: ANN401
    """Label images, and return how fast that was; the labels stay.

    Args:
        name: What the rates are called.
        place: A folder or URI, in which ``labels`` are made.
        flags: Those of ``LabelConfig``.
    """
    output = storage.join(str(place), "labels")
    storage.delete(output)
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        images = run(LabelConfig(output=output, **flags))["images"]
    job = images / (time.perf_counter() - start)
    return {f"{name}, job": job, f"{name}, stream": stream_rate(output)}


def stream_rate(output: str) -> float:
    """Return images a second from the first file of labels to the last."""
    store, path = storage.filesystem(storage.join(output, FACES))
    files = sorted(store.get_file_info(pafs.FileSelector(path)), key=lambda file: file.mtime_ns)
    written = [storage.join(output, FACES, file.base_name) for file in files[1:]]
    images = sum(read_tally(file).images for file in written)
    seconds = (files[-1].mtime_ns - files[0].mtime_ns) / 1e9
    return images / seconds if seconds else float("nan")


# Its parts, run bare.


@dataclass
class Bare:
    """What a plain process needs to do the work of label."""

    predictor: Predictor
    detector: FaceDetector | None

    def classify(self, crops: np.ndarray) -> float:
        """Return the seconds that the network takes for faces uint8 (N, 48, 48)."""
        start = time.perf_counter()
        self.predictor.predict_probs(crops)
        return time.perf_counter() - start

    def label(self, photographs: Sequence[Path]) -> np.ndarray:
        """Return the seconds of each of the ``STAGES``, (3,)."""
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
    """Plain processes, one a CPU, whose parts of a work begin at the same time."""

    def __init__(self, checkpoint: str, engine: EngineName, weights: bytes | None = None) -> None:
        self.number = num_cpus()
        context = multiprocessing.get_context("spawn")
        made_from = (context.Barrier(self.number), checkpoint, engine, weights)
        self._pool = ProcessPoolExecutor(self.number, context, _prepare, made_from)
        # A first batch warms up, and compiles.
        self.run(Bare.classify, np.zeros((self.number * 128, 48, 48), np.uint8))

    def run(self, work: Work, images: Images) -> list[Any]:
        """Return what each process says of its share: each so-many-th image."""
        shares = [images[first :: self.number] for first in range(self.number)]
        return list(self._pool.map(_do, [work] * self.number, shares))


_here: dict[str, Any] = {}
"""What a plain process holds."""


def _prepare(barrier: Barrier, checkpoint: str, engine: EngineName, weights: bytes | None) -> None:
    torch.set_num_threads(1)
    predictor = Predictor.load(checkpoint, "cpu", engine)
    detector = FaceDetector(weights) if weights else None
    _here.update(barrier=barrier, bare=Bare(predictor, detector))


def _do(work: Work, share: Images) -> float | np.ndarray:
    _here["barrier"].wait()
    return work(_here["bare"], share)


# What a newcomer to Ray Data would write.


def plain_example(images: str, output: str, checkpoint: str) -> None:
    """Images as rows, a function for each, and an eager float32 network in actors."""

    def standardize(row: dict[str, Any]) -> dict[str, Any]:
        image = row["image"].astype(np.float32)
        return {"path": row["path"], "image": (image - image.mean()) / max(image.std(), 1.0)}

    class Network:
        def __init__(self) -> None:
            self.model = load_checkpoint(checkpoint).models[0].eval()

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
            # Of a whole CPU each, the actors would leave none to read with, and wait for ever.
            num_cpus=0.5,
        )
        .write_parquet(output)
    )


def plain_rate(images: Path, folder: Path, checkpoint: str) -> float:
    """Return images a second of the plain example, with Ray Data set up as it comes."""
    output, context = folder / "plain", ray.data.DataContext()
    context.enable_progress_bars = False
    start = time.perf_counter()
    with ray.data.DataContext.current(context):
        plain_example(str(images), str(output), checkpoint)
    seconds = time.perf_counter() - start
    num_images = pq.read_table(output, columns=["path"]).num_rows
    shutil.rmtree(output)
    return num_images / seconds


# What is measured.


@dataclass(frozen=True)
class How:
    """What all comparisons take.

    Attributes:
        checkpoint: The network.
        engine: How label and the bare processes run it.
        detector_weights: YuNet's ONNX file; by default that of OpenCV's model zoo.
        repeats: Turns of each side.
    """

    checkpoint: str = "bundled"
    engine: EngineName = "auto"
    detector_weights: str | None = None
    repeats: int = 3

    @property
    def flags(self) -> dict[str, Any]:
        """Those of label."""
        return {name: value for name, value in vars(self).items() if name != "repeats"}


Source = tyro.conf.Positional[str]
Options = tyro.conf.OmitArgPrefixes[How]


def crops(images: Source, how: Options = How(), *, limit: int | None = None) -> None:
    """Faces, beside the network alone and the plain example of Ray Data.

    Args:
        images: Folder or archive of faces.
        how: What all comparisons take.
        limit: Number of images to stop after.
    """
    with working_folder() as folder:
        files = copy_images(images, folder / "faces", limit=limit)
        pixels = np.stack([decode_image(file.read_bytes()).pixels for file in files])
        bare = Processes(how.checkpoint, how.engine)

        def job() -> Rates:
            flags = {"images": images, "limit": limit, "detector": "none", **how.flags}
            return label("label", folder, **flags)

        def network() -> Rates:
            return {"network alone": len(pixels) / np.mean(bare.run(Bare.classify, pixels))}

        def plain() -> Rates:
            return {"plain example": plain_rate(folder / "faces", folder, how.checkpoint)}

        tell("crops", len(files), how, take_turns((job, network, plain), how.repeats))


def photos(images: Source, how: Options = How(), *, times: int = 20) -> None:
    """Photographs, beside the sum of decoding, detecting and classifying.

    Args:
        images: Folder of photographs.
        how: What all comparisons take.
        times: How often each is taken, under another name.
    """
    with working_folder() as folder:
        files = copy_images(images, folder / "photos", times=times)
        bare = Processes(how.checkpoint, how.engine, load_detector_weights(how.detector_weights))

        def job() -> Rates:
            return label("label", folder, images=str(folder / "photos"), **how.flags)

        def stages() -> Rates:
            seconds = np.mean(bare.run(Bare.label, files), axis=0)
            of_each = dict(zip(STAGES, len(files) / seconds, strict=True))
            return {"bare stages": len(files) / seconds.sum(), **of_each}

        tell("photos", len(files), how, take_turns((job, stages), how.repeats))


def s3(
    images: Source,
    location: tyro.conf.Positional[str],
    how: Options = How(),
    *,
    detector: Literal["yunet", "none"] = "yunet",
    times: int = 1,
    limit: int | None = None,
) -> None:
    """An object store, as the environment names it, beside a local disk.

    Args:
        images: Folder of photographs, or folder or archive of faces.
        location: URI of a prefix that nothing lies under; what is written there is deleted.
        how: What all comparisons take.
        detector: What finds faces.
        times: How often each image is taken, under another name.
        limit: Number of images to stop after.
    """
    store, path = storage.filesystem(location)
    if not listing.is_empty(location):
        raise SystemExit(f"{location} holds something: name a prefix that nothing lies under.")
    with working_folder() as folder, contextlib.ExitStack() as cleanup:
        files = copy_images(images, folder / "images", times=times, limit=limit)
        cleanup.callback(storage.delete, location)
        pafs.copy_files(str(folder), path, destination_filesystem=store)
        flags = {"detector": detector, **how.flags}

        def remote() -> Rates:
            return label("S3", location, images=storage.join(location, "images"), **flags)

        def local() -> Rates:
            return label("disk", folder, images=str(folder / "images"), **flags)

        rates = take_turns((remote, local), how.repeats)
        same = emotions(location).items() & emotions(str(folder)).items()
        print(f"the same emotion in {len(same)} of {len(emotions(location))} rows")
    tell("s3", len(files), how, rates)


def growth(
    *,
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    stub: bool = False,
    checkpoint: str = "bundled",
) -> None:
    """Seconds an image, and the most memory taken, of more and more faces.

    Each size runs in a process and a cluster of its own. The files are a thousand drawn faces under
    many names, as hard links: a million of them fit into the page cache.

    Args:
        sizes: Numbers of faces.
        stub: Put an untrained network of one convolution in the place of the checkpoint.
        checkpoint: The network.
    """
    spawn = multiprocessing.get_context("spawn")
    for size in sizes:
        with ProcessPoolExecutor(1, spawn) as alone:
            told = alone.submit(grow, size, stub, checkpoint).result()
        print(json.dumps(told), flush=True)


def grow(size: int, stub: bool, checkpoint: str) -> dict[str, Any]:
    """Label so many faces, in a process that has done nothing else."""
    with working_folder(begun=False) as folder:
        link_faces(folder / "faces", size)
        if stub:
            checkpoint = write_stub(folder / "stub")
        flags = {"images": str(folder / "faces"), "checkpoint": checkpoint, "detector": "none"}
        with watched() as peaks:
            session.connect()
            rates = label("label", folder, **flags)
    return {
        "faces": size,
        "network": "an untrained one of one convolution" if stub else checkpoint,
        "milliseconds an image": {name: round(1000 / rate, 3) for name, rate in rates.items()},
        "driver MiB": peaks.driver // MIB,
        "object store MiB": peaks.object_store // MIB,
    }


# What they share.


@contextlib.contextmanager
def working_folder(*, begun: bool = True) -> Iterator[Path]:
    """Give a folder to work in, and unless it is to begin later, a cluster."""
    with tempfile.TemporaryDirectory() as folder:
        if begun:
            session.connect()
        try:
            yield Path(folder)
        finally:
            ray.shutdown()


def num_cpus() -> int:
    """Return how many processes label's own stages may have."""
    return int(ray.cluster_resources()["CPU"])


def take_turns(sides: Sequence[Side], repeats: int) -> Rates:
    """Run the sides one after another, so many times, and return the medians."""
    rates = defaultdict(list)
    for _ in range(repeats):
        for side in sides:
            for name, rate in side().items():
                rates[name].append(rate)
    return {name: statistics.median(values) for name, values in rates.items()}


def tell(what: str, num_images: int, how: How, rates: Rates) -> None:
    """Print rates, and how the first two, which are label's, compare with each."""
    print(f"{what}: {num_images:,} images, {how.engine} engine, {how.repeats} turns")
    job, stream, *_ = rates.values()
    ratios = {name: (job / rate, stream / rate) for name, rate in rates.items()}
    for name, rate in rates.items():
        whole, steady = ratios[name]
        print(
            f"{name:15} {rate:8,.1f}/s; the job is {whole:5.2f} and its stream {steady:5.2f} of it"
        )
    told = {"what": what, "images": num_images, **dataclasses.asdict(how)}
    print(json.dumps({**told, "rates": rates, "job_and_stream_of_it": ratios}))


def copy_images(
    source: str, folder: Path, *, times: int = 1, limit: int | None = None
) -> list[Path]:
    """Write the images of a source as files, each so many times under another name."""
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
    """Return what each face of each image was named, by the image's name below a place."""
    store, path = storage.filesystem(storage.join(place, "labels", FACES))
    rows = pq.read_table(path, filesystem=store).to_pylist()
    return {(row["image"].removeprefix(place), row["face"]): row["emotion"] for row in rows}


NUM_DRAWN = 1000
"""Faces that are drawn, whatever the number of files: a file has 65,000 names at most."""


def link_faces(folder: Path, size: int) -> None:
    """Write a thousand drawn faces, and give them so many names, a thousand a folder."""
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
    """Write an untrained network of one convolution, and return where it is."""
    network, architecture = build_model("conv1"), {"name": "conv1", "arguments": {}}
    for name, content in pack_checkpoint(network, architecture).items():
        storage.write_bytes(storage.join(str(folder), name), content)
    return str(folder)


if __name__ == "__main__":
    measures = {"crops": crops, "photos": photos, "s3": s3, "growth": growth}
    tyro.extras.subcommand_cli_from_dict(measures, description=__doc__)
