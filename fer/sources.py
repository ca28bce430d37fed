"""FER2013's CSV files, class folders, zip and tar archives: locations to pieces to examples.

Reading is in two steps, so that a cluster can spread the second: ``read_pieces`` walks through a
source in order and hands out its files and stretches of its rows as they stand; ``parse_piece``
turns any of them into examples, and what can't be one into rejects.
"""

import csv
import gzip
import hashlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, BinaryIO, Literal, cast

import numpy as np

from fer import storage
from fer.emotions import (
    label_from_folders,
    label_from_name,
    split_from_file_name,
    split_from_folders,
    split_from_sha256,
    split_from_usage,
)
from fer.errors import InputError
from fer.images import IMAGE_SIZE, IMAGE_SUFFIXES, MAX_IMAGE_BYTES, ImageError, decode_image

NUM_PIXELS = IMAGE_SIZE * IMAGE_SIZE
CSV_PIECE_BYTES = 2**20
"""Rows are handed out in stretches of this size: about 110 of FER2013's, which stay in cache."""

MAX_ROW_BYTES = 2**16
"""No row of 2,304 pixels is longer than 9,300 bytes; a longer one is not read to its end."""

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
MEMBER = "!/"
"""Stands between an archive and its member in the name of an example."""

SplitSource = Literal["usage", "filename", "folder", "hash"]
PieceKind = Literal["image", "rows", "rejected", "ignored"]

