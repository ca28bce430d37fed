"""Listing of folders and buckets, without opening their files."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from fer.errors import InputError
from fer.storage import s3
from fer.storage.paths import base_name, check_store_on_error, file_info, filesystem, join

PAGE_SIZE = 1000
"""Objects in one page of an S3 listing (S3's API reference, ListObjectsV2)."""

MAX_CHILDREN = 10_000
"""Limit of ``children``: the files and folders in ten pages of a listing."""


@dataclass(frozen=True)
class Entry:
    """A file in a listing.

    Attributes:
        location: Path or URI of the file.
        name: Path relative to the listed folder, with ``/`` as its separator.
        size_bytes: Size of the file.
        etag: A string that changes with the content: the ETag of an object, or the modification
            time of a local file in nanoseconds, in hex. None if the store has neither.
    """

    location: str
    name: str
    size_bytes: int
    etag: str | None


def is_empty(location: str) -> bool:
    """Return whether a folder contains no visible files or does not exist."""
    return next(walk(location), None) is None


def child_names(location: str) -> set[str]:
    """Return the names of the visible files and folders directly in a folder.

    The set is empty if the folder does not exist.
    """
    names = (info.base_name for info in _list_folder(*filesystem(location)))
    return {name for name in names if not is_hidden(name)}


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
    """Yield the files in a folder and its subfolders, in the order of their names.

    Only one page of an S3 listing is in memory at a time. Hidden files and folders
    (``.DS_Store``) and macOS's ``__MACOSX`` folders are skipped.
    """
    listing = _walk_s3(location) if location.startswith("s3://") else _walk_folders(location)
    return (entry for entry in listing if not is_hidden(entry.name))


def children(location: str) -> tuple[list[str], list[Entry]] | None:
    """List the visible folders and files directly in a folder.

    Returns:
        The locations of the folders and the entries of the files, both in the order of their
        names. None if together they are more than ``MAX_CHILDREN``.
    """
    if location.startswith("s3://"):
        return _children_s3(location)
    store, root = filesystem(location)
    infos = [info for info in _list_folder(store, root) if not is_hidden(info.base_name)]
    folders = [
        join(location, info.base_name) for info in infos if info.type == pafs.FileType.Directory
    ]
    files = [_entry(info, location, root) for info in infos if info.type == pafs.FileType.File]
    return None if len(folders) + len(files) > MAX_CHILDREN else (folders, files)


def child_files(location: str) -> Iterator[Entry]:
    """Yield the visible files directly in a folder, without a limit on their number."""
    if location.startswith("s3://"):
        pages = _pages_s3(location, Delimiter="/")
        files = (entry for page in pages for entry in _entries_s3(location, page))
    else:
        store, root = filesystem(location)
        infos = _list_folder(store, root)
        files = (_entry(info, location, root) for info in infos if info.type == pafs.FileType.File)
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
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            infos = _list_folder(store, folder)
        except PermissionError:
            if folder == root:
                raise
            # The unreadable folder is listed as a file, so that it is counted as not an image.
            yield _entry(pafs.FileInfo(folder), location, root)
            continue
        folders = [info.path for info in infos if info.type == pafs.FileType.Directory]
        pending.extend(reversed([path for path in folders if not is_hidden(base_name(path))]))
        for info in infos:
            if info.type == pafs.FileType.File:
                yield _entry(info, location, root)


def _list_folder(store: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """List the direct children of a folder in the order of names; none if it does not exist."""
    if isinstance(store, pafs.LocalFileSystem):
        infos = _list_local_folder(path)
    else:
        infos = store.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted(infos, key=lambda info: str(info.path))


def _list_local_folder(path: str) -> list[pafs.FileInfo]:
    """List a local folder without pyarrow, which fails on names that are not valid UTF-8.

    Invalid bytes in a name are replaced, so such a file is listed but cannot be opened.
    """
    try:
        scan = os.scandir(path)
    except FileNotFoundError:
        return []
    with scan as entries:
        return [info for entry in entries if (info := _describe_child(entry, path))]


def _describe_child(entry: os.DirEntry[str], folder: str) -> pafs.FileInfo | None:
    """Describe a child of a folder.

    Returns:
        None if the child no longer exists, is neither a file nor a folder, or is a link to a folder
        that contains it.
    """
    location = join(folder, os.fsencode(entry.name).decode("utf-8", "replace"))
    try:
        if entry.is_dir():
            return None if _is_cycle(entry) else pafs.FileInfo(location, pafs.FileType.Directory)
        if not entry.is_file():
            return None
        stat = entry.stat()
    except FileNotFoundError:
        return None
    except OSError:
        # A link to itself or into a closed folder. Reading it will raise the error.
        return pafs.FileInfo(location, pafs.FileType.File)
    return pafs.FileInfo(location, pafs.FileType.File, mtime_ns=stat.st_mtime_ns, size=stat.st_size)


def _is_cycle(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder is a link to one of its parents, which would never end."""
    path = Path(folder.path)
    return folder.is_symlink() and path.resolve() in {parent.resolve() for parent in path.parents}


def _entry(info: pafs.FileInfo, location: str, root: str) -> Entry:
    name = info.path.removeprefix(root).lstrip("/")
    etag = format(info.mtime_ns, "x") if info.mtime_ns else None
    return Entry(join(location, name), name, info.size, etag)
