"""FER2013's CSV files, class folders, zip and tar archives, walked through and cut into items.

A walk goes through a source in order and hands out its files and stretches of its rows as they
stand. What takes time, to parse them, can then be spread over a cluster: see ``fer.data.parsing``.
"""

import csv
import gzip
import posixpath
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, BinaryIO, Literal, cast

from fer import storage
from fer.errors import InputError, JobError
from fer.storage import listing
from fer.vision.decode import IMAGE_SUFFIXES, MAX_IMAGE_BYTES, ImageError

CSV_BLOCK_BYTES = 2**18
"""Rows are handed out in stretches of this size: some 28 of FER2013's, which stay in cache, and
whose parsing takes arrays small enough for the allocator to keep rather than to fetch anew."""

MAX_ROW_BYTES = 2**16
"""No row of 2,304 pixels is longer than 9,300 bytes; a longer one is not read to its end."""

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
NUM_TRIED = 8
"""Files of a folder that are tried to be read before all are; one that can be is enough."""

MEMBER_SEPARATOR = "!/"
"""Stands between an archive and its member in the name of an example."""

ItemKind = Literal["image", "rows", "archive", "rejected", "ignored"]


@dataclass(frozen=True)
class SourceItem:
    """A file, or a stretch of a CSV file's rows, as a source holds it.

    Attributes:
        kind: An image, rows, an archive that was not opened, or what takes no further part:
            rejected, or ignored (a README).
        source: Where it came from: a location, the archive's member after ``!/``.
        path: The part of ``source`` from the name that was given on: its folders may name the
            class and the split.
        data: The image's bytes, or the CSV file's header and rows; None where the image is still
            to be fetched from ``source``.
        first_row: Number of the first of the rows, counted from 1.
        size_bytes: Size of the image's file; None where that is not known before it is read.
        etag: ETag of the object that holds it.
        reason: Why it was rejected.
    """

    kind: ItemKind
    source: str
    path: str = ""
    data: bytes | None = None
    first_row: int = 0
    size_bytes: int | None = None
    etag: str | None = None
    reason: str = ""


def check_source(location: str) -> None:
    """Refuse a source that is not there, is empty or is of no known kind.

    Raises:
        InputError: It is one of those.
    """
    if not storage.exists(location):
        raise InputError(f"{location} does not exist: expected a CSV file, an archive or a folder.")
    if storage.is_folder(location):
        if listing.is_empty(location):
            raise InputError(f"{location} is empty: expected a folder of images, CSV or archives.")
    elif not _is_readable(location):
        raise InputError(
            f"{location} is of no known kind: expected a folder, an image, .csv, .csv.gz, "
            f"{', '.join(ARCHIVE_SUFFIXES)}."
        )


def check_readable(location: str) -> None:
    """Refuse a folder whose files may be listed and not read, before each of them is refused.

    Raises:
        InputError: The store refuses the first of them to these credentials.
    """
    if not storage.is_folder(location):
        return
    listed = list_items(islice(listing.walk(location), listing.PAGE_SIZE))
    files = [item.source for item in listed if item.kind in ("image", "archive")][:NUM_TRIED]
    if files and all(map(_is_refused, files)):
        raise InputError(
            f"{location} can be listed, but its first files can't be read: give these credentials "
            "the right to (s3:GetObject)."
        )


def _is_refused(file: str) -> bool:
    try:
        storage.read_bytes(file, max_bytes=1)
    except PermissionError:
        return True
    except OSError:
        # What ails a single image, its row will say.
        return False
    return False


def _is_readable(name: str) -> bool:
    lower = name.lower().removesuffix(".gz")
    return lower.endswith((".csv", *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)) or is_archive(name)


def is_csv(name: str) -> bool:
    """Tell whether a file's name is that of a table, packed or not."""
    return name.lower().removesuffix(".gz").endswith(".csv")


