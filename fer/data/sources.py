"""Read sources: FER2013's CSV files, class folders, zip and tar archives.

A source is read sequentially into items: encoded images and blocks of CSV rows. Parsing takes most
of the time, so it is a separate step that a cluster can run in parallel: see ``fer.data.parsing``.
"""

import gzip
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import IO, Literal, cast

from fer import storage
from fer.data.kinds import (
    ARCHIVE_SUFFIXES,
    TAR_SUFFIXES,
    is_archive,
    is_image,
    is_packed_image,
    is_raw,
    is_video,
)
from fer.data.rejects import RejectCode, RejectedError
from fer.data.tables import read_csv_blocks, read_parquet_rows
from fer.errors import InputError, JobError
from fer.storage import listing
from fer.storage.local import escape_bytes
from fer.vision import signatures
from fer.vision.decode import IMAGE_SUFFIXES, MAX_IMAGE_BYTES, ImageError

MAX_ARCHIVE_DEPTH = 2
"""Archives that an image may be nested in: a tar file in a zip or tar file."""

NUM_PROBED_FILES = 8
"""Files of a folder that ``check_readable`` tries to read. One readable file is enough."""

LABEL_LIST = "list_patition_label.txt"
"""Name of the file by which RAF-DB tells the classes of its images, as its authors spell it."""

MEMBER_SEPARATOR = "!/"
"""Separates an archive from its member in the name of an example."""

ENCRYPTED_FLAG, UTF8_FLAG = 0x1, 0x800
"""Bits of a zip member's flags (PKWARE's APPNOTE 6.3.10, section 4.4.4)."""

ItemKind = Literal[
    "image", "video", "unknown", "rows", "label_list", "archive", "rejected", "ignored"
]


@dataclass(frozen=True)
class SourceItem:
    """A file of a source, or a block of rows of a CSV file.

    Attributes:
        kind: ``image``, ``video`` (if videos are wanted), ``unknown`` (perhaps an image, as its
            content will tell), ``rows``, ``label_list`` (see ``fer.data.annotations``), ``archive``
            (unopened), ``rejected`` (damaged or unsupported) or ``ignored`` (of another kind, such
            as a README).
        source: Location of the file. A member follows its archive and ``!/``.
        path: The end of ``source`` that starts with the name of the source that the user gave. Its
            folders may name the class and the split.
        data: Encoded image, header and rows of the CSV file, the label list, or which frames of a
            video are meant (see ``fer.vision.video``). None if the image has yet to be fetched from
            ``source``.
        first_row: Number of the first row, counted from 1.
        size_bytes: Size of the image file; None if it is unknown before the file is read.
        etag: ETag of the file, or of the archive that contains it.
        reason: Why the item was rejected.
        code: Kind of the reject.
        format: Name of the format that told the class of an image, if it was no folder.
        label: Class name or number of an image in that format.
    """

    kind: ItemKind
    source: str
    path: str = ""
    data: bytes | None = None
    first_row: int = 0
    size_bytes: int | None = None
    etag: str | None = None
    reason: str = ""
    code: RejectCode = "unreadable"
    format: str = ""
    label: str = ""


class NotAnImageError(Exception):
    """A file whose name does not say what it is, and whose content is no image."""


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
    elif not _is_supported(location) and not all_files:
        raise InputError(
            f"{location} is not a supported source: expected a folder, an image, or a file that "
            f"ends in .csv, .csv.gz, .parquet, {', '.join(ARCHIVE_SUFFIXES)}; give --all-files if "
            "it is an image by another name."
        )


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


def _is_supported(name: str) -> bool:
    lower = name.lower().removesuffix(".gz")
    suffixes = (".csv", ".parquet", LABEL_LIST, *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)
    return lower.endswith(suffixes) or is_archive(name)


def _is_unknown(name: str) -> bool:
    """Return whether a file name says nothing about what the file is, or nothing that counts."""
    return not _is_supported(name) and not is_raw(name)


def containing_file(source: str) -> str:
    """Return the outermost archive that contains an item, or ``source`` itself if there is none."""
    segments = source.split(MEMBER_SEPARATOR)
    prefixes = (MEMBER_SEPARATOR.join(segments[:number]) for number in range(1, len(segments)))
    # A folder's name may end in "!", so the prefix must also look like an archive.
    return next(filter(is_archive, prefixes), source)


def read_items(
    location: str, *, with_tables: bool = True, all_files: bool = False
) -> Iterator[SourceItem]:
    """Yield the items of a folder, an archive, a CSV file or an image, in order.

    A file that cannot be read becomes a rejected item. Memory holds one item at a time, whatever
    the size of the source.

    Args:
        location: The source.
        with_tables: Whether to read CSV files; otherwise they are ignored.
        all_files: Whether files whose names do not say what they are become ``unknown``; otherwise
            they are ignored. Those in archives become images or are ignored.

    Raises:
        StoreError: The store refuses access to the whole bucket.
    """
    name, is_folder = storage.base_name(location), storage.is_folder(location)
    entries = listing.walk(location) if is_folder else iter([listing.describe(location)])
    for entry in entries:
        path = storage.join(name, entry.name) if is_folder else name
        origin = _Origin(entry.location, _composed(path), entry.etag, with_tables, all_files)
        yield from _read_file(entry, origin)


