"""Local paths and object-store URIs: open, list, read, write atomically, delete."""

import io
import os
import posixpath
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.fs as pafs
from pyarrow.lib import ArrowInvalid

from fer.boto_store import ReadOnlyHandler
from fer.errors import InputError, StoreError

READ_AHEAD_BYTES = 4 * 2**20
"""What a sequential reader asks for at once: enough to hide an object store's latency."""

S3_ATTEMPTS = 10
"""How often a request is made before it counts as failed: of requests that fail one in five times,
one in ten million then fails for good. Each attempt waits longer than the one before."""

S3_TIMEOUT_SECONDS = 20.0
"""A request that says nothing for so long is made again."""

PAGE = 1000
"""What an object store lists at once (S3's API reference, ListObjectsV2)."""

ANONYMOUS, REQUESTER = "anonymous@", "requester@"
"""What may stand before a bucket's name: requests that nobody signs, as Ray and pyarrow write it,
or that whoever makes them pays for."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

_DENIED = (
    "these credentials may not list it; check their policy, or name it as s3://anonymous@… if it "
    "is public, as s3://requester@… if whoever reads it pays"
)
_S3_MISTAKES = {
    "NoSuchBucket": "the bucket does not exist; check its name, region and endpoint",
    "404": "the bucket does not exist; check its name, region and endpoint",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": "the access key is unknown there; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; fetch new credentials",
    "InvalidToken": "the session token is not valid; fetch new credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
}
_NOT_PUBLIC = "it is not public and no credentials were used; check AWS_ACCESS_KEY_ID"

_ANSWER = re.compile(
    r"AWS Error (?P<code>\w+(?: \(HTTP status \d+\))?) during (?P<request>\w+) operation:"
    r"(?: Unable to parse ExceptionName: (?P<name>\w+))?"
)
"""How pyarrow words what a store answered."""


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
    path = f"{root}/{path}" if path else root
    if match[1].lower() == "s3" and (authority.startswith(REQUESTER) or "//" in path):
        return _read_only(authority), path
    return opened, path


@lru_cache(maxsize=64)
def _open_store(scheme: str, authority: str) -> tuple[pafs.FileSystem, str]:
    if scheme == "s3":
        try:
            _check_bucket(authority)
        except StoreError as error:
            raise InputError(str(error)) from error
        return _open_bucket(authority), _bucket(authority)
    try:
        opened, root = pafs.FileSystem.from_uri(f"{scheme}://{authority}")
    # Some schemes are known to pyarrow and opened by a package that need not be there.
    except (ArrowInvalid, ImportError) as error:
        raise InputError(
            f"{scheme}:// is not a location that can be opened: use a local path or s3://bucket/…."
        ) from error
    return opened, root


class _PatientStore(pafs.S3FileSystem):  # type: ignore[misc]
    """pyarrow's store of a bucket, which else would forget its patience on the way to a worker."""

    authority: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_bucket, (self.authority,)


def _open_bucket(authority: str) -> pafs.S3FileSystem:
    """Open the store of a bucket with more patience than pyarrow's three attempts."""
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(_bucket(authority))
    store = _PatientStore(
        anonymous=_is_anonymous(authority),
        endpoint_override=endpoint,
        region=region,
        connect_timeout=S3_TIMEOUT_SECONDS,
        request_timeout=S3_TIMEOUT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )
    store.authority = authority
    return store


@lru_cache(maxsize=64)
def _read_only(authority: str) -> pafs.FileSystem:
    return pafs.PyFileSystem(ReadOnlyHandler(partial(_client, authority), S3_ATTEMPTS))


def _bucket(authority: str) -> str:
    return authority.removeprefix(ANONYMOUS).removeprefix(REQUESTER)


def _is_anonymous(authority: str) -> bool:
    return authority.startswith(ANONYMOUS) or not _has_credentials()


@lru_cache(maxsize=1)
def _has_credentials() -> bool:
    from botocore.session import get_session  # noqa: PLC0415 - slow to import

    return get_session().get_credentials() is not None


