"""Turn the items of sources into labeled examples, or into rejects with a reason."""

import csv
import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple, cast, get_args

from fer.data.annotations import kdef_emotion
from fer.data.emotions import FER2013_CLASSES, ClassList, folder_with_number, is_class_number
from fer.data.framing import FER2013_FRAMING, Framing, frame_image
from fer.data.items import NotAnImageError, SourceItem, fetch_image
from fer.data.origins import error_text
from fer.data.pixels import parse_pixels
from fer.data.rejects import RejectCode, RejectedError
from fer.data.splits import (
    is_held_out,
    is_named_on_purpose,
    split_from_file_name,
    split_from_folders,
    split_from_sha256,
    split_from_usage,
    unclear_split_name,
)
from fer.data.tables import parse_csv_header
from fer.vision.decode import ImageError
from fer.vision.reshape import convert_images
from fer.vision.shape import FER2013_SHAPE

SplitFrom = Literal["auto", "usage", "filename", "folder", "hash"]
"""Where the split of an example is read from. ``auto`` tries the ``Usage`` column, the file's name
and its folders in this order, the name of an image last unless it is FER2013's, and falls back on
the hash of the pixels."""

SplitSource = Literal["usage", "filename", "folder", "hash", "val_fraction"]
"""What told the split of an example. ``val_fraction``: it was taken out of ``train``."""
SPLIT_SOURCES: tuple[str, ...] = get_args(SplitSource)

Format = Literal["csv", "class_folders", "hugging_face", "raf_db", "kdef"]
"""What told the class of an example."""
FORMATS: tuple[str, ...] = get_args(Format)


@dataclass(frozen=True)
class Rules:
    """How examples get their images, labels and splits.

    Attributes:
        classes: The classes, in the order of their labels.
        split_from: Where the split is read from.
        val_fraction: Fraction of ``train`` that becomes ``val``, chosen by the pixels.
        framing: How an image is made from an image file.
    """

    classes: ClassList = FER2013_CLASSES
    split_from: SplitFrom = "auto"
    val_fraction: float = 0.0
    framing: Framing = FER2013_FRAMING


class Split(NamedTuple):
    """The split of an example, and what told it.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        source: What told it.
        unclear_name: What seems to tell a split but is not understood: the value of ``Usage``, or
            a name in the path if the hash of the pixels had to decide.
    """

    name: str
    source: SplitSource
    unclear_name: str | None = None


class Example(NamedTuple):
    """A labeled face: its pixels, row by row, and the origin of each value.

    Attributes:
        row: Number of the row of a CSV file, counted from 1; 0 for an image.
        has_usage: Whether the row of a CSV file tells the split in a column such as ``Usage``.
        number: The number that stood for the class; None if a name did.
    """

    pixels: bytes
    label: int
    split: str
    split_from: SplitSource
    source: str
    sha256: bytes
    format: Format
    row: int = 0
    has_usage: bool = False
    number: int | None = None
    unclear_name: str | None = None


class Reject(NamedTuple):
    """A file or row that can't be used as an example, with the reason.

    Attributes:
        number: The number that stood for a class and is none of the labels, if that is the reason.
    """

    source: str
    code: RejectCode
    reason: str
    row: int = 0
    format: Format | None = None
    number: int | None = None


class Ignored(NamedTuple):
    """A file that is not meant as an example, such as a README or a license."""

    source: str


Outcome = Example | Reject | Ignored


class _Label(NamedTuple):
    """A label, and the number that stood for it in the source, if one did."""

    label: int
    number: int | None


class _UnknownNumberError(RejectedError):
    """A number that stands for a class is none of the labels."""

    def __init__(self, code: RejectCode, reason: str, number: int) -> None:
        super().__init__(code, reason)
        self.number = number


def parse_item(item: SourceItem, rules: Rules) -> Iterator[Outcome]:
    """Yield the examples of an item, and a reject for each file or row that can't be used."""
    if item.kind in ("image", "unknown"):
        yield _parse_image(item, rules)
    elif item.kind == "rows":
        yield from _parse_rows(item, rules)
    elif item.kind == "rejected":
        yield Reject(item.source, item.code, item.reason)
    else:
        yield Ignored(item.source)


def _parse_image(item: SourceItem, rules: Rules) -> Outcome:
    kind: Format = "class_folders"
    try:
        if item.kind == "unknown":
            # What is no image needs no class.
            item = replace(item, data=fetch_image(item))
        kind, text = _class_text(item, rules.classes)
        label, number = _label(text, rules.classes)
        pixels = frame_image(fetch_image(item), rules.framing).tobytes()
        sha256 = hashlib.sha256(pixels).digest()
        name, source, unclear_name = _split(item.usage, item.path, sha256, rules)
        return Example(
            *(pixels, label, name, source, item.source, sha256, kind),
            number=number,
            unclear_name=unclear_name,
        )
    except NotAnImageError:
        return Ignored(item.source)
    except (ImageError, RejectedError, OSError) as error:
        return _reject(item.source, error, kind)


def _class_text(item: SourceItem, classes: ClassList) -> tuple[Format, str]:
    """Return what names the class of an image, and the format in which it does."""
    if item.format:
        return cast(Format, item.format), item.label
    folder = classes.class_folder(item.path)
    emotion = kdef_emotion(item.path)
    if emotion is not None and (folder is None or is_class_number(folder)):
        return "kdef", emotion
    if folder is not None:
        return "class_folders", folder
    reason = f"no folder of {posixpath.dirname(item.path)!r} names a class"
    if (number := folder_with_number(item.path)) is not None:
        raise _UnknownNumberError("no_class_folder", reason, int(number))
    raise RejectedError("no_class_folder", reason)


