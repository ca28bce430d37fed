"""Peak memory of a benchmark: of its own process, of Ray's, and of Ray's object store."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

Result = TypeVar("Result")

MIB = 2**20
EVERY_SECONDS = 0.1


@dataclass
class Peaks:
    """Peaks of memory in bytes.

    Attributes:
        driver: Resident memory of this process since its start.
        largest_process: Resident memory, without shared memory, of the largest process that this
            one started, directly or not.
        object_store: Shared memory, which Ray's object store uses, above what was in use before.
    """

    driver: int = 0
    largest_process: int = 0
    object_store: int = 0


@contextmanager
def measured_peaks() -> Iterator[Peaks]:
    """Measure memory during the block. The peaks are complete when it ends."""
    before, peaks, finished = _shared_bytes(), Peaks(), threading.Event()

    def watch() -> None:
        while not finished.wait(EVERY_SECONDS):
            peaks.object_store = max(peaks.object_store, _shared_bytes() - before)
            peaks.largest_process = max(peaks.largest_process, _largest_child_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        finished.set()
        watcher.join()
        peaks.driver = peak_bytes()


def in_new_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process that has not done anything before, and return its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(function, *arguments).result()


def peak_bytes() -> int:
    """Return this process's peak of resident memory; getrusage would include its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _largest_child_bytes() -> int:
    sizes = [0]
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            memory = process.memory_info()
            sizes.append(memory.rss - memory.shared)
    return max(sizes)


def _shared_bytes() -> int:
    usage = os.statvfs("/dev/shm")
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize
