"""What a benchmark asks of memory: the most that its process held, and Ray's object store took."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
EVERY_SECONDS = 0.02


@dataclass
class Peaks:
    """The most memory that was seen, in bytes.

    Attributes:
        driver: Held by this process since it began.
        object_store: Shared memory, where Ray keeps its objects, beyond what was in use before.
    """

    driver: int = 0
    object_store: int = 0


@contextmanager
def watched() -> Iterator[Peaks]:
    """Watch memory for a while; the peaks are complete when that is over."""
    before, peaks, finished = _shared_bytes(), Peaks(), threading.Event()

    def watch() -> None:
        while not finished.wait(EVERY_SECONDS):
            peaks.object_store = max(peaks.object_store, _shared_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        finished.set()
        watcher.join()
        peaks.driver = _peak_bytes()


def _peak_bytes() -> int:
    """Return the most memory that this process held: getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _shared_bytes() -> int:
    held = os.statvfs("/dev/shm")
    return (held.f_blocks - held.f_bfree) * held.f_frsize
