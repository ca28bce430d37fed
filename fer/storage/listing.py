"""Listing of folders and buckets, without opening their files."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from fer.errors import InputError
from fer.storage import local, s3
from fer.storage.paths import base_name, check_store_on_error, file_info, filesystem, join

PAGE_SIZE = 1000
"""Objects in one page of an S3 listing (S3's API reference, ListObjectsV2)."""

MAX_CHILDREN = 10_000
"""Limit of ``children``: the files and folders in ten pages of a listing."""

UNLISTABLE = (PermissionError, FileNotFoundError, NotADirectoryError)
"""What listing a folder raises that may not be read, or that is gone since its name was listed."""


@dataclass(frozen=True)
class Entry:
    """A file in a listing, or a folder that can't be listed.

    Attributes:
        location: Path or URI of the file. That of a folder ends with a slash.
        name: Path relative to the listed folder, with ``/`` as its separator.
        size_bytes: Size of the file.
        etag: A string that changes with the content: the ETag of an object, or the modification
            time of a local file in nanoseconds, in hex. None if the store has neither.
        problem: Why there is nothing to read, as a clause that follows the name; otherwise empty.
    """

    location: str
    name: str
    size_bytes: int
    etag: str | None
    problem: str = ""


def unlisted(location: str, name: str, error: OSError) -> Entry:
    """Return the entry of a folder that can't be listed.

    Args:
        location: The folder.
        name: Its path relative to the listed folder.
        error: One of ``UNLISTABLE``.
    """
    is_denied = isinstance(error, PermissionError)
    problem = "is a folder that may not be read" if is_denied else "is gone since it was listed"
    return Entry(f"{location.rstrip('/')}/", f"{name.rstrip('/')}/", 0, None, problem)


def is_empty(location: str) -> bool:
    """Return whether a folder contains no visible files or does not exist."""
    try:
        return next(walk(location), None) is None
    except FileNotFoundError:
        return True


def child_names(location: str, *, with_hidden: bool = False) -> set[str]:
    """Return the names of the files and folders directly in a folder.

    The set is empty if the folder does not exist.

    Args:
        location: The folder.
        with_hidden: Whether to include names that ``is_hidden`` skips.
    """
    try:
        infos = _list_folder(*filesystem(location))
    except FileNotFoundError:
        return set()
    names = (info.base_name for info in infos)
    return {name for name in names if with_hidden or not is_hidden(name)}


def describe(location: str) -> Entry:
    """Return the entry of a single file.

    Raises:
        InputError: The file does not exist.
    """
    info = file_info(location)
    if info.type != pafs.FileType.File:
        raise InputError(f"{location} does not exist: expected a file or a folder.")
    if location.startswith("s3://"):
        return _describe_s3(location)
    parent, base = posixpath.split(location)
    return _entry(info, parent, info.path.removesuffix(base).rstrip("/"))


def _describe_s3(location: str) -> Entry:
    """Describe an object through boto3, because pyarrow returns no ETag."""
    authority, key = s3.split_location(location)
    with check_store_on_error(location), s3.translate_errors(authority):
        head = s3.client(authority).head_object(Bucket=s3.bucket_name(authority), Key=key)
    return Entry(location, base_name(location), head["ContentLength"], head["ETag"].strip('"'))


def walk(location: str) -> Iterator[Entry]:
    """Yield the files in a folder and its subfolders, in the order of their paths in UTF-8.

    It is the order in which S3 lists keys, so that the same files come first on every store:
    ``a-b.jpg``, ``a/1.jpg``, ``a0.jpg``. Only one page of an S3 listing is in memory at a time, or
    the local folders above a file. Hidden files and folders (``.DS_Store``) and macOS's
    ``__MACOSX`` folders are skipped. A subfolder that can't be listed becomes an entry with a
    problem.

    Raises:
        FileNotFoundError: The local folder does not exist.
        PermissionError: The local folder may not be read.
    """
    listing = _walk_s3(location) if location.startswith("s3://") else _walk_folders(location)
    return (entry for entry in listing if not is_hidden(entry.name))


def children(location: str) -> tuple[list[str], list[Entry]] | None:
    """List the visible folders and files directly in a folder.

    Returns:
        The locations of the folders and the entries of the files, both in the order of their
        names. None if together they are more than ``MAX_CHILDREN``.

    Raises:
        OSError: One of ``UNLISTABLE``.
    """
    if location.startswith("s3://"):
        return _children_s3(location)
    store, root = filesystem(location)
    infos = [info for info in _list_folder(store, root) if not is_hidden(info.base_name)]
    folders = [
        join(location, info.base_name) for info in infos if info.type == pafs.FileType.Directory
    ]
    files = [_entry(info, location, root) for info in infos if info.type != pafs.FileType.Directory]
    return None if len(folders) + len(files) > MAX_CHILDREN else (folders, files)


def child_files(location: str) -> Iterator[Entry]:
    """Yield the visible files directly in a folder, without a limit on their number.

    Raises:
        OSError: One of ``UNLISTABLE``.
    """
    if location.startswith("s3://"):
        pages = _pages_s3(location, Delimiter="/")
        files = (entry for page in pages for entry in _entries_s3(location, page))
    else:
        store, root = filesystem(location)
        infos = _list_folder(store, root)
        files = (
            _entry(info, location, root) for info in infos if info.type != pafs.FileType.Directory
        )
    return (entry for entry in files if not is_hidden(entry.name))


def is_hidden(path: str) -> bool:
    """Return whether a segment of a path is ``__MACOSX`` or starts with a dot."""
    return any(
        segment == "__MACOSX" or (segment.startswith(".") and segment not in (".", ".."))
        for segment in path.split("/")
    )


def _walk_s3(location: str) -> Iterator[Entry]:
    for page in _pages_s3(location):
        yield from _entries_s3(location, page)


def _children_s3(location: str) -> tuple[list[str], list[Entry]] | None:
    authority, _ = s3.split_location(location)
    folders: list[str] = []
    files: list[Entry] = []
    for page in _pages_s3(location, Delimiter="/"):
        # Remove one slash only: "a//" is a folder with an empty name in "a/".
        prefixes = [item["Prefix"].removesuffix("/") for item in page.get("CommonPrefixes", ())]
        visible = [prefix for prefix in prefixes if not is_hidden(base_name(prefix))]
        folders += [f"s3://{authority}/{prefix}" for prefix in visible]
        files += [entry for entry in _entries_s3(location, page) if not is_hidden(entry.name)]
        if len(folders) + len(files) > MAX_CHILDREN:
            return None
    return folders, files


def _pages_s3(location: str, **request: str) -> Iterator[dict[str, Any]]:
    # Checks the bucket, so that a wrong name raises an InputError.
    filesystem(location)
    authority, prefix = s3.split_location(location)
    prefix = f"{prefix}/" if prefix else ""
    paginator = s3.client(authority).get_paginator("list_objects_v2")
    with s3.translate_errors(authority):
        yield from paginator.paginate(Bucket=s3.bucket_name(authority), Prefix=prefix, **request)


def _entries_s3(location: str, page: dict[str, Any]) -> Iterator[Entry]:
    authority, prefix = s3.split_location(location)
    for item in page.get("Contents", ()):
        key = item["Key"]
        if not key.endswith("/"):
            name = key.removeprefix(f"{prefix}/") if prefix else key
            etag = item["ETag"].strip('"')
            yield Entry(f"s3://{authority}/{key}", name, item["Size"], etag)


def _walk_folders(location: str) -> Iterator[Entry]:
    store, root = filesystem(location)
    # The rest of each folder from the root down to the one that is being listed.
    pending = [iter(_list_folder(store, root))]
    while pending:
        info = next(pending[-1], None)
        if info is None:
            pending.pop()
        elif info.type != pafs.FileType.Directory:
            yield _entry(info, location, root)
        elif not is_hidden(info.base_name):
            try:
                pending.append(iter(_list_folder(store, info.path)))
            except UNLISTABLE as error:
                folder = _entry(info, location, root)
                yield unlisted(folder.location, folder.name, error)


def _list_folder(store: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """List the direct children of a folder in the order of the files in and below them.

    Raises:
        OSError: One of ``UNLISTABLE``.
    """
    if local.is_local(store):
        infos = _list_local_folder(path)
    else:
        infos = store.get_file_info(pafs.FileSelector(path))
    return sorted(infos, key=_sort_key)


def _sort_key(info: pafs.FileInfo) -> str:
    """Return what precedes the names in a folder, or a file's name: code points sort as UTF-8."""
    is_folder = info.type == pafs.FileType.Directory
    return f"{info.base_name}/" if is_folder else str(info.base_name)


def _list_local_folder(path: str) -> list[pafs.FileInfo]:
    """List a local folder without pyarrow, which fails on names that are not valid UTF-8."""
    with os.scandir(local.path_of(path)) as entries:
        return [info for entry in entries if (info := _describe_child(entry, path))]


def _describe_child(entry: os.DirEntry[str], folder: str) -> pafs.FileInfo | None:
    """Describe a child of a folder.

    Returns:
        None if the child no longer exists or is a link to a folder that contains it. A child that
        is neither a file nor a folder has an unknown type.
    """
    location = join(folder, local.location_of(entry.name))
    try:
        status = entry.stat()
    except FileNotFoundError:
        # A link whose target is gone is still there. Reading it will raise the error.
        return pafs.FileInfo(location, pafs.FileType.File) if entry.is_symlink() else None
    except OSError:
        # A link to itself or into a closed folder. Reading it will raise the error.
        return pafs.FileInfo(location, pafs.FileType.File)
    info = local.file_info(location, status)
    is_folder = info.type == pafs.FileType.Directory
    return None if is_folder and _is_cycle(entry) else info


def _is_cycle(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder is a link to one of its parents, which would never end."""
    path = Path(folder.path)
    return folder.is_symlink() and path.resolve() in {parent.resolve() for parent in path.parents}


def _entry(info: pafs.FileInfo, location: str, root: str) -> Entry:
    name = info.path.removeprefix(root).lstrip("/")
    etag = format(info.mtime_ns, "x") if info.mtime_ns else None
    is_special = info.type == pafs.FileType.Unknown
    problem = "is neither a regular file nor a folder" if is_special else ""
    return Entry(join(location, name), name, info.size, etag, problem)
