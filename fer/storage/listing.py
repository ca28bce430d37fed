"""What folders and buckets hold: looked through without opening a file."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from fer.errors import InputError
from fer.storage import s3
from fer.storage.paths import asking_why, file_info, filesystem, join, name

PAGE = 1000
"""What an object store lists at once (S3's API reference, ListObjectsV2)."""

MANY = 10_000
"""Files and folders beside each other that are not told apart: ten pages of a listing."""


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


def is_empty(location: str) -> bool:
    """Tell whether a folder holds nothing, or is not there."""
    return next(walk(location), None) is None


def names(location: str) -> set[str]:
    """Return the names of what is in a folder, hidden files aside; none if it is not there."""
    found = (info.base_name for info in _inside(*filesystem(location)))
    return {each for each in found if not is_hidden(each)}


def describe(location: str) -> Entry:
    """Return the entry of one file.

    Raises:
        InputError: There is no file.
    """
    info = file_info(location)
    if info.type != pafs.FileType.File:
        raise InputError(f"{location} does not exist: expected a file or a folder.")
    if location.startswith("s3://"):
        return _describe_s3(location)
    parent, base = posixpath.split(location)
    return _entry(info, parent, info.path.removesuffix(base).rstrip("/"))


def _describe_s3(location: str) -> Entry:
    """Ask boto3, as pyarrow tells no ETag."""
    authority, key = s3.parts(location)
    with asking_why(location), s3.refusals(authority):
        head = s3.client(authority).head_object(Bucket=s3.name(authority), Key=key)
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
        names; None if there are more than ``MANY``.
    """
    if location.startswith("s3://"):
        return _children_s3(location)
    store, root = filesystem(location)
    seen = [info for info in _inside(store, root) if not is_hidden(info.base_name)]
    folders = [
        join(location, info.base_name) for info in seen if info.type == pafs.FileType.Directory
    ]
    files = [_entry(info, location, root) for info in seen if info.type == pafs.FileType.File]
    return None if len(folders) + len(files) > MANY else (folders, files)


def files_inside(location: str) -> Iterator[Entry]:
    """Yield the files right inside a folder, however many, hidden ones aside."""
    if location.startswith("s3://"):
        pages = _pages_s3(location, Delimiter="/")
        found = (entry for page in pages for entry in _entries_s3(location, page))
    else:
        store, root = filesystem(location)
        infos = _inside(store, root)
        found = (_entry(info, location, root) for info in infos if info.type == pafs.FileType.File)
    return (entry for entry in found if not is_hidden(entry.name))


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
    authority, _ = s3.parts(location)
    folders: list[str] = []
    files: list[Entry] = []
    for page in _pages_s3(location, Delimiter="/"):
        # One slash alone: the folder that has no name, below this one, is another.
        found = [item["Prefix"].removesuffix("/") for item in page.get("CommonPrefixes", ())]
        folders += [f"s3://{authority}/{prefix}" for prefix in found if not is_hidden(name(prefix))]
        files += [entry for entry in _entries_s3(location, page) if not is_hidden(entry.name)]
        if len(folders) + len(files) > MANY:
            return None
    return folders, files


def _pages_s3(location: str, **request: str) -> Iterator[dict[str, Any]]:
    filesystem(location)
    authority, prefix = s3.parts(location)
    prefix = f"{prefix}/" if prefix else ""
    listing = s3.client(authority).get_paginator("list_objects_v2")
    with s3.refusals(authority):
        yield from listing.paginate(Bucket=s3.name(authority), Prefix=prefix, **request)


def _entries_s3(location: str, page: dict[str, Any]) -> Iterator[Entry]:
    authority, prefix = s3.parts(location)
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
    try:
        scan = os.scandir(path)
    except FileNotFoundError:
        return []
    with scan as found:
        return [info for each in found if (info := _info_of(each, path))]


def _info_of(each: os.DirEntry[str], folder: str) -> pafs.FileInfo | None:
    """Return what there is by a name; None where it has gone, is no file, or leads back."""
    location = join(folder, os.fsencode(each.name).decode("utf-8", "replace"))
    try:
        if each.is_dir():
            return None if _leads_back(each) else pafs.FileInfo(location, pafs.FileType.Directory)
        if not each.is_file():
            return None
        told = each.stat()
    except FileNotFoundError:
        return None
    except OSError:
        # A link into what is closed, or to itself: whoever reads it is told.
        return pafs.FileInfo(location, pafs.FileType.File)
    return pafs.FileInfo(location, pafs.FileType.File, mtime_ns=told.st_mtime_ns, size=told.st_size)


def _leads_back(folder: os.DirEntry[str]) -> bool:
    """Tell a link to a folder on the way to it, which would be walked through without end."""
    path = Path(folder.path)
    return folder.is_symlink() and path.resolve() in {each.resolve() for each in path.parents}


def _entry(info: pafs.FileInfo, location: str, root: str) -> Entry:
    below = info.path.removeprefix(root).lstrip("/")
    etag = format(info.mtime_ns, "x") if info.mtime_ns else None
    return Entry(join(location, below), below, info.size, etag)