def _check_bucket(authority: str) -> None:
    with _refusals(authority):
        _client(authority).list_objects_v2(Bucket=_bucket(authority), MaxKeys=1)


@contextmanager
def _refusals(authority: str) -> Iterator[None]:
    """Raise what boto3 makes of a store's refusal as a StoreError of one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - slow to import

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = _S3_MISTAKES.get(code, f"the store answered {code}")
        if reason is _DENIED and _is_anonymous(authority):
            reason = _NOT_PUBLIC
        raise StoreError(f"s3://{authority} can't be used: {reason}.") from error
    except BotoCoreError as error:
        told = str(error).rstrip(".")
        raise StoreError(f"s3://{authority} can't be used: {told}.") from error


def _client(authority: str) -> Any:  # noqa: ANN401 - boto3 makes its clients' types at run time
    anonymous = _is_anonymous(authority)
    return _s3_client(anonymous, pays=authority.startswith(REQUESTER) and not anonymous)


@lru_cache(maxsize=4)
def _s3_client(anonymous: bool = False, *, pays: bool = False) -> Any:  # noqa: ANN401
    import boto3  # noqa: PLC0415 - slow to import, and needed for s3:// alone
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    patient = Config(
        connect_timeout=S3_TIMEOUT_SECONDS,
        read_timeout=S3_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
        signature_version=UNSIGNED if anonymous else None,
    )
    # A session of its own: boto3's default one keeps the first credentials that it sees.
    client = boto3.session.Session().client("s3", config=patient)
    if pays:
        client.meta.events.register("before-call.s3", _promise_to_pay)
    return client


def _promise_to_pay(params: dict[str, Any], **_: object) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def without_access(location: str) -> str:
    """Return a location without what its bucket's name says of who asks for it."""
    scheme, authority = "s3://", location.removeprefix("s3://")
    return scheme + _bucket(authority) if location.startswith(scheme) else location


def check_store(location: str) -> None:
    """Tell a store that refuses everything from one that refuses an object, once something failed.

    Raises:
        StoreError: The bucket of the location can't be listed any more: the credentials expired,
            were revoked, or the store is gone.
    """
    if location.startswith("s3://"):
        _check_bucket(_parts(location)[0])


def reason(error: OSError) -> str:
    """Return why a store failed, in words that can go on in a sentence."""
    if answer := _ANSWER.search(str(error)):
        return f"the store answered {answer['name'] or answer['code']} to {answer['request']}"
    return str(error).rstrip(".")


def _parts(location: str) -> tuple[str, str]:
    """Return what stands for the bucket in an s3:// location, and the key."""
    authority, _, key = location.removeprefix("s3://").partition("/")
    return authority, key


def is_folder(location: str) -> bool:
    """Tell whether a location is a folder, or a prefix that some object's key starts with."""
    return bool(_info(location).type == pafs.FileType.Directory)


def exists(location: str) -> bool:
    """Tell whether there is a file or a folder at a location."""
    return bool(_info(location).type != pafs.FileType.NotFound)


def _info(location: str) -> pafs.FileInfo:
    store, path = filesystem(location)
    with _asking_why(location):
        return store.get_file_info(path)


@contextmanager
def _asking_why(location: str) -> Iterator[None]:
    """Ask for a listing when a HEAD request is refused: its answer has no body to tell a reason."""
    try:
        yield
    except (OSError, StoreError):
        check_store(location)
        raise


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
    info = _info(location)
    if info.type != pafs.FileType.File:
        raise InputError(f"{location} does not exist: expected a file or a folder.")
    if location.startswith("s3://"):
        return _describe_s3(location)
    parent, base = posixpath.split(location)
    return _entry(info, parent, info.path.removesuffix(base).rstrip("/"))


