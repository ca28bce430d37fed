"""Local paths and object-store URIs: open, read, write atomically, delete."""

import io
import os
import posixpath
import re
import shutil
import tempfile
import urllib.parse
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, BinaryIO

import pyarrow.fs as pafs
from pyarrow.lib import ArrowInvalid

from fer.errors import InputError, StoreError
from fer.storage import local, s3
from fer.storage.interrupts import run_uninterrupted

READ_AHEAD_BYTES = 4 * 2**20
"""Bytes that a buffered reader requests at once: enough to hide an object store's latency."""

MAX_NAME_BYTES = 100
"""Most bytes of a user's name in that of a file; file systems allow 255 for all of it."""

_LOCAL = pafs.LocalFileSystem()

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

_ANSWER = re.compile(
    r"AWS Error (?P<code>\w+(?: \(HTTP status \d+\))?) during (?P<request>\w+) operation:"
    r"(?: Unable to parse ExceptionName: (?P<name>\w+))?"
)
"""How pyarrow's error messages quote the answer of an S3 server."""

_ERROR_NUMBER = re.compile(r"\[errno \d+\] ", re.IGNORECASE)
"""How Python and pyarrow begin the message of an operating system, which says the same in words."""


def is_uri(location: str) -> bool:
    """Return whether a location starts with a scheme, as ``s3://…`` does."""
    return _SCHEME.match(location) is not None


def is_plain(location: str) -> bool:
    """Return whether every library can open a location, because no part of it is an escape."""
    return is_uri(location) or not local.has_escapes(location)


def resolve(location: str) -> str:
    """Normalize a location that a user typed.

    A local path becomes absolute and ``~`` is expanded. The prefix ``file://`` and slashes at the
    end are removed. Bytes of a local path that are not valid UTF-8 become escapes: see
    ``fer.storage.local``.

    Raises:
        InputError: ``pyarrow.fs`` cannot open the scheme, or the bucket cannot be listed.
    """
    if location.startswith("file://"):
        _, _, quoted = location.removeprefix("file://").partition("/")
        location = os.fsdecode(b"/" + urllib.parse.unquote_to_bytes(os.fsencode(quoted)))
    if is_uri(location):
        location = location.rstrip("/")
        filesystem(location)
        return location
    return local.location_of(str(Path(location).expanduser().absolute()))


def join(location: str, *parts: str) -> str:
    """Append path segments to the location of a folder."""
    return posixpath.join(location, *parts)


def base_name(location: str) -> str:
    """Return the last path segment of a location."""
    return posixpath.basename(location.rstrip("/"))


def shorten(name: str) -> str:
    """Return the start of a name that a user chose, for the name of a file to begin with."""
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Open the filesystem of a location.

    Returns:
        The filesystem, and the path of the location in it.

    Raises:
        InputError: The scheme is unknown, or the bucket cannot be listed.
    """
    if not (match := _SCHEME.match(location)):
        return local.READER if local.has_escapes(location) else _LOCAL, location
    authority, _, path = location[match.end() :].partition("/")
    opened, root = _open_store(match[1].lower(), authority)
    # The key is used verbatim: a URI parser would cut it at '#' and decode its '%'.
    path = f"{root}/{path}" if path else root
    # pyarrow sends no requester-pays header, and it refuses keys with two slashes in a row.
    if match[1].lower() == "s3" and (authority.startswith(s3.REQUESTER_PREFIX) or "//" in path):
        return s3.open_bucket_read_only(authority), path
    return opened, path


@lru_cache(maxsize=64)
def _open_store(scheme: str, authority: str) -> tuple[pafs.FileSystem, str]:
    if scheme == "s3":
        try:
            s3.check_bucket(authority)
        except StoreError as error:
            raise InputError(str(error)) from error
        return s3.open_bucket(authority), s3.bucket_name(authority)
    try:
        opened, root = pafs.FileSystem.from_uri(f"{scheme}://{authority}")
    # pyarrow delegates some schemes to packages that may not be installed, and refuses surrogates.
    except (ArrowInvalid, ImportError, UnicodeEncodeError) as error:
        raise InputError(
            f"{scheme}:// locations cannot be opened: use a local path or s3://bucket/…."
        ) from error
    return opened, root


def strip_access_mode(location: str) -> str:
    """Remove ``anonymous@`` or ``requester@`` from an ``s3://`` location.

    The same image gets the same name in all labels, however the bucket is accessed.
    """
    scheme, authority = "s3://", location.removeprefix("s3://")
    return scheme + s3.bucket_name(authority) if location.startswith(scheme) else location


def check_store(location: str) -> None:
    """Check, after an error, that the bucket of a location can still be listed.

    Callers use this to distinguish a bucket that refuses all access from a single bad object.

    Raises:
        StoreError: The bucket can no longer be listed: the credentials expired or were revoked, or
            the store is unreachable.
    """
    if location.startswith("s3://"):
        s3.check_bucket(s3.split_location(location)[0])


def describe_error(error: OSError) -> str:
    """Return the cause of an I/O error as a clause without a number or a full stop."""
    if answer := _ANSWER.search(str(error)):
        return f"the store answered {answer['name'] or answer['code']} to {answer['request']}"
    return _ERROR_NUMBER.sub("", str(error)).rstrip(".")


def is_folder(location: str) -> bool:
    """Return whether a location is a folder, or a prefix of at least one object's key."""
    return bool(file_info(location).type == pafs.FileType.Directory)


