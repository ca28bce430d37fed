"""Check and list sources: folders, archives, tables and single files."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from fer import storage
from fer.data.items import ItemKind, SourceItem
from fer.data.kinds import (
    ARCHIVE_SUFFIXES,
    is_archive,
    is_image,
    is_packed_image,
    is_supported,
    is_unknown,
    is_video,
)
from fer.errors import InputError
from fer.storage import listing

NUM_PROBED_FILES = 8
"""Files of a folder that ``check_readable`` tries to read. One readable file is enough."""


def check_source(location: str, *, all_files: bool = False, with_videos: bool = False) -> None:
    """Check that a source exists, is not empty and is of a supported kind.

    Args:
        location: The source.
        all_files: Whether a file may have any name.
        with_videos: Whether a file may be a video.

    Raises:
        InputError: One of these does not hold.
    """
    if not storage.exists(location):
        raise InputError(f"{location} does not exist: expected a file or a folder.")
    if storage.is_folder(location):
        if listing.is_empty(location):
            raise InputError(
                f"{location} is empty: expected a folder of images, CSV files or archives."
            )
    elif with_videos and is_video(location):
        return
    elif not is_supported(location) and not all_files:
        raise InputError(
            f"{location} is not a supported source: expected a folder, an image, or a file that "
            f"ends in .csv, .csv.gz, .parquet, {', '.join(ARCHIVE_SUFFIXES)}; give --all-files if "
            "it is an image by another name."
        )


def names_of(locations: Sequence[str]) -> list[str]:
    """Return the name of each source: its path below the folder that all of them share.

    The folders of a name may tell a class and a split, as in ``train/happy`` and ``test/happy``.
    Sources that share no disk and no bucket have the last segments of their locations as names.
    """
    root, *others = {_root(location) for location in locations}
    if others or len(locations) == 1:
        return [storage.base_name(location) for location in locations]
    paths = [location.removeprefix(root) for location in locations]
    shared = posixpath.commonpath(map(posixpath.dirname, paths))
    return [path.removeprefix(shared).lstrip("/") for path in paths]


def _root(location: str) -> str:
    """Return the scheme and the bucket of a location; empty for a local path."""
    return "/".join(location.split("/")[:3]) if storage.is_uri(location) else ""


def check_readable(location: str, *, all_files: bool = False) -> None:
    """Check that the credentials may read a folder's files, and not only list them.

    Otherwise a job would only find out by having every single file refused.

    Args:
        location: The source.
        all_files: Whether the job opens files of any name.

    Raises:
        InputError: The store denies access to the first files.
    """
    if not storage.is_folder(location):
        return
    items = list_items(islice(listing.walk(location), listing.PAGE_SIZE), all_files=all_files)
    kinds = ("image", "video", "unknown", "archive")
    files = [item.source for item in items if item.kind in kinds]
    probed = files[:NUM_PROBED_FILES]
    if probed and all(map(_is_denied, probed)):
        raise InputError(
            f"{location} can be listed, but its first files can't be read: grant these credentials "
            "s3:GetObject."
        )


def _is_denied(file: str) -> bool:
    try:
        storage.read_bytes(file, max_bytes=1)
    except PermissionError:
        return True
    except OSError:
        # The problem of a single image is reported later, with that image.
        return False
    return False


def list_items(
    entries: Iterable[listing.Entry], *, all_files: bool = False
) -> Iterator[SourceItem]:
    """Turn listed files into items, videos included, without opening the files.

    Args:
        entries: The files.
        all_files: Whether files whose names do not say what they are become ``unknown``; otherwise
            they are ignored.
    """
    for entry in entries:
        kind = _kind_by_name(entry.name, all_files=all_files)
        if entry.problem:
            yield SourceItem("rejected", entry.location, reason=entry.problem, code="not_a_file")
        else:
            yield SourceItem(kind, entry.location, size_bytes=entry.size_bytes, etag=entry.etag)


def _kind_by_name(name: str, *, all_files: bool) -> ItemKind:
    if is_image(name):
        return "image"
    if is_video(name):
        return "video"
    if is_archive(name) or is_packed_image(name):
        return "archive"
    return "unknown" if all_files and is_unknown(name) else "ignored"


def take(items: Iterable[SourceItem], limit: int | None) -> Iterator[SourceItem]:
    """Yield items until ``limit`` of them are not ignored; all items if ``limit`` is None."""
    count = 0
    for item in items:
        yield item
        count += item.kind != "ignored"
        if count == limit:
            return
