"""Local paths and object-store URIs: open, read, write atomically, delete."""

import io
import os
import posixpath
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pafs
from pyarrow.lib import ArrowInvalid

from fer.errors import InputError, StoreError
from fer.storage import s3

READ_AHEAD_BYTES = 4 * 2**20
"""What a sequential reader asks for at once: enough to hide an object store's latency."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

_ANSWER = re.compile(
    r"AWS Error (?P<code>\w+(?: \(HTTP status \d+\))?) during (?P<request>\w+) operation:"
    r"(?: Unable to parse ExceptionName: (?P<name>\w+))?"
)
"""How pyarrow words what a store answered."""


def is_uri(location: str) -> bool:
    """Tell whether a location names its scheme (``s3://…``) rather than a local path."""
    return _SCHEME.match(location) is not None


def resolve(location: str) -> str:
    """Return a location in the one form that the rest of the program uses.

    A local path becomes absolute, ``file://`` is taken off, and no location ends in a slash.

    Raises:
        InputError: The scheme is not one that ``pyarrow.fs`` opens.
    """
    if location.startswith("file://"):
        location = urllib.parse.unquote(urllib.parse.urlsplit(location).path)
    if is_uri(location):
        location = location.rstrip("/")
        filesystem(location)
        return location
    return str(Path(location).expanduser().absolute())


def join(location: str, *parts: str) -> str:
    """Return the location of something inside a folder."""
    return posixpath.join(location, *parts)


def name(location: str) -> str:
    """Return the last part of a location."""
    return posixpath.basename(location.rstrip("/"))


def filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of a location and the path in it.

    Raises:
        InputError: The scheme is unknown, or the bucket can't be listed.
    """
    if not (match := _SCHEME.match(location)):
        return pafs.LocalFileSystem(), location
    authority, _, path = location[match.end() :].partition("/")
    opened, root = _open_store(match[1].lower(), authority)
    # The key is used as it stands: a URI parser would cut it at '#' and decode its '%'.
    path = f"{root}/{path}" if path else root
    if match[1].lower() == "s3" and (authority.startswith(s3.REQUESTER) or "//" in path):
        return s3.read_only(authority), path
    return opened, path


@lru_cache(maxsize=64)
def _open_store(scheme: str, authority: str) -> tuple[pafs.FileSystem, str]:
    if scheme == "s3":
        try:
            s3.check_bucket(authority)
        except StoreError as error:
            raise InputError(str(error)) from error
        return s3.open_bucket(authority), s3.name(authority)
    try:
        opened, root = pafs.FileSystem.from_uri(f"{scheme}://{authority}")
    # Some schemes are known to pyarrow and opened by a package that need not be there.
    except (ArrowInvalid, ImportError) as error:
        raise InputError(
            f"{scheme}:// is not a location that can be opened: use a local path or s3://bucket/…."
        ) from error
    return opened, root


def without_access(location: str) -> str:
    """Return a location without what its bucket's name says of who asks for it."""
    scheme, authority = "s3://", location.removeprefix("s3://")
    return scheme + s3.name(authority) if location.startswith(scheme) else location


def check_store(location: str) -> None:
    """Tell a store that refuses everything from one that refuses an object, once something failed.

    Raises:
        StoreError: The bucket of the location can't be listed any more: the credentials expired,
            were revoked, or the store is gone.
    """
    if location.startswith("s3://"):
        s3.check_bucket(s3.parts(location)[0])


def reason(error: OSError) -> str:
    """Return why a store failed, in words that can go on in a sentence."""
    if answer := _ANSWER.search(str(error)):
        return f"the store answered {answer['name'] or answer['code']} to {answer['request']}"
    return str(error).rstrip(".")


def is_folder(location: str) -> bool:
    """Tell whether a location is a folder, or a prefix that some object's key starts with."""
    return bool(file_info(location).type == pafs.FileType.Directory)


def exists(location: str) -> bool:
    """Tell whether there is a file or a folder at a location."""
    return bool(file_info(location).type != pafs.FileType.NotFound)


def file_info(location: str) -> pafs.FileInfo:
    """Return what pyarrow tells of a location, whatever is there."""
    store, path = filesystem(location)
    with asking_why(location):
        return store.get_file_info(path)


@contextmanager
def asking_why(location: str) -> Iterator[None]:
    """Ask for a listing when a HEAD request is refused: its answer has no body to tell a reason."""
    try:
        yield
    except (OSError, StoreError):
        check_store(location)
        raise


def read_bytes(location: str, max_bytes: int | None = None) -> bytes:
    """Return a file's content, or its first ``max_bytes`` bytes.

    Raises:
        FileNotFoundError: There is no file.
        PermissionError: The store refuses this object, and not all of its bucket.
        OSError: This object can't be read, for another reason.
        StoreError: The store refuses all of the bucket.
    """
    store, path = filesystem(location)
    try:
        with store.open_input_file(path) as file:
            # Room is made for all that is asked for.
            content: bytes = file.read(max_bytes and min(max_bytes, file.size()))
    except FileNotFoundError:
        raise
    except OSError:
        if not location.startswith("s3://"):
            raise
        check_store(location)
        # Where pyarrow says no more than that it failed, boto3 tells why, or does not fail.
        with s3.read_only(s3.parts(location)[0]).open_input_file(path) as file:
            content = file.read(max_bytes)
    return content


def open_stream(location: str) -> BinaryIO:
    """Open a file to be read once, from its start, with read-ahead."""
    store, path = filesystem(location)
    return io.BufferedReader(store.open_input_stream(path, compression=None), READ_AHEAD_BYTES)


def open_seekable(location: str) -> BinaryIO:
    """Open a file to be read anywhere; neighboring reads share one request."""
    store, path = filesystem(location)
    return io.BufferedReader(store.open_input_file(path), READ_AHEAD_BYTES)


def write_bytes(location: str, content: bytes) -> None:
    """Write a whole file at once: a reader sees all of it, or what was there before."""
    store, path = filesystem(location)
    if not isinstance(store, pafs.LocalFileSystem):
        # An object appears when its upload is closed; content is whole before it is opened.
        with store.open_output_stream(path) as stream:
            stream.write(content)
        return
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def delete(location: str) -> None:
    """Delete a file, or a folder with all that is in it, if it is there."""
    store, path = filesystem(location)
    kind = store.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        store.delete_dir(path)
    elif kind == pafs.FileType.File:
        store.delete_file(path)