def exists(location: str) -> bool:
    """Return whether a file or a folder exists at a location."""
    return bool(file_info(location).type != pafs.FileType.NotFound)


def file_info(location: str) -> pafs.FileInfo:
    """Return pyarrow's description of a location, even if nothing exists there.

    Raises:
        StoreError: The bucket refuses all access.
    """
    store, path = filesystem(location)
    with check_store_on_error(location):
        return store.get_file_info(path)


@contextmanager
def check_store_on_error(location: str) -> Iterator[None]:
    """Call ``check_store`` if the body fails.

    The answer to a refused HEAD request has no body, so it does not say why. A listing does.
    """
    try:
        yield
    except (OSError, StoreError):
        check_store(location)
        raise


def read_bytes(location: str, max_bytes: int | None = None) -> bytes:
    """Return the content of a file, or its first ``max_bytes`` bytes.

    Raises:
        FileNotFoundError: The file does not exist.
        PermissionError: The store refuses access to this object, but not to the whole bucket.
        OSError: The file cannot be read for another reason.
        StoreError: The store refuses access to the whole bucket.
    """
    store, path = filesystem(location)
    try:
        with store.open_input_file(path) as file:
            # pyarrow allocates the requested size, even if the file is much smaller.
            content: bytes = file.read(max_bytes and min(max_bytes, file.size()))
    except FileNotFoundError:
        raise
    except OSError:
        if not location.startswith("s3://"):
            raise
        check_store(location)
        # pyarrow's error gives no cause; boto3 either gives one or succeeds.
        with s3.open_bucket_read_only(s3.split_location(location)[0]).open_input_file(path) as file:
            content = file.read(max_bytes)
    return content


def open_stream(location: str) -> BinaryIO:
    """Open a file for one sequential read from its start, with read-ahead.

    An object that is replaced meanwhile raises an OSError.
    """
    store, path = filesystem(location)
    if location.startswith("s3://"):
        return io.BufferedReader(s3.open_object(location), READ_AHEAD_BYTES)
    return io.BufferedReader(store.open_input_stream(path, compression=None), READ_AHEAD_BYTES)


def open_seekable(location: str) -> BinaryIO:
    """Open a file for random access. Reads close to each other share one request.

    An object that is replaced meanwhile raises an OSError.
    """
    store, path = filesystem(location)
    if location.startswith("s3://"):
        return io.BufferedReader(s3.open_object(location), READ_AHEAD_BYTES)
    return io.BufferedReader(store.open_input_file(path), READ_AHEAD_BYTES)


def write_bytes(location: str, content: bytes) -> None:
    """Write a file atomically: readers see the old content or all of the new."""
    write_file(location, io.BytesIO(content))


def write_file(location: str, content: IO[bytes]) -> None:
    """Write what is left of an open file to another, atomically as ``write_bytes`` does.

    A file that is written to a store is read into memory first.
    """
    store, path = filesystem(location)
    if not isinstance(store, pafs.LocalFileSystem):
        pieces = deque(iter(partial(content.read, READ_AHEAD_BYTES), b""))
        run_uninterrupted(_upload, store, path, pieces)
        return
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, READ_AHEAD_BYTES)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _upload(store: pafs.FileSystem, path: str, pieces: deque[bytes]) -> None:
    """Write an object, and free each piece of its content meanwhile.

    An object becomes visible when its stream is closed. pyarrow can't abort a stream: whatever
    exception ends it also closes it, and what was written by then becomes the object, unless the
    store refused a part of it. So nothing may fail here but the store.
    """
    with store.open_output_stream(path) as stream:
        while pieces:
            stream.write(pieces.popleft())


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def delete(location: str) -> None:
    """Delete a file, or a folder and everything in it. Do nothing if neither exists."""
    store, path = filesystem(location)
    kind = store.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        store.delete_dir(path)
    elif kind == pafs.FileType.File:
        store.delete_file(path)
