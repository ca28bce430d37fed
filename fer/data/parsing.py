"""Items of sources to examples, and what can't be one to rejects with their reason."""

import csv
import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from fer.data.emotions import (
    ClassList,
    split_from_file_name,
    split_from_folders,
    split_from_sha256,
    split_from_usage,
)
from fer.data.sources import SourceItem, csv_columns, fetch_image
from fer.vision.decode import IMAGE_SIZE, ImageError, decode_image

NUM_PIXELS = IMAGE_SIZE * IMAGE_SIZE

SplitSource = Literal["usage", "filename", "folder", "hash"]
SplitFrom = SplitSource | Literal["auto"]
"""Where a split is read from; ``auto`` takes the first that knows it of the ``Usage`` column, the
file's name, its folders and the hash of its pixels."""


class Example(NamedTuple):
    """A labeled face: 2,304 bytes of pixels, row by row, and where everything came from."""

    pixels: bytes
    label: int
    split: str
    split_from: SplitSource
    source: str
    sha256: bytes
    row: int = 0


class Reject(NamedTuple):
    """Something that can't be an example, and why."""

    source: str
    reason: str
    row: int = 0


class Ignored(NamedTuple):
    """Something that was never meant as an example: a README, a license."""

    source: str


Outcome = Example | Reject | Ignored


class _RejectedError(ValueError):
    """The reason why an example can't be made."""


def parse_item(item: SourceItem, classes: ClassList, split_from: SplitFrom) -> Iterator[Outcome]:
    """Yield the examples of an item, and a reject for each that can't be made."""
    if item.kind == "image":
        yield _parse_image(item, classes, split_from)
    elif item.kind == "rows":
        yield from _parse_rows(item, classes, split_from)
    elif item.kind == "rejected":
        yield Reject(item.source, item.reason)
    else:
        yield Ignored(item.source)


def _parse_image(item: SourceItem, classes: ClassList, split_from: SplitFrom) -> Outcome:
    try:
        label = classes.label_from_folders(item.path)
        if label is None:
            raise _RejectedError(f"no folder of {posixpath.dirname(item.path)!r} names a class")
        pixels = decode_image(fetch_image(item)).pixels.tobytes()
        sha256 = hashlib.sha256(pixels).digest()
        split = _split("", item.path, split_from) or _split_from_pixels(sha256, split_from)
        return Example(pixels, label, *split, item.source, sha256)
    except (_RejectedError, ImageError, OSError) as error:
        return Reject(item.source, str(error) or type(error).__name__)


def _parse_rows(item: SourceItem, classes: ClassList, split_from: SplitFrom) -> Iterator[Outcome]:
    header, *lines = (item.data or b"").split(b"\n")
    columns = csv_columns(header)
    emotion, usage = columns["emotion"], columns.get("usage")
    rows = [_fields(line) for line in lines]
    texts = [row[columns["pixels"]].strip() if len(row) == len(columns) else b"" for row in rows]
    parsed = zip(rows, parse_pixels(texts), strict=True)
    for number, (row, pixels) in enumerate(parsed, start=item.first_row):
        source = f"{item.source}#{number}"
        try:
            if len(row) != len(columns):
                raise _RejectedError(f"has {len(row)} fields: expected {len(columns)}")
            label = _row_label(row[emotion], classes)
            if isinstance(pixels, str):
                raise _RejectedError(pixels)
            sha256 = hashlib.sha256(pixels).digest()
            named = "" if usage is None else row[usage].decode(errors="replace")
            split = _split(named, item.path, split_from) or _split_from_pixels(sha256, split_from)
            yield Example(pixels, label, *split, source, sha256, number)
        except _RejectedError as rejection:
            yield Reject(source, str(rejection), number)


def _fields(line: bytes) -> list[bytes]:
    line = line.rstrip(b"\r")
    if b'"' not in line:
        return line.split(b",")
    try:
        return [field.encode() for field in next(csv.reader([line.decode(errors="replace")]))]
    except csv.Error:
        # Its fields can't be told apart.
        return [line]


@lru_cache(maxsize=256)
def _row_label(text: bytes, classes: ClassList) -> int:
    label = classes.label(text.decode(errors="replace"))
    if label is None:
        raise _RejectedError(f"unknown class {text.decode(errors='replace')[:40]!r}")
    return label


@lru_cache(maxsize=256)
def _split(usage: str, path: str, split_from: SplitFrom) -> tuple[str, SplitSource] | None:
    """Return the split that something names for itself, and where."""
    named: dict[SplitSource, str | None] = {
        "usage": split_from_usage(usage),
        "filename": split_from_file_name(path),
        "folder": split_from_folders(path),
    }
    for found_in, split in named.items():
        if split and split_from in ("auto", found_in):
            return split, found_in
    return None


def _split_from_pixels(sha256: bytes, split_from: SplitFrom) -> tuple[str, SplitSource]:
    if split_from not in ("auto", "hash"):
        raise _RejectedError(f"names no split in its {split_from}: expected train, val or test")
    return split_from_sha256(sha256), "hash"


# Rows of pixels.


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
    """Parse rows that are as FER2013 writes them, all at once; None if any of them is not.

    A number is computed at every character, from it and the two before, since adding bytes side by
    side costs less than finding where numbers end; then those at the ends are taken.
    """
    text = np.frombuffer(b"   " + b" ".join(texts) + b" ", np.uint8)
    space = text == ord(" ")
    digit = (text - np.uint8(ord("0"))) * ~space
    hundreds = digit[1:-2] * ~space[2:-1]
    rest = digit[2:-1] * np.uint8(10) + digit[3:]
    ends = np.flatnonzero(space[4:])
    row_ends = np.cumsum([len(text) + 1 for text in texts]) - 2
    is_clean = (
        len(ends) == NUM_PIXELS * len(texts)
        and (ends[NUM_PIXELS - 1 :: NUM_PIXELS] == row_ends).all()
        and digit.max() <= 9
        and not (space[3:-1] & space[4:]).any()
        and not (~space[:-3] & ~space[1:-2] & ~space[2:-1] & ~space[3:]).any()
        and not (((hundreds > 2) | ((hundreds == 2) & (rest > 55))) & ~space[3:]).any()
    )
    if not is_clean:
        return None
    pixels = (hundreds * np.uint8(100) + rest)[ends].tobytes()
    return [pixels[start : start + NUM_PIXELS] for start in range(0, len(pixels), NUM_PIXELS)]


def _parse_dirty_pixels(text: bytes) -> bytes | str:
    words = text.split()
    if len(words) != NUM_PIXELS:
        return f"has {len(words):,} pixels: expected {NUM_PIXELS:,}"
    for word in words:
        if not (word.isdigit() and len(word) < 10 and int(word) < 256):
            return f"has the pixel {word[:20].decode(errors='replace')!r}: expected 0 to 255"
    return bytes(map(int, words))
