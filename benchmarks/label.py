"""Speed of label compared with its stages run alone.

    python benchmarks/label.py crops fer2013_images.zip
    python benchmarks/label.py stub
    python benchmarks/label.py photos photos/ --times 20
    python benchmarks/label.py s3 photos/ s3://bucket/benchmark --times 5

The sides take turns on the same images and cores, with Ray already started. The result is the ratio
of their medians. For label, `job` is the rate of the whole job, from reading the checkpoint to the
report, and `stream` the rate from the first label file to the last, without start and end. The bare
side is one plain process with one thread for each CPU. These processes start at the same time and
only decode, detect and classify: no listing, tables, files, thumbnails or report.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import torch
import tyro
from growth import link_faces, write_stub
from labeling import DEFAULTS, CommonOptions, label, report
from processes import STAGES, Bare, Processes, num_cpus
from turns import Measured, take_turns, working_folder

from fer import storage
from fer.data.items import fetch_image
from fer.data.readers import read_items
from fer.models.networks import load_networks
from fer.storage import listing
from fer.vision.decode import decode_image
from fer.vision.detector import load_detector_weights
from ray_jobs.cluster import session
from ray_jobs.labeling.write import FACES

Source = tyro.conf.Positional[str]


# Comparisons.


def crops(images: Source, options: CommonOptions = DEFAULTS, *, limit: int | None = None) -> None:
    """Compare label on face crops with the network alone and with a plain example of Ray Data.

    Args:
        images: Folder or archive of face crops.
        options: Options of all comparisons.
        limit: Number of images to stop after.
    """
    with working_folder(runtime_env=session.INFERENCE_MEMORY) as folder:
        files = copy_images(images, folder / "faces", limit=limit)
        pixels = np.stack([decode_image(file.read_bytes()).pixels for file in files])
        bare = Processes(options.checkpoint, options.engine)

        def job() -> Measured:
            flags = {"images": images, "limit": limit, "detector": "none", **options.flags}
            return label("label", folder, **flags)

        def network() -> Measured:
            return {"network alone": len(pixels) / np.mean(bare.run(Bare.classify, pixels))}

        def plain() -> Measured:
            return {"plain example": plain_rate(folder / "faces", folder, options.checkpoint)}

        report("crops", len(files), options, take_turns((job, network, plain), options.repeats))


def stub(options: CommonOptions = DEFAULTS, *, number: int = 12_000) -> None:
    """Compare label with the sum of decoding and classifying by a network of one convolution.

    The network takes so little time that what surrounds it shows. The faces are drawn, and lie in
    folders of a thousand.

    Args:
        options: Options of all comparisons.
        number: Number of faces.
    """
    with working_folder(runtime_env=session.INFERENCE_MEMORY) as folder:
        link_faces(folder / "faces", number)
        files = sorted((folder / "faces").rglob("*.png"))
        network = {**options.flags, "checkpoint": write_stub(folder / "stub")}
        bare = Processes(network["checkpoint"], options.engine)

        def job() -> Measured:
            return label("label", folder, images=str(folder / "faces"), detector="none", **network)

        def stages() -> Measured:
            return bare_stages(bare, files)

        report("stub", len(files), options, take_turns((job, stages), options.repeats))


def photos(images: Source, options: CommonOptions = DEFAULTS, *, times: int = 20) -> None:
    """Compare label on photographs with the sum of decoding, detecting and classifying.

    Args:
        images: Folder of photographs.
        options: Options of all comparisons.
        times: Number of copies of each photograph, under different names.
    """
    with working_folder(runtime_env=session.INFERENCE_MEMORY) as folder:
        files = copy_images(images, folder / "photos", times=times)
        bare = Processes(
            options.checkpoint, options.engine, load_detector_weights(options.detector_weights)
        )

        def job() -> Measured:
            return label("label", folder, images=str(folder / "photos"), **options.flags)

        def stages() -> Measured:
            return bare_stages(bare, files)

        report("photos", len(files), options, take_turns((job, stages), options.repeats))


def s3(
    images: Source,
    location: tyro.conf.Positional[str],
    options: CommonOptions = DEFAULTS,
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
    with (
        working_folder(runtime_env=session.INFERENCE_MEMORY) as folder,
        contextlib.ExitStack() as cleanup,
    ):
        files = copy_images(images, folder / "images", times=times, limit=limit)
        cleanup.callback(storage.delete, location)
        pafs.copy_files(str(folder), path, destination_filesystem=store)
        flags = {"detector": detector, **options.flags}

        def remote() -> Measured:
            return label("S3", location, images=storage.join(location, "images"), **flags)

        def local() -> Measured:
            return label("disk", folder, images=str(folder / "images"), **flags)

        rates = take_turns((remote, local), options.repeats)
        same = emotions(location).items() & emotions(str(folder)).items()
        print(f"the same emotion in {len(same)} of {len(emotions(location))} rows")
    report("s3", len(files), options, rates)


def bare_stages(bare: Processes, files: Sequence[Path]) -> Measured:
    """Return the rates of plain processes that share out images: in all, and of each stage."""
    seconds = np.mean(bare.run(Bare.label, list(files)), axis=0)
    with np.errstate(divide="ignore"):
        by_stage = dict(zip(STAGES, len(files) / seconds, strict=True))
    return {"bare stages": len(files) / seconds.sum(), **by_stage}


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


# Images and labels.


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


if __name__ == "__main__":
    measures = {"crops": crops, "stub": stub, "photos": photos, "s3": s3}
    tyro.extras.subcommand_cli_from_dict(measures, description=__doc__)