def _describe_s3(location: str) -> Entry:
    """Ask boto3, as pyarrow tells no ETag."""
    authority, key = _parts(location)
    with _asking_why(location), _refusals(authority):
        head = _client(authority).head_object(Bucket=_bucket(authority), Key=key)
    return Entry(location, name(location), head["ContentLength"], head["ETag"].strip('"'))


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
    infos = _inside(store, root)
    if len(infos) > PAGE:
        return None
    seen = [info for info in infos if not is_hidden(info.base_name)]
    folders = [
        join(location, info.base_name) for info in seen if info.type == pafs.FileType.Directory
    ]
    files = [_entry(info, location, root) for info in seen if info.type == pafs.FileType.File]
    return folders, files


def is_hidden(member: str) -> bool:
    """Tell whether a path has a part that people do not see as theirs."""
    parts = member.split("/")
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts
    )


def _walk_s3(location: str) -> Iterator[Entry]:
    for page in _pages_s3(location):
        yield from _entries_s3(location, page)


def _children_s3(location: str) -> tuple[list[str], list[Entry]] | None:
    page = next(_pages_s3(location, Delimiter="/"))
    if page["IsTruncated"]:
        return None
    authority, _ = _parts(location)
    # One slash alone: the folder that has no name, below this one, is another.
    prefixes = [item["Prefix"].removesuffix("/") for item in page.get("CommonPrefixes", ())]
    folders = [f"s3://{authority}/{prefix}" for prefix in prefixes if not is_hidden(name(prefix))]
    files = [entry for entry in _entries_s3(location, page) if not is_hidden(entry.name)]
    return folders, files


def _pages_s3(location: str, **request: str) -> Iterator[dict[str, Any]]:
    filesystem(location)
    authority, prefix = _parts(location)
    prefix = f"{prefix}/" if prefix else ""
    listing = _client(authority).get_paginator("list_objects_v2")
    with _refusals(authority):
        yield from listing.paginate(Bucket=_bucket(authority), Prefix=prefix, **request)


def _entries_s3(location: str, page: dict[str, Any]) -> Iterator[Entry]:
    authority, prefix = _parts(location)
    for item in page.get("Contents", ()):
        key = item["Key"]
        if not key.endswith("/"):
            below = key.removeprefix(f"{prefix}/") if prefix else key
            etag = item["ETag"].strip('"')
            yield Entry(f"s3://{authority}/{key}", below, item["Size"], etag)


def _walk_folders(location: str) -> Iterator[Entry]:
    store, root = filesystem(location)
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            infos = _inside(store, folder)
        except PermissionError:
            if folder == root:
                raise
            # It takes its place among what is no image, and is counted there.
            yield _entry(pafs.FileInfo(folder), location, root)
            continue
        folders = [info.path for info in infos if info.type == pafs.FileType.Directory]
        pending.extend(reversed([path for path in folders if not is_hidden(name(path))]))
        for info in infos:
            if info.type == pafs.FileType.File:
                yield _entry(info, location, root)


def _inside(store: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """Return what is right inside a folder in the order of names; nothing if it is not there."""
    if isinstance(store, pafs.LocalFileSystem):
        infos = _inside_local(path)
    else:
        infos = store.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted(infos, key=lambda info: str(info.path))


def _inside_local(path: str) -> list[pafs.FileInfo]:
    """Look without pyarrow, which fails where a name is no UTF-8: here it is that of no file."""
    infos = []
    with suppress(FileNotFoundError), os.scandir(path) as found:
        for each in found:
            location = join(path, os.fsencode(each.name).decode("utf-8", "replace"))
            if each.is_dir():
                infos.append(pafs.FileInfo(location, pafs.FileType.Directory))
            elif each.is_file():
                told = each.stat()
                info = pafs.FileInfo(
                    location, pafs.FileType.File, mtime_ns=told.st_mtime_ns, size=told.st_size
                )
                infos.append(info)
    return infos


def _entry(info: pafs.FileInfo, location: str, root: str) -> Entry:
    below = info.path.removeprefix(root).lstrip("/")
    etag = format(info.mtime_ns, "x") if info.mtime_ns else None
    return Entry(join(location, below), below, info.size, etag)


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
        with _read_only(_parts(location)[0]).open_input_file(path) as file:
            content = file.read(max_bytes)
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
