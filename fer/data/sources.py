"""Read sources: FER2013's CSV files, class folders, zip and tar archives.

A source is read sequentially into items: encoded images and blocks of CSV rows. Parsing takes most
of the time, so it is a separate step that a cluster can run in parallel: see ``fer.data.parsing``.
"""

import gzip
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import IO, Literal, cast

from fer import storage
from fer.data.tables import TableError, read_csv_blocks
from fer.errors import InputError, JobError
from fer.storage import listing
from fer.vision.decode import IMAGE_SUFFIXES, MAX_IMAGE_BYTES, ImageError

TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)

MAX_ARCHIVE_DEPTH = 2
"""Archives that an image may be nested in: a tar file in a zip or tar file."""

NUM_PROBED_FILES = 8
"""Files of a folder that ``check_readable`` tries to read. One readable file is enough."""

MEMBER_SEPARATOR = "!/"
"""Separates an archive from its member in the name of an example."""

ItemKind = Literal["image", "rows", "archive", "rejected", "ignored"]


@dataclass(frozen=True)
class SourceItem:
    """A file of a source, or a block of rows of a CSV file.

    Attributes:
        kind: ``image``, ``rows``, ``archive`` (unopened), ``rejected`` (damaged or unsupported) or
            ``ignored`` (of another kind, such as a README).
        source: Location of the file. A member follows its archive and ``!/``.
        path: The end of ``source`` that starts with the name of the source that the user gave. Its
            folders may name the class and the split.
        data: Encoded image, or header and rows of the CSV file. None if the image has yet to be
            fetched from ``source``.
        first_row: Number of the first row, counted from 1.
        size_bytes: Size of the image file; None if it is unknown before the file is read.
        etag: ETag of the file, or of the archive that contains it.
        reason: Why the item was rejected.
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
    """Check that a source exists, is not empty and is of a supported kind.

    Raises:
        InputError: One of these does not hold.
    """
    if not storage.exists(location):
        raise InputError(f"{location} does not exist: expected a CSV file, an archive or a folder.")
    if storage.is_folder(location):
        if listing.is_empty(location):
            raise InputError(
                f"{location} is empty: expected a folder of images, CSV files or archives."
            )
    elif not _is_supported(location):
        raise InputError(
            f"{location} is not a supported source: expected a folder, an image, or a file that "
            f"ends in .csv, .csv.gz, {', '.join(ARCHIVE_SUFFIXES)}."
        )


def check_readable(location: str) -> None:
    """Check that the credentials may read a folder's files, and not only list them.

    Otherwise a job would only find out by having every single file refused.

    Raises:
        InputError: The store denies access to the first files.
    """
    if not storage.is_folder(location):
        return
    items = list_items(islice(listing.walk(location), listing.PAGE_SIZE))
    files = [item.source for item in items if item.kind in ("image", "archive")]
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


def _is_supported(name: str) -> bool:
    lower = name.lower().removesuffix(".gz")
    return lower.endswith((".csv", *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)) or is_archive(name)


def _is_image(name: str) -> bool:
    return posixpath.splitext(name.lower())[1] in IMAGE_SUFFIXES


def is_archive(name: str) -> bool:
    """Return whether a file name is that of a supported archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def containing_file(source: str) -> str:
    """Return the outermost archive that contains an item, or ``source`` itself if there is none."""
    segments = source.split(MEMBER_SEPARATOR)
    prefixes = (MEMBER_SEPARATOR.join(segments[:number]) for number in range(1, len(segments)))
    # A folder's name may end in "!", so the prefix must also look like an archive.
    return next(filter(is_archive, prefixes), source)


def read_items(location: str, *, with_tables: bool = True) -> Iterator[SourceItem]:
    """Yield the items of a folder, an archive, a CSV file or an image, in order.

    A file that cannot be read becomes a rejected item. Memory holds one item at a time, whatever
    the size of the source.

    Args:
        location: The source.
        with_tables: Whether to read CSV files; otherwise they are ignored.

    Raises:
        StoreError: The store refuses access to the whole bucket.
    """
    if not storage.is_folder(location):
        yield from _read_file(listing.describe(location), storage.base_name(location), with_tables)
        return
    for entry in listing.walk(location):
        path = storage.join(storage.base_name(location), entry.name)
        yield from _read_file(entry, path, with_tables)


