"""One set of functions for local paths and object stores: ``storage.read_bytes("s3://…")``."""

from fer.storage.paths import (
    base_name,
    check_store,
    delete,
    describe_error,
    exists,
    file_info,
    filesystem,
    is_folder,
    is_uri,
    join,
    open_seekable,
    open_stream,
    read_bytes,
    resolve,
    strip_access_mode,
    write_bytes,
)

__all__ = [
    "base_name",
    "check_store",
    "delete",
    "describe_error",
    "exists",
    "file_info",
    "filesystem",
    "is_folder",
    "is_uri",
    "join",
    "open_seekable",
    "open_stream",
    "read_bytes",
    "resolve",
    "strip_access_mode",
    "write_bytes",
]
