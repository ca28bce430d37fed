"""Tables written a part at a time, so that work which is done twice leaves one file."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer import storage
from fer.storage import listing


def write_part(
    location: str,
    folder: str,
    table: pa.Table,
    key: str,
    **encoding: Any,  # noqa: ANN401
) -> str:
    """Write a table as one Parquet file of a folder and return the file's name in ``location``.

    Args:
        location: What the folder is in.
        folder: Its name.
        table: The rows.
        key: Column of strings that tell these rows from all others. The file is named after their
            digest: the same rows, written again since a machine was lost, replace themselves.
        encoding: How ``pyarrow.parquet.write_table`` encodes what is not as usual.
    """
    digest = hashlib.sha256("\n".join(table[key].to_pylist()).encode())
    name = f"{folder}/{digest.hexdigest()[:20]}.parquet"
    write_table(storage.join(location, name), table, **encoding)
    return name


def write_table(location: str, table: pa.Table, **encoding: Any) -> None:  # noqa: ANN401
    """Write a table as one Parquet file: a reader sees all of it, or what was there before."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, **encoding)
    storage.write_bytes(location, sink.getvalue().to_pybytes())


def keep_only(location: str, folders: tuple[str, ...], names: set[str]) -> None:
    """Delete the parts in some folders that a lost machine wrote in vain: all but ``names``."""
    for folder in folders:
        for entry in listing.walk(storage.join(location, folder)):
            if f"{folder}/{entry.name}" not in names:
                storage.delete(entry.location)
