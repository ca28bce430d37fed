"""Local paths and object-store URIs: open, list, read, write atomically, delete."""

import io
import os
import posixpath
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.fs as pafs
from pyarrow.lib import ArrowInvalid

from fer.errors import InputError

READ_AHEAD_BYTES = 4 * 2**20
"""What a sequential reader asks for at once: enough to hide an object store's latency."""

S3_ATTEMPTS = 10
"""How often a request is made before it counts as failed: of requests that fail one in five times,
one in ten million then fails for good. Each attempt waits longer than the one before."""

S3_TIMEOUT_SECONDS = 20.0
"""A request that says nothing for so long is made again."""

PAGE = 1000
"""What an object store lists at once."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

_S3_MISTAKES = {
    "NoSuchBucket": "the bucket does not exist; check its name, region and endpoint",
    "404": "the bucket does not exist; check its name, region and endpoint",
    "AccessDenied": "these credentials may not list it; check their policy",
    "403": "these credentials may not list it; check their policy",
    "InvalidAccessKeyId": "the access key is unknown there; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; fetch new credentials",
}


@dataclass(frozen=True)
class Entry:
    """A file that a listing found.

    Attributes:
        location: Its path or URI.
        name: Its path below the folder that was listed, with ``/`` between the parts.
        size_bytes: Its size.
        etag: What changes when its content does: the object store's ETag, or the modification
            time of a local file in nanoseconds, in hex; None where the store has neither.
    """

    location: str
    name: str
    size_bytes: int
    etag: str | None


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
    return opened, posixpath.join(root, path) if path else root


@lru_cache(maxsize=64)
def _open_store(scheme: str, authority: str) -> tuple[pafs.FileSystem, str]:
    if scheme == "s3":
        _check_bucket(authority)
        return _open_bucket(authority), authority
    try:
        opened, root = pafs.FileSystem.from_uri(f"{scheme}://{authority}")
    except ArrowInvalid as error:
        raise InputError(
            f"{scheme}:// is not a location that can be opened: use a local path or s3://bucket/…."
        ) from error
    return opened, root


class _PatientStore(pafs.S3FileSystem):  # type: ignore[misc]
    """pyarrow's store of a bucket, which else would forget its patience on the way to a worker."""

    bucket: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_bucket, (self.bucket,)


def _open_bucket(bucket: str) -> pafs.S3FileSystem:
    """Open the store of a bucket with more patience than pyarrow's three attempts."""
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(bucket)
    store = _PatientStore(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=S3_TIMEOUT_SECONDS,
        request_timeout=S3_TIMEOUT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )
    store.bucket = bucket
    return store


def _check_bucket(bucket: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - slow to import

    try:
        _s3_client().list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = _S3_MISTAKES.get(code, f"the store answered {code}")
        raise InputError(f"s3://{bucket} can't be used: {reason}.") from error
    except BotoCoreError as error:
        raise InputError(f"s3://{bucket} can't be used: {str(error).rstrip('.')}.") from error


@lru_cache(maxsize=1)
def _s3_client() -> Any:  # noqa: ANN401 - boto3 makes its clients' types at run time
    import boto3  # noqa: PLC0415 - slow to import, and needed for s3:// alone
    from botocore.config import Config  # noqa: PLC0415

    patient = Config(
        connect_timeout=S3_TIMEOUT_SECONDS,
        read_timeout=S3_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
    )
    # A session of its own: boto3's default one keeps the first credentials that it sees.
    return boto3.session.Session().client("s3", config=patient)


def is_folder(location: str) -> bool:
    """Tell whether a location is a folder, or a prefix that some object's key starts with."""
    store, path = filesystem(location)
    return bool(store.get_file_info(path).type == pafs.FileType.Directory)


def exists(location: str) -> bool:
    """Tell whether there is a file or a folder at a location."""
    store, path = filesystem(location)
    return bool(store.get_file_info(path).type != pafs.FileType.NotFound)


def is_empty(location: str) -> bool:
    """Tell whether a folder holds nothing, or is not there."""
    return next(walk(location), None) is None


def names(location: str) -> set[str]:
    """Return the names of what is in a folder, hidden files aside; none if it is not there."""
    store, path = filesystem(location)
    found = store.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return {info.base_name for info in found if not is_hidden(info.base_name)}


def describe(location: str) -> Entry:
    """Return the entry of one file.

    Raises:
        InputError: There is no file.
    """
    parent, base = posixpath.split(location)
    store, path = filesystem(location)
    if store.get_file_info(path).type != pafs.FileType.File:
        raise InputError(f"{location} does not exist: expected a file or a folder.")
    if location.startswith("s3://"):
        bucket, _, key = path.partition("/")
        head = _s3_client().head_object(Bucket=bucket, Key=key)
        return Entry(location, base, head["ContentLength"], head["ETag"].strip('"'))
    return _entry(store.get_file_info(path), parent, path.removesuffix(base).rstrip("/"))


def walk(location: str) -> Iterator[Entry]:
    """Yield the files below a folder, a page at a time, in the order of their names.

    Hidden files and folders (``.DS_Store``) and macOS' ``__MACOSX`` are passed over.
    """
    listing = _walk_s3(location) if location.startswith("s3://") else _walk_folders(location)
    return (entry for entry in listing if not is_hidden(entry.name))


def children(location: str) -> tuple[list[str], list[Entry]] | None:
    """Return the folders and the files right inside a folder, hidden ones aside.

    Returns:
        The locations of the folders, and the entries of the files, each in the order of their
        names; None if they are more than a thousand, which a store lists at once.
    """
    if location.startswith("s3://"):
        return _children_s3(location)
    store, root = filesystem(location)
    infos = store.get_file_info(pafs.FileSelector(root, allow_not_found=True))
    if len(infos) > PAGE:
        return None
    seen = sorted(
        (info for info in infos if not is_hidden(info.base_name)), key=lambda info: str(info.path)
    )
    folders = [
        join(location, info.base_name) for info in seen if info.type == pafs.FileType.Directory
    ]
    files = [_entry(info, location, root) for info in seen if info.type == pafs.FileType.File]
    return folders, files


def is_hidden(member: str) -> bool:
    """Tell whether a path has a part that people do not see as theirs."""
    parts = member.split("/")
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)