def _composed(path: str) -> str:
    """Compose letters and accents: macOS takes them apart, and classes are typed as one."""
    return unicodedata.normalize("NFC", path)


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
    return "unknown" if all_files and _is_unknown(name) else "ignored"


def take(items: Iterable[SourceItem], limit: int | None) -> Iterator[SourceItem]:
    """Yield items until ``limit`` of them are not ignored; all items if ``limit`` is None."""
    count = 0
    for item in items:
        yield item
        count += item.kind != "ignored"
        if count == limit:
            return


# Readers: one for each kind of file.


def _read_file(entry: listing.Entry, origin: "_Origin") -> Iterator[SourceItem]:
    """Yield the items of a file: one that may be an image is not opened, other files are."""
    path = origin.path
    if entry.problem:
        yield origin.reject(entry.problem, "not_a_file")
        return
    if is_image(path):
        yield origin.image(None, entry.size_bytes)
        return
    if not origin.is_wanted(path):
        yield origin.ignore()
        return
    if _is_unknown(path):
        yield replace(origin.image(None, entry.size_bytes), kind="unknown")
        return
    # Zip and Parquet files have a directory at their end; others are read from start to end.
    is_indexed = path.lower().endswith((".zip", ".parquet"))
    opener = storage.open_seekable if is_indexed else storage.open_stream
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
    all_files: bool
    depth: int = 0

    def member(self, name: str) -> "_Origin":
        suffix, depth = MEMBER_SEPARATOR + name, self.depth + 1
        path = self.path + _composed(suffix)
        return replace(self, source=self.source + suffix, path=path, depth=depth)

    def is_wanted(self, name: str) -> bool:
        """Return whether a file of a name is to be opened."""
        return _is_supported(name) or (self.all_files and _is_unknown(name))

    def without_suffix(self, suffix: str) -> "_Origin":
        return replace(self, path=self.path[: -len(suffix)])

    def image(self, data: bytes | None, size_bytes: int) -> SourceItem:
        return SourceItem(
            "image", self.source, self.path, data, size_bytes=size_bytes, etag=self.etag
        )

    def table_image(self, row: int, data: bytes | None, label: str) -> SourceItem:
        source = f"{self.source}#{row}"
        if data is None:
            return SourceItem("rejected", source, reason="has no image", code="no_image")
        image = replace(self, source=source).image(data, len(data))
        return replace(image, format="hugging_face", label=label)

    def rows(self, data: bytes, first_row: int) -> SourceItem:
        return SourceItem("rows", self.source, self.path, data, first_row=first_row)

    def ignore(self) -> SourceItem:
        return SourceItem("ignored", self.source)

    def reject(self, reason: str, code: RejectCode = "unreadable") -> SourceItem:
        return SourceItem("rejected", self.source, etag=self.etag, reason=reason, code=code)

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
            f"is nested in more than {MAX_ARCHIVE_DEPTH} archives: unpack the outer ones first",
            "nested_archive",
        )
        return
    name = origin.path.lower()
    reader = next((reader for suffix, reader in _READERS if name.endswith(suffix)), None)
    if reader is not None:
        yield from reader(stream, origin)
    elif is_image(name):
        yield _read_image(stream, origin)
    elif origin.is_wanted(name) and signatures.is_image(
        start := stream.read(signatures.SIGNATURE_BYTES)
    ):
        yield _read_image(stream, origin, start)
    else:
        yield origin.ignore()


def _read_image(stream: IO[bytes], origin: _Origin, start: bytes = b"") -> SourceItem:
    """Return the image in a stream of which ``start`` has been read."""
    data = start + stream.read(MAX_IMAGE_BYTES + 1 - len(start))
    # An image that is too large keeps its size but not its bytes; `fetch_image` rejects it.
    return origin.image(data if len(data) <= MAX_IMAGE_BYTES else None, len(data))