def list_items(entries: Iterable[listing.Entry]) -> Iterator[SourceItem]:
    """Turn listed files into items, without opening the files."""
    for entry in entries:
        kind: ItemKind = "ignored"
        if _is_image(entry.name):
            kind = "image"
        elif is_archive(entry.name):
            kind = "archive"
        yield SourceItem(kind, entry.location, size_bytes=entry.size_bytes, etag=entry.etag)


def take(items: Iterable[SourceItem], limit: int | None) -> Iterator[SourceItem]:
    """Yield items until ``limit`` of them are not ignored; all items if ``limit`` is None."""
    count = 0
    for item in items:
        yield item
        count += item.kind != "ignored"
        if count == limit:
            return


# Readers: one for each kind of file.


def _read_file(entry: listing.Entry, path: str, with_tables: bool) -> Iterator[SourceItem]:
    """Yield the items of a file: an image is not opened, other files are."""
    origin = _Origin(entry.location, path, entry.etag, with_tables)
    if _is_image(path):
        yield origin.image(None, entry.size_bytes)
        return
    if not _is_supported(path):
        yield origin.ignore()
        return
    # The directory of a zip file is at its end; the other kinds are read from start to end.
    opener = storage.open_seekable if path.lower().endswith(".zip") else storage.open_stream
    try:
        with opener(entry.location) as stream:
            yield from _read_stream(stream, origin)
    except (InputError, JobError):
        raise
    # The libraries raise all kinds of exceptions on damaged files.
    except Exception as error:
        storage.check_store(entry.location)
        yield origin.fail(f"can't be read to its end: {_error_text(error)}", error)


@dataclass(frozen=True)
class _Origin:
    """The file or archive member that is being read, and the items to make of it.

    Attributes:
        depth: Number of archives that contain it.

    The other attributes are those of ``SourceItem`` and ``read_items``.
    """

    source: str
    path: str
    etag: str | None
    with_tables: bool
    depth: int = 0

    def member(self, name: str) -> "_Origin":
        # `tar -czf faces.tgz .` puts "./" before every name.
        suffix, depth = MEMBER_SEPARATOR + name.removeprefix("./"), self.depth + 1
        return replace(self, source=self.source + suffix, path=self.path + suffix, depth=depth)

    def without_suffix(self, suffix: str) -> "_Origin":
        return replace(self, path=self.path[: -len(suffix)])

    def image(self, data: bytes | None, size_bytes: int) -> SourceItem:
        return SourceItem(
            "image", self.source, self.path, data, size_bytes=size_bytes, etag=self.etag
        )

    def rows(self, data: bytes, first_row: int) -> SourceItem:
        return SourceItem("rows", self.source, self.path, data, first_row=first_row)

    def ignore(self) -> SourceItem:
        return SourceItem("ignored", self.source)

    def reject(self, reason: str) -> SourceItem:
        return SourceItem("rejected", self.source, etag=self.etag, reason=reason)

    def fail(self, reason: str, error: Exception) -> SourceItem:
        """Reject the file, and leave out its ETag after an I/O error.

        The content was not seen then. Without an ETag, an update reads the file again.
        """
        rejected = self.reject(reason)
        return replace(rejected, etag=None) if isinstance(error, OSError) else rejected