def is_archive(name: str) -> bool:
    """Tell whether a file's name is that of an archive that can be read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def containing_file(source: str) -> str:
    """Return the file that holds an item: its archive, or what it comes from itself."""
    parts = source.split(MEMBER_SEPARATOR)
    holders = (MEMBER_SEPARATOR.join(parts[:number]) for number in range(1, len(parts)))
    return next(filter(is_archive, holders), source)


def read_items(location: str, *, with_tables: bool = True) -> Iterator[SourceItem]:
    """Yield the items of a folder, an archive, a CSV file or an image, in order.

    What can't be read becomes a rejected item; memory holds one item at a time, whatever the
    size of the source.

    Args:
        location: The source.
        with_tables: Whether CSV files hold examples; else they are ignored.

    Raises:
        StoreError: A store refuses all that is in a bucket.
    """
    if not storage.is_folder(location):
        yield from _read_file(listing.describe(location), storage.base_name(location), with_tables)
        return
    for entry in listing.walk(location):
        path = storage.join(storage.base_name(location), entry.name)
        yield from _read_file(entry, path, with_tables)


def list_items(entries: Iterable[listing.Entry]) -> Iterator[SourceItem]:
    """Yield the images and the archives among files, and what is neither, without opening any."""
    for entry in entries:
        kind: ItemKind = "ignored"
        if _is_image(entry.name):
            kind = "image"
        elif is_archive(entry.name):
            kind = "archive"
        yield SourceItem(kind, entry.location, size_bytes=entry.size_bytes, etag=entry.etag)


def take(items: Iterable[SourceItem], limit: int | None) -> Iterator[SourceItem]:
    """Yield items until so many, without those that are ignored, have come."""
    taken = 0
    for item in items:
        yield item
        taken += item.kind != "ignored"
        if taken == limit:
            return


def _read_file(entry: listing.Entry, path: str, with_tables: bool) -> Iterator[SourceItem]:
    at = _Place(entry.location, path, entry.etag, with_tables)
    if _is_image(path):
        yield SourceItem("image", at.source, path, size_bytes=entry.size_bytes, etag=entry.etag)
        return
    if not _is_readable(path):
        yield SourceItem("ignored", at.source)
        return
    opener = storage.open_seekable if path.lower().endswith(".zip") else storage.open_stream
    try:
        with opener(entry.location) as stream:
            yield from _read_stream(stream, at)
    except (InputError, JobError):
        raise
    # Readers raise whatever a damaged file makes them stumble on.
    except Exception as error:
        storage.check_store(entry.location)
        yield at.failed(f"can't be read to its end: {_told(error)}", error)


@dataclass(frozen=True)
class _Place:
    source: str
    path: str
    etag: str | None
    with_tables: bool
    depth: int = 0

    def member(self, name: str) -> "_Place":
        # Archives that are made of "." name all in them so.
        inner, depth = MEMBER_SEPARATOR + name.removeprefix("./"), self.depth + 1
        return replace(self, source=self.source + inner, path=self.path + inner, depth=depth)

    def without_suffix(self, suffix: str) -> "_Place":
        return replace(self, path=self.path[: -len(suffix)])

    def reject(self, reason: str) -> SourceItem:
        return SourceItem("rejected", self.source, etag=self.etag, reason=reason)

    def failed(self, reason: str, error: Exception) -> SourceItem:
        # Of what its store did not hand out nothing was seen, so that an update tries it again.
        is_unseen = isinstance(error, OSError)
        return replace(self.reject(reason), etag=None if is_unseen else self.etag)

    def image(self, data: bytes | None, size_bytes: int) -> SourceItem:
        return SourceItem(
            "image", self.source, self.path, data, size_bytes=size_bytes, etag=self.etag
        )


def _read_stream(stream: BinaryIO, at: _Place) -> Iterator[SourceItem]:
    name = at.path.lower()
    if at.depth > 2:
        yield at.reject("archives more than three deep are not opened")
    elif name.endswith(".zip"):
        yield from _read_zip(stream, at)
    elif is_archive(name):
        yield from _read_tar(stream, at)
    elif name.endswith(".gz"):
        with gzip.open(stream) as unpacked:
            yield from _read_stream(cast(BinaryIO, unpacked), at.without_suffix(".gz"))
    elif name.endswith(".csv") and at.with_tables:
        yield from _read_csv(stream, at)
    elif _is_image(name):
        yield _read_image(stream, at)
    else:
        yield SourceItem("ignored", at.source)


def _read_image(stream: IO[bytes], at: _Place) -> SourceItem:
    data = stream.read(MAX_IMAGE_BYTES + 1)
    # What is too large goes on without its bytes, to be refused as any image of that size.
    return at.image(data if len(data) <= MAX_IMAGE_BYTES else None, len(data))


def _read_zip(stream: BinaryIO, at: _Place) -> Iterator[SourceItem]:
    if not stream.seekable() or at.depth:
        yield at.reject("is a zip archive inside another archive: unpack the outer one first")
        return
    with zipfile.ZipFile(stream) as archive:
        # In the order of the file, so that one read-ahead serves many members.
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            member = at.member(info.filename)
            if info.is_dir() or listing.is_hidden(info.filename):
                continue
            if _climbs_out(info.filename):
                yield member.reject("climbs out of its archive")
                continue
            if _is_image(info.filename) and info.file_size > MAX_IMAGE_BYTES:
                yield member.image(None, info.file_size)
                continue
            try:
                with archive.open(info) as unpacked:
                    yield from _read_stream(cast(BinaryIO, unpacked), member)
            except (InputError, JobError):
                raise
            except Exception as error:
                storage.check_store(at.source)
                yield member.failed(f"can't be unpacked: {_told(error)}", error)


def _read_tar(stream: BinaryIO, at: _Place) -> Iterator[SourceItem]:
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for info in archive:
            member = at.member(_readable(info.name))
            # A streamed tar file keeps a record of every member it passed.
            archive.members = []  # type: ignore[attr-defined]
            if info.isdir() or listing.is_hidden(info.name):
                continue
            unpacked = archive.extractfile(info) if info.isreg() else None
            if unpacked is None:
                yield member.reject("is a link or a device: expected a regular file")
            elif _climbs_out(info.name):
                yield member.reject("climbs out of its archive")
            elif _is_image(info.name) and info.size > MAX_IMAGE_BYTES:
                yield member.image(None, info.size)
            else:
                yield from _read_stream(cast(BinaryIO, unpacked), member)


def _readable(name: str) -> str:
    """Return a name whose bytes that are no UTF-8 are replaced, as tables and pages want it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _climbs_out(member: str) -> bool:
    return member.startswith(("/", "\\")) or ".." in member.replace("\\", "/").split("/")