def _read_zip(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    if not stream.seekable() or origin.depth:
        yield origin.reject(
            "is a zip archive inside another archive: unpack the outer one first", "nested_archive"
        )
        return
    try:
        archive = _open_zip(stream)
    except RejectedError as error:
        yield origin.reject(error.reason, error.code)
        return
    with archive:
        # Members are read in the order of their data, so that one read-ahead serves many of them.
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            name = _member_name(_zip_name(info))
            if name.endswith("/") or listing.is_hidden(name):
                continue
            member = origin.member(name)
            if info.flag_bits & ENCRYPTED_FLAG and origin.is_wanted(name):
                yield member.reject("is encrypted: unpack the archive first", "encrypted")
                continue
            try:
                unpack = partial(archive.open, info)
                yield from _read_member(unpack, name, info.file_size, member)
            except (InputError, JobError):
                raise
            except Exception as error:
                storage.check_store(origin.source)
                yield member.fail(f"can't be unpacked: {_error_text(error)}", error)


def _open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except UnicodeDecodeError as error:
        raise RejectedError(
            "unreadable", "has names that are marked as UTF-8 and are not: pack it again"
        ) from error
    # pyarrow's files raise a ValueError where zipfile seeks before the start of a short file.
    except (zipfile.BadZipFile, ValueError) as error:
        raise RejectedError(
            "unreadable", "is not a zip archive, or lacks its end: fetch it again"
        ) from error


def _read_tar(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    with tarfile.open(fileobj=stream, mode="r|*", encoding="utf-8") as archive:
        for info in archive:
            # tarfile keeps a record of every member, which would fill the memory.
            archive.members = []  # type: ignore[attr-defined]
            name = _member_name(info.name)
            if info.isdir() or listing.is_hidden(name):
                continue
            member = origin.member(name)
            if info.isreg():
                unpack = cast(Callable[[], IO[bytes]], partial(archive.extractfile, info))
                yield from _read_member(unpack, name, info.size, member)
            else:
                yield member.reject("is a link or a device: expected a regular file", "not_a_file")


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
        yield member.reject("has a path that leads out of its archive", "unsafe_path")
    elif is_image(name) and size_bytes > MAX_IMAGE_BYTES:
        # Not unpacked: `fetch_image` rejects an image of this size.
        yield member.image(None, size_bytes)
    elif not member.is_wanted(name):
        yield member.ignore()
    else:
        with unpack() as stream:
            yield from _read_stream(stream, member)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, decoded as UTF-8 wherever it is valid UTF-8.

    Only flagged names should be, but macOS does not flag them.
    """
    if info.flag_bits & UTF8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _member_name(name: str) -> str:
    """Return a member's path in an archive with slashes, whatever its tool wrote.

    .NET wrote backslashes until 4.6.1, and ``tar -czf faces.tgz .`` writes "./" before each name.
    Bytes of a tar member's name that are not valid UTF-8 become escapes, as in local names.
    """
    name = name.replace("\\", "/").removeprefix("./")
    return escape_bytes(name.encode("utf-8", "surrogateescape"))


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


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
    except RejectedError as error:
        yield origin.reject(error.reason, error.code)


def _read_parquet(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    """Yield the images of a Parquet file as Hugging Face stores them."""
    if not origin.with_tables:
        yield origin.ignore()
        return
    if origin.depth:
        yield origin.reject(
            "is a Parquet file inside an archive: unpack the archive first", "nested_archive"
        )
        return
    try:
        for number, row in enumerate(read_parquet_rows(stream), start=1):
            yield origin.table_image(number, row.image, row.label)
    except RejectedError as error:
        yield origin.reject(error.reason, error.code)


def _read_label_list(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    if origin.with_tables:
        yield SourceItem("label_list", origin.source, data=stream.read(MAX_IMAGE_BYTES))
    else:
        yield origin.ignore()


_READERS: tuple[
    tuple[str | tuple[str, ...], Callable[[IO[bytes], _Origin], Iterator[SourceItem]]], ...
] = (
    (".zip", _read_zip),
    (TAR_SUFFIXES, _read_tar),
    (".gz", _read_gzip),
    (".csv", _read_csv),
    (".parquet", _read_parquet),
    (LABEL_LIST, _read_label_list),
)
"""Reader for each kind of file by the end of its name. The first match counts: ``.tar.gz`` is a tar
archive, any other ``.gz`` a single compressed file."""


def _error_text(error: Exception) -> str:
    text = storage.describe_error(error) if isinstance(error, OSError) else str(error)
    return text or type(error).__name__


def fetch_image(item: SourceItem) -> bytes:
    """Return the encoded image of an item, and read it from its source if necessary.

    Raises:
        NotAnImageError: The item is ``unknown``, and its content is no image.
        ImageError: The file is larger than ``MAX_IMAGE_BYTES``.
        OSError: The file cannot be read.
        StoreError: The store refuses access to the whole bucket.
    """
    if item.data is not None:
        return item.data
    if (item.size_bytes or 0) <= MAX_IMAGE_BYTES:
        # The listed size may be outdated or unknown, so the read is limited as well.
        data = storage.read_bytes(item.source, MAX_IMAGE_BYTES + 1)
        if item.kind == "unknown" and not signatures.is_image(data):
            raise NotAnImageError(item.source)
        if len(data) <= MAX_IMAGE_BYTES:
            return data
    elif item.kind == "unknown" and not may_be_image(item.source):
        raise NotAnImageError(item.source)
    raise ImageError("too_large", f"The file has more than {MAX_IMAGE_BYTES:,} bytes.")


def may_be_image(source: str) -> bool:
    """Return whether a file begins like an image, or can't be read to tell."""
    try:
        return signatures.is_image(storage.read_bytes(source, signatures.SIGNATURE_BYTES))
    except OSError:
        # The problem of a single image is reported later, with that image.
        return True
