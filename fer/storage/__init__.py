"""Local paths and object stores behind one set of functions: ``storage.read_bytes("s3://…")``."""

from fer.storage.paths import (
    check_store,
    delete,
    exists,
    file_info,
    filesystem,
    is_folder,
    is_uri,
    join,
    name,
    open_seekable,
    open_stream,
    read_bytes,
    reason,
    resolve,
    without_access,
    write_bytes,
)

__all__ = [
    "check_store",
    "delete",
    "exists",
    "file_info",
    "filesystem",
    "is_folder",
    "is_uri",
    "join",
    "name",
    "open_seekable",
    "open_stream",
    "read_bytes",
    "reason",
    "resolve",
    "without_access",
    "write_bytes",
]
