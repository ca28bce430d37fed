"""Speed of ingest compared with the usual loop, and growth of its memory with the input.

    python benchmarks/ingest.py path/to/fer2013.csv
    python benchmarks/ingest.py                      # on 30,000 drawn faces

Speed: the loops and the job take turns on the same file and cores, with Ray already started and
warm. The result is the ratio of their medians, for the file and for four times its rows. The loops
only leave arrays in memory. The job also checks every value, hashes every image, writes Parquet,
counts, and draws two figures.

Memory: each size runs in its own process and cluster. The results are the peak memory of the driver
and the peak of shared memory in Ray's object store.
"""

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import ray
from memory import MIB, Peaks, in_new_process, measured_peaks
from turns import quietly, take_turns, timed

from fer.data.synthetic import Faces, draw_faces, to_csv
from ray_jobs.cluster import session
from ray_jobs.config import IngestConfig
from ray_jobs.ingest import run

NUM_DRAWN = 30_000


def loop_as_floats(table: Path) -> None:
    """Parse pixels as many notebooks do."""
    pixels = pd.read_csv(table)["pixels"]
    np.stack([np.fromstring(row, sep=" ").astype(np.uint8) for row in pixels])


def loop_as_bytes(table: Path) -> None:
    """Parse pixels as bytes, which is faster but turns 256 into 0."""
    pixels = pd.read_csv(table)["pixels"]
    np.stack([np.fromstring(row, np.uint8, sep=" ") for row in pixels])


def ingest(table: Path) -> None:
    """Run the whole job."""
    with tempfile.TemporaryDirectory() as folder, quietly():
        run(IngestConfig(source=(str(table),), output=f"{folder}/data"))


def measure_speed(table: Path, repeats: int) -> None:
    steps = (ingest, loop_as_floats, loop_as_bytes)
    num_rows = len(pd.read_csv(table, usecols=["emotion"]))
    session.connect()
    ingest(table)
    sides = timed({step.__name__: partial(step, table) for step in steps})
    seconds = take_turns(sides, repeats)
    ray.shutdown()
    print(f"{num_rows:,} rows")
    for name, median in seconds.items():
        rate, ratio = num_rows / median, median / seconds["ingest"]
        print(f"{name:15} {rate:8,.0f} rows/s; ingest is {ratio:.2f} times as fast")


def measure_memory(table: Path) -> Peaks:
    """Return the peaks of one ingest. The process must not have done anything before."""
    with measured_peaks() as peaks:
        session.connect()
        ingest(table)
    return peaks


def repeat_rows(table: Path, times: int, folder: Path) -> Path:
    """Write a table that repeats the rows of another the given number of times."""
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
    """Yield the table with 1 and 4 times its rows; each file is deleted after its use."""
    for times in (1, 4):
        longer = repeat_rows(table, times, folder)
        yield times, longer
        longer.unlink()


def compare_memory(table: Path, folder: Path) -> None:
    for times, longer in longer_tables(table, folder):
        peaks = in_new_process(measure_memory, longer)
        size, driver, store = (
            f"{number / MIB:,.0f} MiB"
            for number in (longer.stat().st_size, peaks.driver, peaks.object_store)
        )
        print(f"{times}x the rows ({size}): driver {driver}, object store {store}")


def draw_table(folder: Path) -> Path:
    table = folder / "drawn.csv"
    images, labels = draw_faces(NUM_DRAWN, seed=0)
    table.write_bytes(to_csv(Faces(images, labels, ["train"] * NUM_DRAWN)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path, help="FER2013's CSV file")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = arguments.table or draw_table(Path(folder))
        for _, longer in longer_tables(table, Path(folder)):
            measure_speed(longer, arguments.repeats)
        compare_memory(table, Path(folder))


if __name__ == "__main__":
    main()
