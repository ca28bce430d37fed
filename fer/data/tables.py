"""Read tables of labeled faces: FER2013's CSV files, and Parquet files of Hugging Face."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fer.data.rejects import RejectedError

CSV_BLOCK_BYTES = 2**18
"""Size of a block of CSV rows, some 28 rows of FER2013. The block stays in the CPU's cache, and the
arrays that parse it are small enough for the allocator to reuse their memory."""

MAX_ROW_BYTES = 2**16
"""Reading of a CSV file ends at a longer row. A row of 2,304 pixels has at most 9,300 bytes."""

ROWS_PER_READ = 64
"""Rows of a Parquet file that are in memory at the same time."""

SPLIT_COLUMNS = ("usage", "split", "subset", "partition", "set")
"""Columns that tell the split, in lower case; FER2013 has Usage. The first in a table counts."""

_DELIMITERS = ",;\t"

# CSV.


class Block(NamedTuple):
    """Whole rows of a CSV file, with the header before them.

    Attributes:
        data: Header and rows, in UTF-8.
        first_row: Number of the first row, counted from 1.
    """

    data: bytes
    first_row: int


class CsvHeader(NamedTuple):
    """The first line of a CSV file.

    Attributes:
        columns: Position of each column by its name in lower case. A name that was taken is
            followed by the number of its column, so that there are as many names as columns.
        delimiter: Comma, semicolon or tab.
    """

    columns: dict[str, int]
    delimiter: str

    @property
    def split(self) -> int | None:
        """Position of the column that tells the split, or None."""
        return next((self.columns[name] for name in SPLIT_COLUMNS if name in self.columns), None)


def is_csv(name: str) -> bool:
    """Return whether a file name is that of a CSV file, compressed or not."""
    return name.lower().removesuffix(".gz").endswith(".csv")


def read_csv_blocks(stream: IO[bytes]) -> Iterator[Block]:
    """Yield a CSV file in blocks of whole rows. Blank lines are no rows.

    Args:
        stream: The file, in UTF-8, or in UTF-16 with a byte order mark, as Excel writes it.

    Raises:
        RejectedError: The file is empty, a column is missing, or a row is too long.
    """
    blocks = _read_utf8(stream)
    header = next(blocks)
    if not header:
        raise RejectedError(
            "missing_column", "is empty: expected the columns emotion, pixels and perhaps Usage"
        )
    if b"\0" in header:
        raise RejectedError(
            "unreadable", "seems to be in UTF-16 without a byte order mark: save it as UTF-8"
        )
    columns = parse_csv_header(header).columns
    if not {"emotion", "pixels"} <= set(columns):
        names = ", ".join(columns)[:100]
        raise RejectedError(
            "missing_column",
            f"has the columns {names!r}: expected emotion, pixels and perhaps Usage",
        )
    header, row, rest = header.rstrip(b"\r\n") + b"\n", 1, b""
    for block in blocks:
        # The block ends within a row, whose beginning is kept for the next block.
        rows, _, rest = (rest + block).rpartition(b"\n")
        if lines := [line for line in rows.split(b"\n") if line.strip()]:
            yield Block(header + b"\n".join(lines), row)
            row += len(lines)
        if len(rest) > MAX_ROW_BYTES:
            raise RejectedError(
                "row_too_long",
                f"row {row} is longer than {MAX_ROW_BYTES:,} bytes: the rows from there on are "
                "not read",
            )
    if rest.strip():
        yield Block(header + rest, row)


def _read_utf8(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a text file as UTF-8: the first line, then blocks."""
    line = stream.readline(MAX_ROW_BYTES)
    if not line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield line
        while block := stream.read(CSV_BLOCK_BYTES):
            yield block
        return
    decode = codecs.getincrementaldecoder("utf-16")(errors="replace").decode
    head, newline, rest = decode(line + stream.read(CSV_BLOCK_BYTES)).partition("\n")
    yield (head + newline).encode()
    yield rest.encode()
    while block := stream.read(CSV_BLOCK_BYTES):
        yield decode(block).encode()


