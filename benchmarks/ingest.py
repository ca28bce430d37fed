"""How fast ingest is beside the loop that people write, and whether its memory grows.

    python benchmarks/ingest.py path/to/fer2013.csv
    python benchmarks/ingest.py                      # on 30,000 drawn faces

Speed: the loops and the whole job take turns on the same file and cores, Ray already up and warm;
what counts is the ratio of their medians, for the file itself and for four times its rows. The
loops leave arrays in memory. The job besides that checks every value, hashes every image, writes
Parquet, counts, and draws two pictures.

Memory: each size runs in a process and a cluster of its own; reported are the most memory that the
driver held and the most shared memory that Ray's object store took.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import ray
from memory import MIB, watched

from fer.data.synthetic import Faces, draw_faces, to_csv
from ray_jobs.cluster import session
from ray_jobs.config import IngestConfig
from ray_jobs.ingest import run

NUM_DRAWN = 30_000


def loop_as_floats(table: Path) -> None:
    """The loop of many notebooks."""
    pixels = pd.read_csv(table)["pixels"]
    np.stack([np.fromstring(row, sep=" ").astype(np.uint8) for row in pixels])


def loop_as_bytes(table: Path) -> None:
    """The same loop by someone who knows that pixels are bytes; 256 becomes 0."""
    pixels = pd.read_csv(table)["pixels"]
    np.stack([np.fromstring(row, np.uint8, sep=" ") for row in pixels])


def ingest(table: Path) -> None:
    """The whole job."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        run(IngestConfig(source=(str(table),), output=f"{folder}/data"))


def seconds(step: Callable[[Path], None], table: Path) -> float:
    start = time.perf_counter()
    step(table)
    return time.perf_counter() - start


def measure_speed(table: Path, repeats: int) -> None:
    steps = (ingest, loop_as_floats, loop_as_bytes)
    num_rows = len(pd.read_csv(table, usecols=["emotion"]))
    session.connect()
    ingest(table)
    taken = {step: [] for step in steps}
    for _ in range(repeats):
        for step in steps:
            taken[step].append(seconds(step, table))
    ray.shutdown()
    median = {step: statistics.median(values) for step, values in taken.items()}
    print(f"{num_rows:,} rows")
    for step in steps:
        rate, ratio = num_rows / median[step], median[step] / median[ingest]
        print(f"{step.__name__:15} {rate:8,.0f} rows/s; ingest is {ratio:.2f} times as fast")


def measure_memory(table: Path) -> None:
    """Print the peaks of one ingest as JSON; the process has done nothing else."""
    with watched() as peaks:
        session.connect()
        ingest(table)
    print(json.dumps({"driver": peaks.driver, "object store": peaks.object_store}))


def repeat_rows(table: Path, times: int, folder: Path) -> Path:
    """Write a table that holds the rows of another so many times."""
    longer = folder / f"{times}x.csv"
    with table.open("rb") as source, longer.open("wb") as target:
        target.write(source.readline())
        start = source.tell()
        for _ in range(times):
            source.seek(start)
            while block := source.read(MIB):
                target.write(block)
    return longer


def longer_tables(table: Path, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the table with 1 and 4 times its rows, each for as long as it is looked at."""
    for times in (1, 4):
        longer = repeat_rows(table, times, folder)
        yield times, longer
        longer.unlink()


def compare_memory(table: Path, folder: Path) -> None:
    for times, longer in longer_tables(table, folder):
        command = [sys.executable, __file__, str(longer), "--memory"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks = json.loads(output.splitlines()[-1])
        told = ", ".join(f"{name} {peak / MIB:,.0f} MiB" for name, peak in peaks.items())
        print(f"{times}x the rows ({longer.stat().st_size / MIB:,.0f} MiB): {told}")


def draw_table(folder: Path) -> Path:
    table = folder / "drawn.csv"
    images, labels = draw_faces(NUM_DRAWN, seed=0)
    table.write_bytes(to_csv(Faces(images, labels, ["train"] * NUM_DRAWN)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path, help="FER2013's CSV file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.table)
        return
    with tempfile.TemporaryDirectory() as folder:
        table = arguments.table or draw_table(Path(folder))
        for _, longer in longer_tables(table, Path(folder)):
            measure_speed(longer, arguments.repeats)
        compare_memory(table, Path(folder))


if __name__ == "__main__":
    main()
