"""A watchdog that ends this process if a decoder hangs, as a crash would.

A damaged file may make a decoder loop for ever. The process that the watchdog ends looks to Ray
like one that crashed, so ``isolation`` finds the file that is to blame and gives it up.

The watchdog is a timer of the kernel (``ITIMER_PROF``), whose signal ends the process whatever it
computes. It counts CPU time: waiting for a store or for a busy machine is not hanging.
"""

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

Step = TypeVar("Step")

MAX_SECONDS = 120.0
"""CPU time without progress that counts as hanging. An image that is made to be slow takes half a
minute; a frame of a video takes a fraction of a second."""


@contextmanager
def watching() -> Iterator[None]:
    """End this process if the block takes longer than ``MAX_SECONDS``."""
    _start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def watched(steps: Iterator[Step]) -> Iterator[Step]:
    """Yield the steps of an iterator; end this process if one makes no progress.

    The time that the caller takes between two steps does not count.
    """
    while True:
        try:
            with watching():
                step = next(steps)
        except StopIteration:
            return
        yield step


class WatchedFile(io.BufferedIOBase):
    """A file each of whose reads is progress, unless it is at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        """Read as ``file`` does."""
        content = self._file.read(-1 if size is None else size)
        if content and signal.getitimer(signal.ITIMER_PROF)[0]:
            _start()
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek as ``file`` does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position of ``file``."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return that the file is open for reading."""
        return True

    def seekable(self) -> bool:
        """Return that the file is open for random access."""
        return True

    def close(self) -> None:
        """Close ``file`` too."""
        self._file.close()
        super().close()


def _start() -> None:
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
