"""Turn the items of sources into labeled examples, or into rejects with a reason."""

import csv
import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from fer.data.emotions import ClassList
from fer.data.sources import SourceItem, fetch_image
from fer.data.splits import (
    split_from_file_name,
    split_from_folders,
    split_from_sha256,
    split_from_usage,
)
from fer.data.tables import csv_columns
from fer.vision.decode import IMAGE_SIZE, ImageError, decode_image

NUM_PIXELS = IMAGE_SIZE * IMAGE_SIZE

SplitSource = Literal["usage", "filename", "folder", "hash"]
SplitFrom = SplitSource | Literal["auto"]
"""Where the split of an example is read from. ``auto`` tries the ``Usage`` column, the file's name
and its folders in this order, and falls back on the hash of the pixels."""


class Example(NamedTuple):
    """A labeled face: 2,304 bytes of pixels, row by row, and the origin of each value."""

    pixels: bytes
    label: int
    split: str
    split_from: SplitSource
    source: str
    sha256: bytes
    row: int = 0


class Reject(NamedTuple):
    """A file or row that can't be used as an example, with the reason."""

    source: str
    reason: str
    row: int = 0


class Ignored(NamedTuple):
    """A file that is not meant as an example, such as a README or a license."""

    source: str


Outcome = Example | Reject | Ignored


class _RejectedError(ValueError):
    """A file or row is rejected. The message is the reason."""


def parse_item(item: SourceItem, classes: ClassList, split_from: SplitFrom) -> Iterator[Outcome]:
    """Yield the examples of an item, and a reject for each file or row that can't be used."""
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
    # Pixels are parsed for all rows at once: see _parse_clean_pixels.
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
            text = "" if usage is None else row[usage].decode(errors="replace")
            split = _split(text, item.path, split_from) or _split_from_pixels(sha256, split_from)
            yield Example(pixels, label, *split, source, sha256, number)
        except _RejectedError as rejection:
            yield Reject(source, str(rejection), number)


def _fields(line: bytes) -> list[bytes]:
    """Split a row of a CSV file. Rows without quotes, which are nearly all, take a fast path."""
    line = line.rstrip(b"\r")
    if b'"' not in line:
        return line.split(b",")
    try:
        return [field.encode() for field in next(csv.reader([line.decode(errors="replace")]))]
    except csv.Error:
        # A single field, so that the row is rejected for its number of fields.
        return [line]


@lru_cache(maxsize=256)
def _row_label(text: bytes, classes: ClassList) -> int:
    label = classes.label(text.decode(errors="replace"))
    if label is None:
        raise _RejectedError(f"unknown class {text.decode(errors='replace')[:40]!r}")
    return label


@lru_cache(maxsize=256)
def _split(usage: str, path: str, split_from: SplitFrom) -> tuple[str, SplitSource] | None:
    """Return the split that the ``Usage`` column or the path names, and which of them it is."""
    splits: dict[SplitSource, str | None] = {
        "usage": split_from_usage(usage),
        "filename": split_from_file_name(path),
        "folder": split_from_folders(path),
    }
    for source, split in splits.items():
        if split and split_from in ("auto", source):
            return split, source
    return None


def _split_from_pixels(sha256: bytes, split_from: SplitFrom) -> tuple[str, SplitSource]:
    if split_from not in ("auto", "hash"):
        raise _RejectedError(f"names no split in its {split_from}: expected train, val or test")
    return split_from_sha256(sha256), "hash"


# Pixels of CSV rows.


def parse_pixels(texts: Sequence[bytes]) -> list[bytes] | list[bytes | str]:
    """Parse the ``pixels`` column of rows.

    Args:
        texts: For each row, 2,304 decimal numbers from 0 to 255, separated by spaces.

    Returns:
        For each row, its pixels (2,304 bytes, row by row) or the reason why it is rejected.
    """
    pixels = _parse_clean_pixels(texts)
    return [_parse_any_pixels(text) for text in texts] if pixels is None else pixels


def _parse_clean_pixels(texts: Sequence[bytes]) -> list[bytes] | None:
    """Parse rows that are formatted as in FER2013, all at once, with NumPy.

    At every character, a value is computed from it and the two characters before it: the number, if
    it ends there. Then the values at the ends of numbers are picked. Adding arrays of bytes costs
    less than finding the numbers first. Three spaces are put before the text, so that the first
    digit has characters before it, and one space after it, to end the last number.

    For example, the text ``12 255`` becomes these arrays (a space is shown as ``_``; the values
    under it are not used)::

        text             1    2    _    2    5    5    _
        hundreds         0    0    1    0    0    2    5    digit two before, if no space follows it
        tens_and_ones    1   12   20    2   25   55   50    10 x digit before + digit
        sum              1   12  120    2   25  255   38    100 x hundreds + tens_and_ones, mod 256
        ends                  1                   5         positions followed by a space
        pixels               12                 255

    Returns:
        For each row, its pixels (2,304 bytes). None if any row is formatted differently or wrong.
    """
    text = np.frombuffer(b"   " + b" ".join(texts) + b" ", np.uint8)
    is_space = text == ord(" ")
    # Any other character than a digit or a space is above 9, since uint8 wraps below zero.
    digits = (text - np.uint8(ord("0"))) * ~is_space
    hundreds = digits[1:-2] * ~is_space[2:-1]
    tens_and_ones = digits[2:-1] * np.uint8(10) + digits[3:]
    ends = np.flatnonzero(is_space[4:])
    row_ends = np.cumsum([len(text) + 1 for text in texts]) - 2
    is_above_255 = (hundreds > 2) | ((hundreds == 2) & (tens_and_ones > 55))
    has_four_digits = ~(is_space[:-3] | is_space[1:-2] | is_space[2:-1] | is_space[3:])
    is_clean = (
        len(ends) == NUM_PIXELS * len(texts)
        and (ends[NUM_PIXELS - 1 :: NUM_PIXELS] == row_ends).all()
        and digits.max() <= 9
        and not (is_space[3:-1] & is_space[4:]).any()
        and not has_four_digits.any()
        and not (is_above_255 & ~is_space[3:]).any()
    )
    if not is_clean:
        return None
    pixels = (hundreds * np.uint8(100) + tens_and_ones)[ends].tobytes()
    return [pixels[start : start + NUM_PIXELS] for start in range(0, len(pixels), NUM_PIXELS)]


def _parse_any_pixels(text: bytes) -> bytes | str:
    """Parse a single row slowly, and say what is wrong with it if it is rejected."""
    words = text.split()
    if len(words) != NUM_PIXELS:
        return f"has {len(words):,} pixels: expected {NUM_PIXELS:,}"
    for word in words:
        if not (word.isdigit() and len(word) < 10 and int(word) < 256):
            return f"has the pixel {word[:20].decode(errors='replace')!r}: expected 0 to 255"
    return bytes(map(int, words))