def _walk_s3(location: str) -> Iterator[Entry]:
    for page in _pages_s3(location):
        yield from _entries_s3(location, page)


def _children_s3(location: str) -> tuple[list[str], list[Entry]] | None:
    page = next(_pages_s3(location, Delimiter="/"))
    if page["IsTruncated"]:
        return None
    bucket, _, _ = location.removeprefix("s3://").partition("/")
    prefixes = [item["Prefix"].rstrip("/") for item in page.get("CommonPrefixes", ())]
    folders = [f"s3://{bucket}/{prefix}" for prefix in prefixes if not is_hidden(name(prefix))]
    files = [entry for entry in _entries_s3(location, page) if not is_hidden(entry.name)]
    return folders, files


def _pages_s3(location: str, **request: str) -> Iterator[dict[str, Any]]:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    filesystem(location)
    listing = _s3_client().get_paginator("list_objects_v2")
    prefix = f"{prefix}/" if prefix else ""
    yield from listing.paginate(Bucket=bucket, Prefix=prefix, **request)


def _entries_s3(location: str, page: dict[str, Any]) -> Iterator[Entry]:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    for item in page.get("Contents", ()):
        key = item["Key"]
        if not key.endswith("/"):
            below = key.removeprefix(f"{prefix}/") if prefix else key
            yield Entry(f"s3://{bucket}/{key}", below, item["Size"], item["ETag"].strip('"'))


def _walk_folders(location: str) -> Iterator[Entry]:
    store, root = filesystem(location)
    pending = [root]
    while pending:
        selector = pafs.FileSelector(pending.pop(), allow_not_found=True)
        infos = sorted(store.get_file_info(selector), key=lambda info: str(info.path))
        folders = [info.path for info in infos if info.type == pafs.FileType.Directory]
        pending.extend(reversed([path for path in folders if not is_hidden(name(path))]))
        for info in infos:
            if info.type == pafs.FileType.File:
                yield _entry(info, location, root)


def _entry(info: pafs.FileInfo, location: str, root: str) -> Entry:
    below = info.path.removeprefix(root).lstrip("/")
    etag = format(info.mtime_ns, "x") if info.mtime_ns else None
    return Entry(join(location, below), below, info.size, etag)


def read_bytes(location: str, max_bytes: int | None = None) -> bytes:
    """Return a file's content, or its first ``max_bytes`` bytes.

    Raises:
        FileNotFoundError: There is no file.
        OSError: The store failed.
    """
    store, path = filesystem(location)
    with store.open_input_file(path) as file:
        content: bytes = file.read(max_bytes)
    return content


def open_stream(location: str) -> BinaryIO:
    """Open a file to be read once, from its start, with read-ahead."""
    store, path = filesystem(location)
    return io.BufferedReader(store.open_input_stream(path, compression=None), READ_AHEAD_BYTES)


def open_seekable(location: str) -> BinaryIO:
    """Open a file to be read anywhere; neighbouring reads share one request."""
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
