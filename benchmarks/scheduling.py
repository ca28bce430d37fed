"""How many chunks a second the driver of label hands out to more and more nodes.

    python benchmarks/scheduling.py
    python benchmarks/scheduling.py --nodes 1 2 3 --chunks 60 --chunk-seconds 0.5

The nodes are processes of this machine, each with one CPU in name only (fake_nodes.py). The driver
is that of label: it opens a worklist of full chunks, runs them through the stage for CPUs with all
of its options, and adds up what they return. Only the function that reads, detects, classifies and
writes a chunk is replaced. The stub sleeps, and returns what a full chunk of drawn faces returned.
Chunks take between half and one and a half times `--chunk-seconds`, as real ones differ too.

`ideal` is the number of nodes divided by the seconds of a chunk. The rate leaves out the first and
the last tenth of the chunks. Smaller clusters get a share of the chunks, so that each row takes
about as long. The head runs Ray's GCS, and what `nodes` take is what other machines would do.

With several nodes, each waits a moment for its next chunk, since Ray Data looks for finished tasks
ten times a second. The longer the chunks, the less that matters. The driver's limit shows where the
wait grows: there, twice as many nodes no longer get twice as many chunks.

All nodes share the cores of this machine with the driver and the GCS, so the rate bends earlier
than on a real cluster. On the other hand, nothing crosses a network, there is no dashboard, and all
workers have started before the first chunk.
"""

import json
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import tyro
from fake_nodes import FakeNodes, cpu_seconds, fake_nodes, require_memory
from memory import MIB, in_new_process, peak_bytes
from turns import quietly

from fer import storage
from fer.data.items import SourceItem
from fer.labels.chunks import MAX_IMAGES
from ray_jobs import label
from ray_jobs.config import LabelConfig
from ray_jobs.labeling import on_cpus, worklist, write
from ray_jobs.labeling.detect import detect_in_items
from ray_jobs.labeling.images import Detection
from ray_jobs.labeling.write import Written
from ray_jobs.pipeline import stages

MIN_CHUNKS = 20
"""Fewest chunks for each node. With fewer, there is no rate between the start and the end."""

BENT = 0.9
"""Share of a small cluster's rate for each node below which there are too many nodes."""

COLUMNS = (
    *("nodes", "chunks", "ideal, chunks/s", "chunks/s", "of the ideal"),
    *("wait for the next chunk", "first chunk after"),
    *("driver's CPU time a chunk", "cores of driver + head + nodes"),
    *("driver's peak", "memory of a node"),
)