def parse_csv_header(line: bytes) -> CsvHeader:
    """Parse the first line of a CSV file. The most frequent delimiter counts."""
    text = line.decode("utf-8-sig", errors="replace").strip()
    delimiter = max(_DELIMITERS, key=text.count)
    names = [name.strip().lower() for name in next(csv.reader([text], delimiter=delimiter), [])]
    columns: dict[str, int] = {}
    for index, name in enumerate(names):
        columns[f"{name} {index + 1}" if name in columns else name] = index
    return CsvHeader(columns, delimiter)


# Parquet.


class ParquetRow(NamedTuple):
    """An image of a Parquet file.

    Attributes:
        image: The encoded image; None if the file only names it.
        label: Its class name or number; empty if there is none.
        usage: What tells the split; empty if the file has no such column.
    """

    image: bytes | None
    label: str
    usage: str = ""


def read_parquet_rows(stream: IO[bytes]) -> Iterator[ParquetRow]:
    """Yield the images of a Parquet file as Hugging Face's datasets store them.

    Args:
        stream: A seekable file with the columns ``image`` (the encoded image, or a struct with the
            field ``bytes``) and ``label`` (a class name, or a number). Names of numbered classes
            are taken from the schema's metadata, if they are there. A column with names is
            preferred. One of ``SPLIT_COLUMNS`` may tell the split.

    Raises:
        RejectedError: A column is missing.
    """
    file = pq.ParquetFile(stream)
    schema = file.schema_arrow
    images = _find_columns(schema, ("image", "img"), _is_image_type)
    labels = _find_columns(schema, ("label", "labels", "emotion"), _is_label_type)
    if not (images and labels):
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)[:200]
        raise RejectedError(
            "missing_column",
            f"has the columns {found}: expected image (bytes, or a struct with bytes) and label "
            "(an integer or a string)",
        )
    image, label = images[0], next((name for name in labels if _has_names(schema, name)), labels[0])
    class_names = _class_names(schema, label)
    splits = _find_columns(schema, SPLIT_COLUMNS, _is_text_type)[:1]
    for batch in file.iter_batches(ROWS_PER_READ, columns=[image, label, *splits]):
        for row in batch.to_pylist():
            # A row without a split beside others must not be divided by chance.
            usage = (row[splits[0]] or "null") if splits else ""
            text = _label_text(row[label], class_names)
            yield ParquetRow(_image_bytes(row[image]), text, usage)


def _find_columns(
    schema: pa.Schema, names: tuple[str, ...], is_type: Callable[[pa.DataType], bool]
) -> list[str]:
    """Return the columns of certain names, in any case, and types in the order of these names."""
    return [
        field.name
        for name in names
        for field in schema
        if field.name.strip().lower() == name and is_type(field.type)
    ]


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary))


def _is_label_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(_is_text_type(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _has_names(schema: pa.Schema, label: str) -> bool:
    return _is_text_type(schema.field(label).type) or bool(_class_names(schema, label))


def _class_names(schema: pa.Schema, label: str) -> list[str]:
    """Return the names of numbered classes from the metadata of Hugging Face, if they are there."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label]["names"]
        # Cards of datasets have them by number.
        numbered = names.items() if isinstance(names, dict) else enumerate(names)
        by_number = {int(number): str(name) for number, name in numbered}
        return [by_number[number] for number in range(len(by_number))]
    except (KeyError, ValueError, TypeError):
        return []


def _image_bytes(value: object) -> bytes | None:
    image = value.get("bytes") if isinstance(value, dict) else value
    return image if isinstance(image, bytes) and image else None


def _label_text(value: object, class_names: list[str]) -> str:
    if class_names and isinstance(value, int | float) and value == value // 1:
        # A number beyond the names, such as -1 for no class, must not be taken for FER2013's.
        known = 0 <= value < len(class_names)
        return class_names[int(value)] if known else f"label {value:g}"
    return "" if value is None else str(value)