_BROKEN_ARCHIVE = (
    EOFError,
    OSError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class Piece:
    """A file, or a stretch of a CSV file's rows, as a source holds it.

    Attributes:
        kind: An image, rows, or what takes no further part: rejected, or ignored (a README).
        source: Where it came from: a location, the archive's member after ``!/``.
        path: The part of ``source`` from the name that was given on: its folders may name the
            class and the split.
        data: The image's bytes, or the CSV file's header and rows; None where the image is still
            to be fetched from ``source``.
        first_row: Number of the first of the rows, counted from 1.
        size_bytes: Size of the image's file.
        etag: ETag of the object that holds it.
        reason: Why it was rejected.
    """

    kind: PieceKind
    source: str
    path: str = ""
    data: bytes | None = None
    first_row: int = 0
    size_bytes: int = 0
    etag: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """A labelled face: 2,304 bytes of pixels, row by row, and where everything came from."""

    pixels: bytes
    label: int
    split: str
    split_from: SplitSource
    source: str
    sha256: bytes
    row: int = 0


@dataclass(frozen=True)
class Reject:
    """Something that can't be an example, and why."""

    source: str
    reason: str


class _RejectedError(ValueError):
    """The reason why an example can't be made."""


# Reading: a location to pieces.


def check_source(location: str) -> None:
    """Refuse a source that is not there, is empty or is of no known kind.

    Raises:
        InputError: It is one of those.
    """
    if not storage.exists(location):
        raise InputError(f"{location} does not exist: expected a CSV file, an archive or a folder.")
    if storage.is_folder(location):
        if storage.is_empty(location):
            raise InputError(f"{location} is empty: expected a folder of images, CSV or archives.")
    elif not _is_readable(location):
        raise InputError(
            f"{location} is of no known kind: expected a folder, an image, .csv, .csv.gz, "
            f"{', '.join(ARCHIVE_SUFFIXES)}."
        )


def _is_readable(name: str) -> bool:
    lower = name.lower().removesuffix(".gz")
    return lower.endswith((".csv", *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)) or is_archive(name)


def is_csv(name: str) -> bool:
    """Tell whether a file's name is that of a table, packed or not."""
    return name.lower().removesuffix(".gz").endswith(".csv")


def is_archive(name: str) -> bool:
    """Tell whether a file's name is that of an archive that can be read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def read_pieces(location: str) -> Iterator[Piece]:
    """Yield the pieces of a folder, an archive, a CSV file or an image, in order.

    What can't be read becomes a rejected piece; memory holds one piece at a time, whatever the
    size of the source.
    """
    if not storage.is_folder(location):
        yield from _read_file(storage.describe(location), storage.name(location))
        return
    for entry in storage.walk(location):
        yield from _read_file(entry, storage.join(storage.name(location), entry.name))


def _read_file(entry: storage.Entry, path: str) -> Iterator[Piece]:
    at = _Place(entry.location, path, entry.etag)
    if _is_image(path):
        yield Piece("image", at.source, path, size_bytes=entry.size_bytes, etag=entry.etag)
        return
    if not _is_readable(path):
        yield Piece("ignored", at.source)
        return
    opener = storage.open_seekable if path.lower().endswith(".zip") else storage.open_stream
    try:
        with opener(entry.location) as stream:
            yield from _read_stream(stream, at)
    except _BROKEN_ARCHIVE as error:
        yield at.reject(f"can't be read to its end: {_told(error)}")


@dataclass(frozen=True)
class _Place:
    source: str
    path: str
    etag: str | None
    depth: int = 0

    def member(self, name: str) -> "_Place":
        inner = MEMBER + name
        return _Place(self.source + inner, self.path + inner, self.etag, self.depth + 1)

    def without_suffix(self, suffix: str) -> "_Place":
        return _Place(self.source, self.path[: -len(suffix)], self.etag, self.depth)

    def reject(self, reason: str) -> Piece:
        return Piece("rejected", self.source, reason=reason)


def _read_stream(stream: BinaryIO, at: _Place) -> Iterator[Piece]:
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
    elif name.endswith(".csv"):
        yield from _read_csv(stream, at)
    elif _is_image(name):
        yield _read_image(stream, at)
    else:
        yield Piece("ignored", at.source)


def _read_image(stream: IO[bytes], at: _Place) -> Piece:
    data = stream.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        return at.reject(f"unpacks to more than {MAX_IMAGE_BYTES:,} bytes")
    return Piece("image", at.source, at.path, data, size_bytes=len(data), etag=at.etag)


def _read_zip(stream: BinaryIO, at: _Place) -> Iterator[Piece]:
    if not stream.seekable() or at.depth:
        yield at.reject("is a zip archive inside another archive: unpack the outer one first")
        return
    with zipfile.ZipFile(stream) as archive:
        # In the order of the file, so that one read-ahead serves many members.
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            member = at.member(info.filename)
            if info.is_dir() or storage.is_hidden(info.filename):
                continue
            if refusal := _refusal(info.filename, info.file_size):
                yield member.reject(refusal)
                continue
            try:
                with archive.open(info) as unpacked:
                    yield from _read_stream(cast(BinaryIO, unpacked), member)
            except _BROKEN_ARCHIVE as error:
                yield member.reject(f"can't be unpacked: {_told(error)}")


def _read_tar(stream: BinaryIO, at: _Place) -> Iterator[Piece]:
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for info in archive:
            member = at.member(info.name)
            # A streamed tar file keeps a record of every member it passed.
            archive.members = []  # type: ignore[attr-defined]
            if info.isdir() or storage.is_hidden(info.name):
                continue
            unpacked = archive.extractfile(info) if info.isreg() else None
            if unpacked is None:
                yield member.reject("is a link or a device: expected a regular file")
            elif refusal := _refusal(info.name, info.size):
                yield member.reject(refusal)
            else:
                yield from _read_stream(cast(BinaryIO, unpacked), member)


def _refusal(member: str, size_bytes: int) -> str | None:
    if member.startswith(("/", "\\")) or ".." in member.replace("\\", "/").split("/"):
        return "climbs out of its archive"
    if _is_image(member) and size_bytes > MAX_IMAGE_BYTES:
        return f"unpacks to {size_bytes:,} bytes: expected at most {MAX_IMAGE_BYTES:,}"
    return None


def _read_csv(stream: IO[bytes], at: _Place) -> Iterator[Piece]:
    header = stream.readline(MAX_ROW_BYTES)
    try:
        _columns(header)
    except _RejectedError as rejection:
        yield at.reject(str(rejection))
        return
    header, row, rest = header.rstrip(b"\r\n") + b"\n", 1, b""
    while block := stream.read(CSV_PIECE_BYTES):
        rows, _, rest = (rest + block).rpartition(b"\n")
        if len(rest) > MAX_ROW_BYTES:
            yield at.reject(f"row {row} is longer than {MAX_ROW_BYTES:,} bytes: reading ends there")
            return
        if rows:
            yield Piece("rows", at.source, at.path, header + rows, first_row=row)
            row += rows.count(b"\n") + 1
    if rest:
        yield Piece("rows", at.source, at.path, header + rest, first_row=row)


def _is_image(name: str) -> bool:
    return posixpath.splitext(name.lower())[1] in IMAGE_SUFFIXES


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


# Parsing: a piece to examples and rejects.


def parse_piece(
    piece: Piece, split_from: SplitSource | Literal["auto"]
) -> Iterator[Example | Reject]:
    """Yield the examples of a piece, and a reject for each that can't be made.

    Args:
        piece: What ``read_pieces`` gave.
        split_from: Where the split is read from; ``auto`` takes the first that knows it of the
            ``Usage`` column, the file's name, its folders and the hash of its pixels.
    """
    if piece.kind == "image":
        yield _parse_image(piece, split_from)
    elif piece.kind == "rows":
        yield from _parse_rows(piece, split_from)
    elif piece.kind == "rejected":
        yield Reject(piece.source, piece.reason)


def fetch_image(piece: Piece) -> bytes:
    """Return an image piece's bytes, read from its source where it does not carry them.

    Raises:
        ImageError: It is too large to be read.
        OSError: It can't be read.
    """
    if piece.data is not None:
        return piece.data
    if piece.size_bytes > MAX_IMAGE_BYTES:
        raise ImageError(
            "too_large", f"The file has {piece.size_bytes:,} bytes, more than {MAX_IMAGE_BYTES:,}."
        )
    return storage.read_bytes(piece.source)


def _parse_image(piece: Piece, split_from: SplitSource | Literal["auto"]) -> Example | Reject:
    try:
        label = label_from_folders(piece.path)
        if label is None:
            raise _RejectedError(f"no folder of {posixpath.dirname(piece.path)!r} names an emotion")
        pixels = decode_image(fetch_image(piece)).pixels.tobytes()
        return _example(pixels, label, "", piece, split_from)
    except (_RejectedError, ImageError, OSError) as error:
        return Reject(piece.source, _told(error))


def _parse_rows(
    piece: Piece, split_from: SplitSource | Literal["auto"]
) -> Iterator[Example | Reject]:
    header, *lines = (piece.data or b"").split(b"\n")
    columns = _columns(header)
    rows = [_fields(line) for line in lines]
    texts = [row[columns["pixels"]] if len(row) == len(columns) else b"" for row in rows]
    parsed = zip(rows, parse_pixels(texts), strict=True)
    for number, (row, pixels) in enumerate(parsed, start=piece.first_row):
        source = f"{piece.source}#{number}"
        try:
            if len(row) != len(columns):
                raise _RejectedError(f"has {len(row)} fields: expected {len(columns)}")
            label = _row_label(row[columns["emotion"]])
            usage = row[columns["usage"]].decode(errors="replace") if "usage" in columns else ""
            if isinstance(pixels, str):
                raise _RejectedError(pixels)
            yield _example(pixels, label, usage, piece, split_from, source, number)
        except _RejectedError as rejection:
            yield Reject(source, str(rejection))


def _columns(header: bytes) -> dict[str, int]:
    text = header.decode("utf-8-sig", errors="replace").strip()
    names = [name.strip().lower() for name in next(csv.reader([text]), [])]
    if not {"emotion", "pixels"} <= set(names):
        found = ", ".join(names)[:100]
        raise _RejectedError(
            f"has the columns {found!r}: expected emotion, pixels and perhaps Usage"
        )
    return {name: index for index, name in enumerate(names)}


def _fields(line: bytes) -> list[bytes]:
    line = line.rstrip(b"\r")
    if b'"' in line:
        return [field.encode() for field in next(csv.reader([line.decode(errors="replace")]))]
    return line.split(b",")


@lru_cache(maxsize=256)
def _row_label(text: bytes) -> int:
    label = label_from_name(text.decode(errors="replace"))
    if label is None:
        raise _RejectedError(f"unknown class {text.decode(errors='replace')[:40]!r}")
    return label


def parse_pixels(texts: Sequence[bytes]) -> list[bytes] | list[bytes | str]:
    """Turn rows of 2,304 numbers into their bytes, or into the reason why that can't be done.

    Args:
        texts: Decimal numbers of 0 to 255, separated by spaces.

    Returns:
        For each row its pixels (2,304 bytes, row by row), or a sentence.
    """
    pixels = _parse_clean_pixels(texts)
    return [_parse_dirty_pixels(text) for text in texts] if pixels is None else pixels


def _parse_clean_pixels(texts: Sequence[bytes]) -> list[bytes] | None:
    """Parse rows that are as FER2013 writes them, all at once; None if any of them is not."""
    text = np.frombuffer(b" ".join(texts) + b" ", np.uint8)
    ends = np.flatnonzero(text == ord(" "))
    row_ends = np.cumsum([len(text) + 1 for text in texts]) - 1
    if (
        len(ends) != NUM_PIXELS * len(texts)
        or (ends[NUM_PIXELS - 1 :: NUM_PIXELS] != row_ends).any()
    ):
        return None
    num_digits = np.diff(ends, prepend=-1) - 1
    if num_digits.min() < 1 or num_digits.max() > 3:
        return None
    # A number's last, middle and first digit; below '0' the subtraction wraps round to above 9.
    ones, tens, hundreds = (text[ends - place] - np.uint8(ord("0")) for place in (1, 2, 3))
    tens[num_digits < 2] = 0
    hundreds[num_digits < 3] = 0
    if max(ones.max(), tens.max(), hundreds.max()) > 9:
        return None
    values = ones + np.uint16(10) * tens + np.uint16(100) * hundreds
    if values.max() > 255:
        return None
    flat = values.astype(np.uint8).tobytes()
    return [flat[start : start + NUM_PIXELS] for start in range(0, len(flat), NUM_PIXELS)]


def _parse_dirty_pixels(text: bytes) -> bytes | str:
    words = text.split()
    if len(words) != NUM_PIXELS:
        return f"has {len(words):,} pixels: expected {NUM_PIXELS:,}"
    for word in words:
        if not (word.isdigit() and len(word) < 10 and int(word) < 256):
            return f"has the pixel {word[:20].decode(errors='replace')!r}: expected 0 to 255"
    return bytes(map(int, words))


def _example(
    pixels: bytes,
    label: int,
    usage: str,
    piece: Piece,
    split_from: SplitSource | Literal["auto"],
    source: str | None = None,
    row: int = 0,
) -> Example:
    sha256 = hashlib.sha256(pixels).digest()
    finders: dict[SplitSource, Callable[[], str | None]] = {
        "usage": lambda: split_from_usage(usage),
        "filename": lambda: split_from_file_name(piece.path),
        "folder": lambda: split_from_folders(piece.path),
        "hash": lambda: split_from_sha256(sha256),
    }
    for found_in, find in finders.items():
        if split_from in ("auto", found_in) and (split := find()):
            return Example(pixels, label, split, found_in, source or piece.source, sha256, row)
    raise _RejectedError(f"names no split in its {split_from}: expected train, val or test")
