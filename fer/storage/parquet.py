"""Parquet files whose names depend on their rows alone, so that repeated work leaves one file."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer import storage
from fer.storage import listing


def write_keyed_table(
    location: str,
    folder: str,
    table: pa.Table,
    key: str,
    **encoding: Any,  # noqa: ANN401
) -> str:
    """Write a table as one Parquet file that is named after a digest of its rows' keys.

    A task that Ray repeats after losing a machine writes the same rows under the same name, so the
    second file replaces the first.

    Args:
        location: Parent of ``folder``.
        folder: Name of the folder to write to.
        table: Rows to write.
        key: Name of a string column whose values occur in no other file of the folder.
        encoding: Further options of ``pyarrow.parquet.write_table``.

    Returns:
        Path of the file relative to ``location``.
    """
    digest = hashlib.sha256("\n".join(table[key].to_pylist()).encode())
    name = f"{folder}/{digest.hexdigest()[:20]}.parquet"
    write_table(storage.join(location, name), table, **encoding)
    return name


def write_table(location: str, table: pa.Table, **encoding: Any) -> None:  # noqa: ANN401
    """Write a table as one Parquet file, atomically: readers see the old file or the new one."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, **encoding)
    storage.write_bytes(location, sink.getvalue().to_pybytes())


def delete_all_except(location: str, folders: tuple[str, ...], names: set[str]) -> None:
    """Delete every file in ``folders`` except ``names``: the leftovers of lost machines.

    Args:
        location: Parent of the folders.
        folders: Names of the folders to clean.
        names: Paths of the files to keep, relative to ``location``.
    """
    for folder in set(folders) & listing.child_names(location):
        for entry in listing.walk(storage.join(location, folder)):
            if f"{folder}/{entry.name}" not in names:
                storage.delete(entry.location)