def _read_csv(stream: IO[bytes], at: _Place) -> Iterator[SourceItem]:
    header = stream.readline(MAX_ROW_BYTES)
    if not {"emotion", "pixels"} <= set(columns := csv_columns(header)):
        found = ", ".join(columns)[:100]
        yield at.reject(f"has the columns {found!r}: expected emotion, pixels and perhaps Usage")
        return
    header, row, rest = header.rstrip(b"\r\n") + b"\n", 1, b""
    while block := stream.read(CSV_BLOCK_BYTES):
        rows, _, rest = (rest + block).rpartition(b"\n")
        if len(rest) > MAX_ROW_BYTES:
            yield at.reject(f"row {row} is longer than {MAX_ROW_BYTES:,} bytes: reading ends there")
            return
        if rows:
            yield SourceItem("rows", at.source, at.path, header + rows, first_row=row)
            row += rows.count(b"\n") + 1
    if rest:
        yield SourceItem("rows", at.source, at.path, header + rest, first_row=row)


def csv_columns(header: bytes) -> dict[str, int]:
    """Return the position of each column of a CSV file by its name, in lower case."""
    text = header.decode("utf-8-sig", errors="replace").strip()
    names = [name.strip().lower() for name in next(csv.reader([text]), [])]
    return {name: index for index, name in enumerate(names)}


def _is_image(name: str) -> bool:
    return posixpath.splitext(name.lower())[1] in IMAGE_SUFFIXES


def _told(error: Exception) -> str:
    told = storage.describe_error(error) if isinstance(error, OSError) else str(error)
    return told or type(error).__name__


def fetch_image(item: SourceItem) -> bytes:
    """Return an image item's bytes, read from its source where it does not carry them.

    Raises:
        ImageError: It is too large to be read.
        OSError: It can't be read.
        StoreError: A store refuses all that is in its bucket.
    """
    if item.data is not None:
        return item.data
    if (item.size_bytes or 0) <= MAX_IMAGE_BYTES:
        # What was listed may be wrong by now, or nothing at all.
        data = storage.read_bytes(item.source, MAX_IMAGE_BYTES + 1)
        if len(data) <= MAX_IMAGE_BYTES:
            return data
    raise ImageError("too_large", f"The file has more than {MAX_IMAGE_BYTES:,} bytes.")
