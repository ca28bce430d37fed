r"""Names of local files as text, and reading of the files whose names pyarrow can't open.

A name on a disk is a string of bytes. A location is text, which Parquet, JSON and HTML can hold, so
it writes each byte that is not valid UTF-8 as ``\xe4``. A backslash that could be read as the start
of such an escape becomes ``\x5c``. Any other name stays as it is.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")
"""Matches an escape. Of the bytes below 0x80, which are valid UTF-8, only the backslash has one."""


def location_of(path: str) -> str:
    """Return the location of a path that Python's ``os`` functions accept or return."""
    if path.isascii() and "\\" not in path:
        return path
    return escape_bytes(os.fsencode(_ESCAPE.sub(r"\\x5cx\g<1>", path)))


def path_of(location: str) -> str:
    """Return the path that Python's ``os`` functions accept, the inverse of ``location_of``."""
    if not has_escapes(location):
        return location
    return os.fsdecode(re.sub(_ESCAPE.pattern.encode(), _byte_of, location.encode()))


def _byte_of(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[1].decode())


def escape_bytes(name: bytes) -> str:
    r"""Decode a name as UTF-8, and write each byte that is not valid UTF-8 as ``\xe4``."""
    return name.decode("utf-8", "backslashreplace")


def has_escapes(location: str) -> bool:
    """Return whether a location contains an escape, so that pyarrow can't open it as it is."""
    return "\\x" in location and _ESCAPE.search(location) is not None


class ReadOnlyHandler(pafs.FileSystemHandler):  # type: ignore[misc]
    """A handler for ``pyarrow.fs.PyFileSystem`` that reads local files and writes none.

    It implements ``pyarrow.fs.FileSystemHandler``. Paths are locations.
    """

    def get_type_name(self) -> str:  # noqa: D102
        return "local-read-only"

    def normalize_path(self, path: str) -> str:  # noqa: D102
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:  # noqa: D102
        return [_describe(path) for path in paths]

    def open_input_file(self, path: str) -> pa.PythonFile:  # noqa: D102
        return pa.PythonFile(Path(path_of(path)).open("rb", buffering=0), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:  # noqa: D102
        return self.open_input_file(path)

    def _refuse(self, *_: object, **__: object) -> Any:  # noqa: ANN401
        raise OSError("locations whose names are not valid UTF-8 are read-only: choose another one")

    get_file_info_selector = open_output_stream = open_append_stream = _refuse
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = _refuse


READER = pafs.PyFileSystem(ReadOnlyHandler())
"""Opens local files whose names pyarrow can't open."""


def is_local(store: pafs.FileSystem) -> bool:
    """Return whether a filesystem is that of this machine."""
    return store is READER or isinstance(store, pafs.LocalFileSystem)


def _describe(location: str) -> pafs.FileInfo:
    try:
        status = Path(path_of(location)).stat()
    except (FileNotFoundError, NotADirectoryError):
        return pafs.FileInfo(location, pafs.FileType.NotFound)
    return file_info(location, status)


def file_info(location: str, status: os.stat_result) -> pafs.FileInfo:
    """Return pyarrow's description of a file or folder; its type is unknown if it is neither."""
    if stat.S_ISDIR(status.st_mode):
        return pafs.FileInfo(location, pafs.FileType.Directory)
    kind = pafs.FileType.File if stat.S_ISREG(status.st_mode) else pafs.FileType.Unknown
    return pafs.FileInfo(location, kind, mtime_ns=status.st_mtime_ns, size=status.st_size)