def _read_stream(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    """Yield the items of an open file with the reader for its name."""
    if origin.depth > MAX_ARCHIVE_DEPTH:
        yield origin.reject(
            f"is nested in more than {MAX_ARCHIVE_DEPTH} archives: unpack the outer ones first"
        )
        return
    name = origin.path.lower()
    reader = next((reader for suffix, reader in _READERS if name.endswith(suffix)), None)
    if reader is not None:
        yield from reader(stream, origin)
    elif _is_image(name):
        yield _read_image(stream, origin)
    else:
        yield origin.ignore()


def _read_image(stream: IO[bytes], origin: _Origin) -> SourceItem:
    data = stream.read(MAX_IMAGE_BYTES + 1)
    # An image that is too large keeps its size but not its bytes; `fetch_image` rejects it.
    return origin.image(data if len(data) <= MAX_IMAGE_BYTES else None, len(data))


def _read_zip(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    if not stream.seekable() or origin.depth:
        yield origin.reject("is a zip archive inside another archive: unpack the outer one first")
        return
    with zipfile.ZipFile(stream) as archive:
        # Members are read in the order of their data, so that one read-ahead serves many of them.
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if info.is_dir() or listing.is_hidden(info.filename):
                continue
            member = origin.member(info.filename)
            try:
                unpack = partial(archive.open, info)
                yield from _read_member(unpack, info.filename, info.file_size, member)
            except (InputError, JobError):
                raise
            except Exception as error:
                storage.check_store(origin.source)
                yield member.fail(f"can't be unpacked: {_error_text(error)}", error)


def _read_tar(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for info in archive:
            # tarfile keeps a record of every member, which would fill the memory.
            archive.members = []  # type: ignore[attr-defined]
            if info.isdir() or listing.is_hidden(info.name):
                continue
            member = origin.member(_to_utf8(info.name))
            if info.isreg():
                unpack = cast(Callable[[], IO[bytes]], partial(archive.extractfile, info))
                yield from _read_member(unpack, info.name, info.size, member)
            else:
                yield member.reject("is a link or a device: expected a regular file")


def _read_member(
    unpack: Callable[[], IO[bytes]], name: str, size_bytes: int, member: _Origin
) -> Iterator[SourceItem]:
    """Yield the items of a regular file in an archive, unless its path or size is unacceptable.

    Args:
        unpack: Opens the member.
        name: Path of the member in the archive.
        size_bytes: Unpacked size of the member.
        member: Origin of the member.
    """
    if _leads_outside(name):
        yield member.reject("has a path that leads out of its archive")
    elif _is_image(name) and size_bytes > MAX_IMAGE_BYTES:
        # Not unpacked: `fetch_image` rejects an image of this size.
        yield member.image(None, size_bytes)
    else:
        with unpack() as stream:
            yield from _read_stream(stream, member)


def _to_utf8(name: str) -> str:
    """Replace the bytes of a tar member's name that are not valid UTF-8, which Parquet refuses."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _leads_outside(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")


def _read_gzip(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    with gzip.open(stream) as unpacked:
        yield from _read_stream(cast(IO[bytes], unpacked), origin.without_suffix(".gz"))


def _read_csv(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    """Yield a CSV file in blocks of rows."""
    if not origin.with_tables:
        yield origin.ignore()
        return
    try:
        for block in read_csv_blocks(stream):
            yield origin.rows(*block)
    except TableError as error:
        yield origin.reject(str(error))


_READERS: tuple[
    tuple[str | tuple[str, ...], Callable[[IO[bytes], _Origin], Iterator[SourceItem]]], ...
] = (
    (".zip", _read_zip),
    (TAR_SUFFIXES, _read_tar),
    (".gz", _read_gzip),
    (".csv", _read_csv),
)
"""Reader for each kind of file by the end of its name. The first match counts: ``.tar.gz`` is a tar
archive, any other ``.gz`` a single compressed file."""


def _error_text(error: Exception) -> str:
    text = storage.describe_error(error) if isinstance(error, OSError) else str(error)
    return text or type(error).__name__


def fetch_image(item: SourceItem) -> bytes:
    """Return the encoded image of an item, and read it from its source if necessary.

    Raises:
        ImageError: The file is larger than ``MAX_IMAGE_BYTES``.
        OSError: The file cannot be read.
        StoreError: The store refuses access to the whole bucket.
    """
    if item.data is not None:
        return item.data
    if (item.size_bytes or 0) <= MAX_IMAGE_BYTES:
        # The listed size may be outdated or unknown, so the read is limited as well.
        data = storage.read_bytes(item.source, MAX_IMAGE_BYTES + 1)
        if len(data) <= MAX_IMAGE_BYTES:
            return data
    raise ImageError("too_large", f"The file has more than {MAX_IMAGE_BYTES:,} bytes.")
