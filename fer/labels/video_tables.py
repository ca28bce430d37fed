"""One CSV file for each video, for people who work with spreadsheets."""

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from fer import storage
from fer.labels.export import to_csv
from fer.labels.schema import LABEL_SCHEMA

FOLDER = "videos"
"""Folder of the tables in the output."""

MAX_BYTES_IN_MEMORY = 8 * 2**20
"""Size from which on a table waits on the disk until it is complete."""


def table_path(video: str) -> str:
    """Return the path, in the labels' folder, of a video's table: its name and a digest.

    The digest of the location tells videos of the same name in different folders apart.
    """
    name = storage.shorten(re.sub(r"[^\w.-]", "_", storage.base_name(video)))
    digest = hashlib.sha256(video.encode()).hexdigest()
    return f"{FOLDER}/{name}-{digest[:16]}.csv"


class VideoTable:
    """Collects the rows of one video in memory that does not grow with them.

    It is a context manager: what was added is gone when it is left.
    """

    def __init__(self, video: str, class_names: Sequence[str]) -> None:
        self._path, self._class_names = table_path(video), class_names
        self._file = tempfile.SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of ``LABEL_SCHEMA``, in the order of their frames."""
        table = pa.Table.from_pylist(list(rows), LABEL_SCHEMA)
        self._file.write(to_csv(table, self._class_names, with_header=not self._file.tell()))

    def write(self, output: str) -> str:
        """Write the table, completely or not at all, and return its path in the labels' folder."""
        self._file.seek(0)
        storage.write_file(storage.join(output, self._path), self._file)
        return self._path