def _parse_rows(item: SourceItem, rules: Rules) -> Iterator[Outcome]:
    first, *lines = (item.data or b"").split(b"\n")
    header = parse_csv_header(first)
    (columns, delimiter), usage = header, header.split
    emotion = columns["emotion"]
    rows = [_fields(line, delimiter) for line in lines]
    texts = [row[columns["pixels"]].strip() if len(row) == len(columns) else b"" for row in rows]
    # Pixels are parsed for all rows at once: see fer.data.pixels.
    parsed = zip(lines, rows, parse_pixels(texts), strict=True)
    for row_number, (line, row, pixels) in enumerate(parsed, start=item.first_row):
        source = f"{item.source}#{row_number}"
        try:
            if len(row) != len(columns):
                raise _wrong_field_count(line, len(row), len(columns))
            label, number = _label(row[emotion].decode(errors="replace"), rules.classes)
            if isinstance(pixels, RejectedError):
                raise pixels
            image = _reshape(pixels, rules)
            sha256 = hashlib.sha256(image).digest()
            text = "" if usage is None else row[usage].decode(errors="replace")
            name, split_from, unclear_name = _split(text, item.path, sha256, rules)
            yield Example(
                *(image, label, name, split_from, source, sha256, "csv", row_number),
                has_usage=split_from_usage(text) is not None,
                number=number,
                unclear_name=unclear_name,
            )
        except RejectedError as error:
            yield _reject(source, error, "csv", row_number)


def _reshape(pixels: bytes, rules: Rules) -> bytes:
    """Return the pixels of a row, 48x48 gray levels, in the shape of the dataset's images."""
    if rules.framing.shape == FER2013_SHAPE:
        return pixels
    return convert_images(FER2013_SHAPE.unpack(pixels), rules.framing.shape).tobytes()


def _reject(source: str, error: Exception, kind: Format, row: int = 0) -> Reject:
    code: RejectCode = "unreadable"
    if isinstance(error, ImageError):
        code = error.status
    elif isinstance(error, RejectedError):
        code = error.code
    number = error.number if isinstance(error, _UnknownNumberError) else None
    return Reject(source, code, error_text(error), row, kind, number)


def _fields(line: bytes, delimiter: str) -> list[bytes]:
    """Split a row of a CSV file. Rows without quotes, which are nearly all, take a fast path."""
    line = line.rstrip(b"\r")
    if b'"' not in line:
        return line.split(delimiter.encode())
    try:
        text = line.decode(errors="replace")
        return [field.encode() for field in next(csv.reader([text], delimiter=delimiter))]
    except csv.Error:
        # A single field, so that the row is rejected for its number of fields.
        return [line]


def _wrong_field_count(line: bytes, found: int, expected: int) -> RejectedError:
    if line.count(b'"') % 2:
        return RejectedError(
            "field_count", "has a line break or a single quotation mark in a field"
        )
    return RejectedError("field_count", f"has {found} of {expected} fields")


@lru_cache(maxsize=256)
def _label(text: str, classes: ClassList) -> _Label:
    """Return the label that a class name or number stands for.

    A number may be written as ``3.0``, as pandas does with columns that lack some values.
    """
    name = re.sub(r"^([0-9]+)\.0+$", r"\1", text.strip())
    label = classes.label(name)
    number = int(name) if is_class_number(name) else None
    if label is None:
        reason = f"unknown class {text[:40]!r}" if name else "has no class"
        if number is not None:
            raise _UnknownNumberError("unknown_class", reason, number)
        raise RejectedError("unknown_class", reason)
    return _Label(label, number)


def _split(usage: str, path: str, sha256: bytes, rules: Rules) -> Split:
    """Return the split of an example, after some of ``train`` became ``val``."""
    split = _named_split(usage, path, rules.split_from)
    if split is None:
        if rules.split_from not in ("auto", "hash"):
            raise RejectedError(
                "no_split", f"names no split in its {rules.split_from}: expected train, val or test"
            )
        split = Split(split_from_sha256(sha256), "hash")
    if rules.split_from == "auto":
        split = split._replace(unclear_name=_unclear_name(usage, path, split.source))
    if split.name == "train" and is_held_out(sha256, rules.val_fraction):
        return Split("val", "val_fraction", split.unclear_name)
    return split


@lru_cache(maxsize=256)
def _named_split(usage: str, path: str, split_from: SplitFrom) -> Split | None:
    """Return the split that the ``Usage`` column or the path names, or None."""
    splits: dict[SplitSource, str | None] = {
        "usage": split_from_usage(usage),
        "filename": split_from_file_name(path),
        "folder": split_from_folders(path),
    }
    if not is_named_on_purpose(path):
        splits["filename"] = splits.pop("filename")
    for source, name in splits.items():
        if name and split_from in ("auto", source):
            return Split(name, source)
    return None


@lru_cache(maxsize=256)
def _unclear_name(usage: str, path: str, source: SplitSource) -> str | None:
    """Return the value of ``Usage`` or the name in the path that may mean an unknown split."""
    value = usage.strip()
    if value and split_from_usage(value) is None:
        return value[:40]
    return unclear_split_name(path) if source == "hash" else None
