"""Read sources into items: FER2013's CSV files, class folders, zip and tar archives.

A source is read sequentially into items: encoded images and blocks of CSV rows. Parsing takes most
of the time, so it is a separate step that a cluster can run in parallel: see ``fer.data.parsing``.
"""

import gzip
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Self, cast

from fer import storage
from fer.data.items import MEMBER_SEPARATOR, SourceItem
from fer.data.kinds import LABEL_LIST, TAR_SUFFIXES, is_image, is_supported, is_unknown, is_video
from fer.data.rejects import RejectCode, RejectedError
from fer.data.tables import read_csv_blocks, read_parquet_rows
from fer.errors import InputError, JobError
from fer.storage import listing
from fer.storage.local import escape_bytes
from fer.vision import signatures
from fer.vision.decode import MAX_IMAGE_BYTES

MAX_ARCHIVE_DEPTH = 2
"""Archives that an image may be nested in: a tar file in a zip or tar file."""

ENCRYPTED_FLAG, UTF8_FLAG = 0x1, 0x800
"""Bits of a zip member's flags (PKWARE's APPNOTE 6.3.10, section 4.4.4)."""


def read_items(
    location: str,
    *,
    with_tables: bool = True,
    with_videos: bool = False,
    all_files: bool = False,
) -> Iterator[SourceItem]:
    """Yield the items of a folder, an archive, a CSV file or an image, in order.

    A file that cannot be read becomes a rejected item. Memory holds one item at a time, whatever
    the size of the source.

    Args:
        location: The source.
        with_tables: Whether to read CSV files; otherwise they are ignored.
        with_videos: Whether to read the videos of archives; otherwise they are ignored.
        all_files: Whether files whose names do not say what they are become ``unknown``; otherwise
            they are ignored. Those in archives become images or are ignored.

    Raises:
        StoreError: The store refuses access to the whole bucket.
    """
    name, is_folder = storage.base_name(location), storage.is_folder(location)
    entries = listing.walk(location) if is_folder else iter([listing.describe(location)])
    for entry in entries:
        path = storage.join(name, entry.name) if is_folder else name
        wanted = (with_tables, with_videos, all_files)
        origin = _Origin(entry.location, _composed(path), entry.etag, *wanted)
        yield from _read_file(entry, origin)


def _composed(path: str) -> str:
    """Compose letters and accents: macOS takes them apart, and classes are typed as one."""
    return unicodedata.normalize("NFC", path)


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
    if is_unknown(path):
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
    with_videos: bool
    all_files: bool
    depth: int = 0

    def member(self, name: str) -> "_Origin":
        suffix, depth = MEMBER_SEPARATOR + name, self.depth + 1
        path = self.path + _composed(suffix)
        return replace(self, source=self.source + suffix, path=path, depth=depth)

    def is_wanted(self, name: str) -> bool:
        """Return whether a file of a name is to be opened."""
        return (
            is_supported(name)
            or (self.with_videos and is_video(name))
            or (self.all_files and is_unknown(name))
        )

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

    def reject_large_video(self) -> SourceItem:
        limit = MAX_IMAGE_BYTES // 2**20
        return self.reject(f"is a video of more than {limit} MiB: unpack the archive first")

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
    elif origin.with_videos and is_video(name):
        yield _read_video(stream, origin)
    elif origin.is_wanted(name):
        yield _read_unknown(stream, origin)
    else:
        yield origin.ignore()


def _read_unknown(stream: IO[bytes], origin: _Origin) -> SourceItem:
    """Return the image or the video in a stream whose name does not say what it is."""
    start = stream.read(signatures.VIDEO_SIGNATURE_BYTES)
    if signatures.is_image(start):
        return _read_image(stream, origin, start)
    if origin.with_videos and signatures.is_video(start):
        return _read_video(stream, origin, start)
    return origin.ignore()


def _read_video(stream: IO[bytes], origin: _Origin, start: bytes = b"") -> SourceItem:
    """Return the video in a stream of which ``start`` has been read."""
    video = _read_image(stream, origin, start)
    return origin.reject_large_video() if video.data is None else replace(video, kind="video")


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
        # A member that was added again replaces the earlier ones of its name, as when unpacked.
        members = {_member_name(_zip_name(info)): info for info in archive.infolist()}
        # Members are read in the order of their data, so that one read-ahead serves many of them.
        for name, info in sorted(members.items(), key=lambda item: item[1].header_offset):
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


class _TarInfo(tarfile.TarInfo):
    """A member's header whose damage is an error, where ``tarfile`` would end the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            # Whether some tool left the mark out or the file was cut here, nobody can tell.
            problem = "it lacks the blocks of zeros that end a tar archive, so members may be gone"
            raise tarfile.ReadError(problem) from error
        except (
            tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise tarfile.ReadError(f"the header of a member is damaged ({error})") from error


def _read_tar(stream: IO[bytes], origin: _Origin) -> Iterator[SourceItem]:
    repeated = _Repeated()
    with tarfile.open(fileobj=stream, mode="r|*", encoding="utf-8", tarinfo=_TarInfo) as archive:
        for info in archive:
            # tarfile keeps a record of every member, which would fill the memory.
            archive.members = []  # type: ignore[attr-defined]
            name = _member_name(info.name)
            if info.isdir() or listing.is_hidden(name):
                continue
            if origin.is_wanted(name) and repeated.has(name):
                continue
            yield from _read_tar_member(archive, info, origin.member(name), name)
    if repeated.number:
        yield origin.reject(repeated.describe())


class _Repeated:
    """Tells the members of a stream whose names occurred before.

    Whoever unpacks an archive keeps the last member of a name. That is known only at the end, when
    the first has been read.
    """

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        self.number, self._example = 0, ""

    def has(self, name: str) -> bool:
        """Return whether a name occurred before, and count it if so."""
        # A hash takes less memory than the name. By chance, two of a million names share one in
        # one of 37 million archives.
        digest = hash(name)
        if digest in self._hashes:
            self.number, self._example = self.number + 1, self._example or name
            return True
        self._hashes.add(digest)
        return False

    def describe(self) -> str:
        return (
            f"holds several members of one name, such as {self._example}; the first of each name "
            f"was read and {self.number:,} left out: unpack it and pack it again"
        )


def _read_tar_member(
    archive: tarfile.TarFile, info: tarfile.TarInfo, member: _Origin, name: str
) -> Iterator[SourceItem]:
    if not info.isreg():
        yield member.reject("is a link or a device: expected a regular file", "not_a_file")
        return
    try:
        unpack = cast(Callable[[], IO[bytes]], partial(archive.extractfile, info))
        yield from _read_member(unpack, name, info.size, member)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        # What lacks a part of an image is this archive. But an archive in it may be damaged alone.
        if is_image(name) or is_video(name):
            raise
        yield member.reject(f"can't be unpacked: {_error_text(error)}")


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
    elif member.with_videos and is_video(name) and size_bytes > MAX_IMAGE_BYTES:
        yield member.reject_large_video()
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
