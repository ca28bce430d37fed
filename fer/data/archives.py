"""Read zip and tar archives: which of their members are opened, and by which names they are known.

The content of a member is left to a reader that is passed in: ``fer.data.readers`` reads members as
it reads files.
"""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Self, cast

from fer import storage
from fer.data.compression import unpack
from fer.data.items import SourceItem
from fer.data.kinds import is_image, is_video
from fer.data.origins import Origin, Reader, error_text
from fer.data.rejects import RejectedError
from fer.errors import InputError, JobError
from fer.storage import listing
from fer.storage.local import escape_bytes
from fer.vision.loading import MAX_IMAGE_BYTES

MAX_ARCHIVE_DEPTH = 2
"""Archives that an image may be nested in: a tar file in a zip or tar file."""

ENCRYPTED_FLAG, UTF8_FLAG = 0x1, 0x800
"""Bits of a zip member's flags (PKWARE's APPNOTE 6.3.10, section 4.4.4)."""


def read_zip(stream: IO[bytes], origin: Origin, read_content: Reader) -> Iterator[SourceItem]:
    """Yield the items of a zip archive's members. One that can't be read becomes a rejected item.

    Args:
        stream: The archive.
        origin: Origin of the archive.
        read_content: Reads a member.

    Raises:
        StoreError: The store refuses access to the whole bucket.
    """
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
        if _has_unlisted_members(stream, archive):
            yield origin.reject(
                "begins with members that its directory does not list, as when archives are "
                "joined: they are not read",
                "incomplete",
            )
        # A member that was added again replaces the earlier ones of its name, as when unpacked.
        members = {_member_name(_zip_name(info)): info for info in archive.infolist()}
        # Members are read in the order of their data, so that one read-ahead serves many of them.
        for name, info in sorted(members.items(), key=lambda item: item[1].header_offset):
            if not name.endswith("/") and not listing.is_hidden(name):
                yield from _read_zip_member(archive, info, origin.member(name), name, read_content)


def _open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except UnicodeDecodeError as error:
        raise RejectedError(
            "incomplete", "has names that are marked as UTF-8 and are not: pack it again"
        ) from error
    # pyarrow's files raise a ValueError where zipfile seeks before the start of a short file.
    except (zipfile.BadZipFile, ValueError) as error:
        raise RejectedError(
            "incomplete", "is not a zip archive, or lacks its end: fetch it again"
        ) from error


def _has_unlisted_members(stream: IO[bytes], archive: zipfile.ZipFile) -> bool:
    """Tell whether a file begins with a zip member before those of its directory."""
    stream.seek(0)
    starts_with_member = stream.read(4) == b"PK\3\4"
    return starts_with_member and all(info.header_offset for info in archive.infolist())


def _read_zip_member(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    member: Origin,
    name: str,
    read_content: Reader,
) -> Iterator[SourceItem]:
    if info.flag_bits & ENCRYPTED_FLAG and member.is_wanted(name):
        yield member.reject("is encrypted: unpack the archive first", "encrypted")
        return
    try:
        open_member = partial(_open_zip_member, archive, info)
        yield from _read_member(open_member, name, info.file_size, member, read_content)
    except (InputError, JobError):
        raise
    # The libraries raise all kinds of exceptions on damaged members.
    except Exception as error:
        storage.check_store(member.source)
        yield member.fail(f"can't be unpacked: {error_text(error)}", error)