def main(
    nodes: tuple[int, ...] = (1, 4, 16, 64), chunks: int = 10_000, chunk_seconds: float = 1.0
) -> None:
    """Measure how many chunks a second the driver of label hands out.

    Args:
        nodes: Numbers of nodes.
        chunks: Number of chunks for the largest number of nodes. The others get their share.
        chunk_seconds: Seconds that a chunk takes on average.
    """
    most = max(nodes)
    check_flags(nodes, chunks, chunk_seconds)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        written = in_new_process(label_sample, Path(folder))
        size = len(pickle.dumps(written)) / 1024
        print(f"chunks of {chunk_seconds:g} s that return {size:.0f} KiB, {os.cpu_count()} cores")
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
        rows = []
        for number in sorted(nodes):
            share = Stubs(chunks * number // most, chunk_seconds, written)
            rows.append(in_new_process(measure, Path(folder), number, most, share))
            print(rows[-1], flush=True)
    print(describe_bend(rows))
    print(f"Unfair: a real cluster bends later, since here all share {os.cpu_count()} cores.")


def check_flags(nodes: Sequence[int], chunks: int, chunk_seconds: float) -> None:
    """Refuse flags that can't be measured.

    Raises:
        SystemExit: There are too few nodes, chunks or seconds.
    """
    if min(nodes) < 1 or chunk_seconds <= 0:
        raise SystemExit("--nodes must be at least 1, and --chunk-seconds above 0; raise them.")
    needed = MIN_CHUNKS * max(nodes)
    if chunks < needed:
        raise SystemExit(
            f"--chunks must be at least {needed:,} for {max(nodes)} nodes, but is {chunks:,}; "
            "raise it, or ask for fewer --nodes."
        )


@dataclass(frozen=True)
class Stubs:
    """What stands in for chunks.

    Attributes:
        number: Number of chunks.
        seconds: Seconds that a chunk takes on average.
        written: What each returns, but for the name of its file.
    """

    number: int
    seconds: float
    written: Written

    def function(self) -> Callable[..., Iterator[dict[str, np.ndarray]]]:
        """Return what stands in for the function of label's stage.

        It is pickled by value, since workers can't import this module. So it uses nothing of it.
        """
        written, mean_seconds = self.written, self.seconds

        def label_chunks(opened: pa.Table, **_: object) -> Iterator[dict[str, np.ndarray]]:
            for name in opened["chunk"].to_pylist():
                # Multiples of the golden ratio spread evenly between 0 and 1.
                time.sleep(mean_seconds * (0.5 + int(name, 16) * 0.618034 % 1))
                tally = replace(written.tally, files={write.file_of_chunk(name)})
                yield stages.tally_batch(replace(written, tally=tally))

        return label_chunks


@dataclass(frozen=True)
class Row:
    """A row of the table; its text is Markdown.

    Attributes:
        nodes: Number of nodes.
        stubs: The chunks.
        times: When the labeling began, and when each chunk was added up, in seconds, float64
            (chunks + 1,).
        cpu_seconds: CPU time of the driver, the head and the nodes, float64 (3,).
        driver_bytes: Peak of the driver's memory.
        node_bytes: Memory of a node at the end.
    """

    nodes: int
    stubs: Stubs
    times: np.ndarray
    cpu_seconds: np.ndarray
    driver_bytes: int
    node_bytes: int

    @property
    def ideal(self) -> float:
        """Chunks a second of nodes that never wait."""
        return self.nodes / self.stubs.seconds

    @property
    def rate(self) -> float:
        """Chunks a second, without the first and the last tenth of the chunks."""
        tenth = self.stubs.number // 10
        done = self.times[1 + tenth : -tenth]
        return (len(done) - 1) / (done[-1] - done[0])

    @property
    def wait_seconds(self) -> float:
        """Seconds between two chunks of a node."""
        return self.nodes / self.rate - self.stubs.seconds

    def __str__(self) -> str:
        driver_ms = 1000 * self.cpu_seconds[0] / self.stubs.number
        cores = self.cpu_seconds / (self.times[-1] - self.times[0])
        cells = (
            *(f"{self.nodes}", f"{self.stubs.number:,}", f"{self.ideal:,.1f}", f"{self.rate:,.1f}"),
            *(f"{self.rate / self.ideal:.0%}", f"{self.wait_seconds:.2f} s"),
            f"{self.times[1] - self.times[0]:.1f} s",
            *(f"{driver_ms:.1f} ms", " + ".join(f"{used:.2f}" for used in cores)),
            *(f"{self.driver_bytes // MIB} MiB", f"{self.node_bytes // MIB} MiB"),
        )
        return f"| {' | '.join(cells)} |"


def describe_bend(rows: Sequence[Row]) -> str:
    """Return from how many nodes on more nodes do not get more chunks in proportion."""
    # A single node does not wait: Ray Data returns at once where there is only one task.
    first = next((row for row in rows if row.nodes > 1), rows[0])
    if first.nodes == rows[-1].nodes:
        return "A bend shows only with two numbers of --nodes above 1."
    enough = BENT * first.rate / first.nodes
    bent = [row.nodes for row in rows if row.nodes > first.nodes and row.rate / row.nodes < enough]
    change = f"falls below {BENT:.0%}" if bent else f"stays above {BENT:.0%}"
    last = bent[0] if bent else rows[-1].nodes
    return f"With {last} nodes, the rate of each {change} of that with {first.nodes}."


def label_sample(folder: Path) -> Written:
    """Label a full chunk of drawn faces with probabilities drawn at random."""
    from growth import link_faces  # noqa: PLC0415 - it loads torch, and label's driver does not

    link_faces(folder / "faces", MAX_IMAGES)
    labeler = label._check(config_for(folder)).labeler
    files = sorted((folder / "faces").rglob("*.png"))
    items = stages.to_table([SourceItem("image", str(file)) for file in files])
    detected = detect_in_items(items, Detection(weights=None))
    probs = np.random.default_rng(0).dirichlet(np.ones(len(labeler.class_names)), (MAX_IMAGES, 1))
    classified = detected.append_column("probs_0", pa.array(probs.tolist()))
    classified = classified.append_column("classify_seconds", pa.array(np.zeros(MAX_IMAGES)))
    return write.write_images(
        "sample", classified.drop_columns("crops"), str(folder / "sample"), labeler
    )


def config_for(folder: Path) -> LabelConfig:
    return LabelConfig(images=str(folder / "faces"), output=str(folder / "labels"), detector="none")


def measure(folder: Path, number: int, most: int, stubs: Stubs) -> Row:
    """Label stubs on so many nodes, in a process that has done nothing before.

    Args:
        folder: Folder with the faces of ``label_sample``.
        number: Number of nodes.
        most: Number of nodes of the largest cluster, for which there must be memory.
        stubs: The chunks.
    """
    config = config_for(folder)
    inputs = label._check(config)
    with fake_nodes(folder) as nodes:
        start_nodes(nodes, 1)
        label_stubs(config, inputs, replace(stubs, number=1))
        require_memory(most, nodes.node_bytes())
        start_nodes(nodes, number - 1)
        # Now each worker runs a chunk for the first time, and Ray Data starts its actors.
        label_stubs(config, inputs, replace(stubs, number=number))
        before = cpu_times(nodes)
        times = np.array(label_stubs(config, inputs, stubs))
        spent, node_bytes = cpu_times(nodes) - before, nodes.node_bytes()
    return Row(number, stubs, times, spent, peak_bytes(), node_bytes)


def start_nodes(nodes: FakeNodes, number: int) -> None:
    """Add so many nodes, and wait until all have started."""
    for _ in range(number):
        nodes.add()
    nodes.wait()


def write_worklist(output: str, number: int) -> None:
    """Write the worklist of so many full chunks, named by their numbers, without their files."""
    names = [f"{chunk:024x}" for chunk in range(number)]
    listed = worklist.Worklist(Counter(image=number * MAX_IMAGES), files=names)
    content = json.dumps(vars(listed)).encode()
    storage.write_bytes(storage.join(output, worklist.COMPLETE), content)


def label_stubs(config: LabelConfig, inputs: label._Inputs, stubs: Stubs) -> list[float]:
    """Label the worklist as the job does; return when it began and when each chunk was added up."""
    label_chunks = label._label_chunks
    write_worklist(config.output, stubs.number)

    def timed(*arguments: Any) -> Iterator[Written]:  # noqa: ANN401
        for written in label_chunks(*arguments):
            yield written
            times.append(time.perf_counter())

    times = [time.perf_counter()]
    with (
        patch.object(on_cpus, "_label_chunks", stubs.function()),
        patch.object(label, "_label_chunks", timed),
        quietly(),
    ):
        label._label_worklist(config, inputs, {})
    return times


def cpu_times(nodes: FakeNodes) -> np.ndarray:
    """Return the CPU time, in seconds, of the driver, the head and the nodes, float64 (3,)."""
    ray = [cpu_seconds(nodes.of_head()), cpu_seconds(nodes.of_others())]
    return np.array([time.process_time(), *ray])


if __name__ == "__main__":
    tyro.cli(main)
