"""Growth of label's time and memory with the number of its images.

    python benchmarks/growth.py --sizes 10000 100000 1000000 --stub

Each size runs in its own process and cluster. The files are hard links to a thousand drawn faces,
so that a million of them fit into the page cache.
"""

import json
import os
from pathlib import Path
from typing import Any

import tyro
from labeling import label
from memory import MIB, in_new_process, measured_peaks
from PIL import Image
from turns import working_folder

from fer import storage
from fer.data.synthetic import draw_faces
from fer.models.architectures import build_model
from fer.models.checkpoint import GRAPH, load_checkpoint
from fer.models.graph import make_graph
from fer.models.networks import pack_checkpoint
from ray_jobs.cluster import session

NUM_DRAWN = 1000
"""Number of different faces. Each file can have at most 65,000 hard links."""


def main(
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    stub: bool = False,
    checkpoint: str = "bundled",
) -> None:
    """Measure time an image and peak memory with more and more face crops.

    Args:
        sizes: Numbers of faces.
        stub: Use an untrained network of one convolution instead of the checkpoint.
        checkpoint: Checkpoint of the network.
    """
    for size in sizes:
        print(json.dumps(in_new_process(label_drawn, size, stub, checkpoint)), flush=True)


def label_drawn(size: int, stub: bool, checkpoint: str) -> dict[str, Any]:
    """Label drawn faces."""
    with working_folder(with_ray=False) as folder:
        link_faces(folder / "faces", size)
        if stub:
            checkpoint = write_stub(folder / "stub")
        flags = {"images": str(folder / "faces"), "checkpoint": checkpoint, "detector": "none"}
        with measured_peaks() as peaks:
            session.connect(session.INFERENCE_MEMORY)
            rates = label("label", folder, **flags)
    return {
        "faces": size,
        "network": "untrained, one convolution" if stub else checkpoint,
        "milliseconds an image": {name: round(1000 / rate, 3) for name, rate in rates.items()},
        "driver MiB": peaks.driver // MIB,
        "object store MiB": peaks.object_store // MIB,
    }


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
    (member,) = load_checkpoint(str(folder)).members
    # Otherwise each job would load torch to make it.
    storage.write_bytes(storage.join(str(folder), GRAPH), make_graph(member))
    return str(folder)


if __name__ == "__main__":
    tyro.cli(main)