def _open_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member whose name may be marked as UTF-8 in one of its two places only."""
    try:
        return archive.open(info)
    except zipfile.BadZipFile:
        encodings = ("utf-8", "cp437")
        written, other = encodings if info.flag_bits & UTF8_FLAG else reversed(encodings)
        # zipfile compares this name with the one before the data, as that is marked.
        info.orig_filename = info.orig_filename.encode(written, "replace").decode(other, "replace")
        return archive.open(info)


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


def read_tar(stream: IO[bytes], origin: Origin, read_content: Reader) -> Iterator[SourceItem]:
    """Yield the items of a tar archive's members, in one pass.

    A damaged archive in the archive becomes a rejected item. Archives that were joined, as by
    ``cat``, are read one after the other.

    Args:
        stream: The archive, which may be compressed.
        origin: Origin of the archive.
        read_content: Reads a member.

    Raises:
        TarError, OSError, EOFError, zlib.error: The archive is damaged or ends early. The members
            before that place have been read.
    """
    repeated = _Repeated()
    with _TarFile.open(
        fileobj=unpack(stream), mode="r|", encoding="utf-8", tarinfo=_TarInfo, ignore_zeros=True
    ) as archive:
        for info in archive:
            # tarfile keeps a record of every member, which would fill the memory.
            archive.members = []  # type: ignore[attr-defined]
            name = _member_name(info.name)
            if info.isdir() or listing.is_hidden(name):
                continue
            if origin.is_wanted(name) and repeated.has(name):
                continue
            yield from _read_tar_member(archive, info, origin.member(name), name, read_content)
    if repeated.number:
        yield origin.reject(repeated.describe())


def _read_tar_member(
    archive: tarfile.TarFile,
    info: tarfile.TarInfo,
    member: Origin,
    name: str,
    read_content: Reader,
) -> Iterator[SourceItem]:
    if not info.isreg() and not member.is_wanted(name):
        yield member.ignore()
        return
    if not info.isreg():
        yield member.reject("is a link or a device: expected a regular file", "not_a_file")
        return
    try:
        open_member = cast(Callable[[], IO[bytes]], partial(archive.extractfile, info))
        yield from _read_member(open_member, name, info.size, member, read_content)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        # What lacks a part of an image is this archive. But an archive in it may be damaged alone.
        if is_image(name) or is_video(name):
            raise
        yield member.reject(f"can't be unpacked: {error_text(error)}", "incomplete")


class _TarFile(tarfile.TarFile):
    """An archive that is read beyond its end, where another archive may follow."""

    has_ended = False
    """Whether the blocks of zeros were met that end an archive."""


class _TarInfo(tarfile.TarInfo):
    """A member's header whose damage is an error, where ``tarfile`` would end the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        assert isinstance(archive, _TarFile)
        try:
            info = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.has_ended = True
            raise
        except tarfile.SubsequentHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            if (problem := _problem(error, has_ended=archive.has_ended)) is None:
                raise tarfile.EmptyHeaderError("end of file") from error  # type: ignore[attr-defined]
            raise tarfile.ReadError(problem) from error
        archive.has_ended = False
        return info


def _problem(error: tarfile.HeaderError, *, has_ended: bool) -> str | None:
    """Say what is wrong where a header was expected; None at the end of the file."""
    if not isinstance(error, tarfile.InvalidHeaderError) and has_ended:  # type: ignore[attr-defined]
        return None
    if has_ended:
        return "its end is followed by something that is no member, so members may be damaged"
    if isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
        # Whether some tool left the mark out or the file was cut here, nobody can tell.
        return "it lacks the blocks of zeros that end a tar archive, so members may be gone"
    return f"the header of a member is damaged ({error})"


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


def _read_member(
    open_member: Callable[[], IO[bytes]],
    name: str,
    size_bytes: int,
    member: Origin,
    read_content: Reader,
) -> Iterator[SourceItem]:
    """Yield the items of a regular file in an archive, unless its path or size is unacceptable.

    Args:
        open_member: Opens the member.
        name: Path of the member in the archive.
        size_bytes: Unpacked size of the member.
        member: Origin of the member.
        read_content: Reads the member.
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
    elif member.depth > MAX_ARCHIVE_DEPTH:
        yield member.reject(
            f"is nested in more than {MAX_ARCHIVE_DEPTH} archives: unpack the outer ones first",
            "nested_archive",
        )
    else:
        with open_member() as stream:
            yield from read_content(stream, member)


def _member_name(name: str) -> str:
    """Return a member's path in an archive with slashes, whatever its tool wrote.

    .NET wrote backslashes until 4.6.1, and ``tar -czf faces.tgz .`` writes "./" before each name.
    Bytes of a tar member's name that are not valid UTF-8 become escapes, as in local names.
    """
    name = name.replace("\\", "/").removeprefix("./")
    return escape_bytes(name.encode("utf-8", "surrogateescape"))


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")
