"""Read the tables that manifests are: CSV, JSON Lines and Parquet, as streams of rows."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fer import storage
from fer.data.tables import MAX_ROW_BYTES, is_csv
from fer.errors import InputError, first_line

BATCH_ROWS = 4096
"""Rows of a Parquet file that are in memory at the same time."""

PARQUET_SUFFIX = ".parquet"
JSON_SUFFIXES = (".jsonl", ".ndjson")

_DELIMITERS = ",;\t"

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the bytes that a text file begins with. UTF-32's begin like UTF-16's."""


class Columns(NamedTuple):
    """Names of the columns that are read; None for those that a table does not have."""

    location: str
    size_bytes: str | None = None
    etag: str | None = None


class Row(NamedTuple):
    """The values of a row in its ``Columns``.

    The location is a string, if the table is as it should be. Sizes are floats, because pandas
    writes integer columns with missing values as fractions.
    """

    location: Any
    size_bytes: float | None = None
    etag: str | None = None


def is_table(name: str) -> bool:
    """Return whether a file name is that of a table, which gzip may have compressed."""
    return is_csv(name) or _is_json(name) or name.lower().endswith(PARQUET_SUFFIX)


def _is_json(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(JSON_SUFFIXES)


def read_types(file: str) -> dict[str, pa.DataType]:
    """Return the types of a table's columns by their names. All columns of a CSV file are text.

    Raises:
        InputError: It can't be read as a table.
    """
    with _explain_errors(file):
        if is_csv(file):
            return dict.fromkeys(_csv_header(file)[0], pa.string())
        return _json_types(file) if _is_json(file) else _parquet_types(file)


def read_rows(file: str, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a table.

    Raises:
        InputError: It can't be read as a table, or not to its end.
    """
    reader: Callable[[str, Columns], Iterator[Row]] = _parquet_rows
    if is_csv(file):
        reader = _csv_rows
    elif _is_json(file):
        reader = _json_rows
    with _explain_errors(file):
        yield from reader(file, columns)


# CSV.


def _csv_header(file: str) -> tuple[list[str], str]:
    """Return the names of the columns, and the delimiter, which is the most frequent there."""
    with _open_bytes(file) as stream:
        start = stream.read(MAX_ROW_BYTES)
    # A character at the end may be cut.
    text = start.decode(_encoding_of(file, start), errors="replace")
    line = text.splitlines()[:1]
    delimiter = max(_DELIMITERS, key="".join(line).count)
    return next(csv.reader(line, delimiter=delimiter), []), delimiter


def _csv_rows(file: str, columns: Columns) -> Iterator[Row]:
    types = _types_of(columns)
    with _open_bytes(file) as stream:
        encoding = _encoding_of(file, stream.read(MAX_ROW_BYTES))
    with _open_bytes(file) as stream:
        yield from _batch_rows(
            pc.open_csv(
                stream,
                # pyarrow skips the byte order mark of UTF-8 itself.
                read_options=pc.ReadOptions(encoding=encoding.removesuffix("-sig")),
                parse_options=pc.ParseOptions(
                    delimiter=_csv_header(file)[1], newlines_in_values=True
                ),
                convert_options=pc.ConvertOptions(include_columns=[*types], column_types=types),
            ),
            columns,
        )


def _types_of(columns: Columns) -> dict[str, pa.DataType]:
    """Return the type to which the values of each column are converted."""
    types = (pa.string(), pa.float64(), pa.string())
    return {name: type_ for name, type_ in zip(columns, types, strict=True) if name is not None}


def _batch_rows(batches: Iterator[pa.RecordBatch], columns: Columns) -> Iterator[Row]:
    for batch in batches:
        nulls = [None] * len(batch)
        values = (nulls if name is None else batch.column(name).to_pylist() for name in columns)
        yield from map(Row._make, zip(*values, strict=True))


# Parquet.


def _parquet_types(file: str) -> dict[str, pa.DataType]:
    with storage.open_seekable(file) as stream:
        schema = pq.read_schema(stream)
    return dict(zip(schema.names, schema.types, strict=True))


def _parquet_rows(file: str, columns: Columns) -> Iterator[Row]:
    with storage.open_seekable(file) as stream:
        yield from _batch_rows(_parquet_batches(stream, _types_of(columns)), columns)


def _parquet_batches(
    stream: BinaryIO, types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    for batch in pq.ParquetFile(stream).iter_batches(BATCH_ROWS, columns=[*types]):
        arrays = [batch.column(name).cast(type_) for name, type_ in types.items()]
        yield pa.RecordBatch.from_arrays(arrays, names=[*types])


# JSON Lines.


def _json_types(file: str) -> dict[str, pa.DataType]:
    """Return the types of the values in the first row. A missing value counts as text."""
    first = next(_json_objects(file), {})
    return {
        # pyarrow refuses a string with surrogates.
        name: pa.string() if value is None or isinstance(value, str) else pa.infer_type([value])
        for name, value in first.items()
    }


def _json_rows(file: str, columns: Columns) -> Iterator[Row]:
    for row in _json_objects(file):
        size, etag = (None if name is None else row.get(name) for name in columns[1:])
        yield Row(
            row.get(columns.location),
            float(size) if isinstance(size, int | float) else None,
            # Parquet, to which ETags go, refuses surrogates.
            etag if isinstance(etag, str) and etag.isprintable() else None,
        )


def _json_objects(file: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f"{file} can't be read as JSON Lines: line {number} is {line.strip()[:40]!r}; "
                'expected an object, such as {"image": "a.jpg"}, in each line.'
            )
        yield row


def _lines(file: str) -> Iterator[str]:
    """Yield the lines of a text file."""
    with _open_bytes(file) as stream:
        encoding = _encoding_of(file, stream.read(MAX_ROW_BYTES))
    with (
        _open_bytes(file) as stream,
        io.TextIOWrapper(io.BufferedReader(stream), encoding, newline="\n") as text,
    ):
        while line := text.readline(MAX_ROW_BYTES):
            yield line


# What all of them share.


def _open_bytes(file: str) -> pa.NativeFile:
    """Open a file that gzip may have compressed, as its name says."""
    compression = "gzip" if file.lower().endswith(".gz") else None
    return pa.input_stream(storage.open_stream(file), compression=compression)


def _encoding_of(file: str, start: bytes) -> str:
    """Return the encoding of a text file: that of its byte order mark, or UTF-8.

    Raises:
        InputError: It is in UTF-16 and has no such mark.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise InputError(
            f"{file} can't be read as a manifest: it seems to be in UTF-16 without a byte order "
            "mark; save it as UTF-8."
        )
    return "utf-8"


@contextmanager
def _explain_errors(file: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except (pa.ArrowException, csv.Error) as error:
        if "UTF8" in str(error) and not file.lower().endswith(PARQUET_SUFFIX):
            raise _not_utf8(file) from error
        message = first_line(error)[:200]
        raise InputError(
            f"{file} can't be read as a manifest: {message}; check its columns and quotes."
        ) from error
    except OSError as error:
        raise OSError(f"{file} can't be read to its end: {error}") from error


def _not_utf8(file: str) -> InputError:
    """Return the error about a text file that is not valid UTF-8, with the first such byte."""
    where = "it has bytes"
    with _open_bytes(file) as stream:
        for number, line in enumerate(io.BufferedReader(stream), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                character = bytes([byte]).decode("latin-1")
                where = f"line {number} has the byte 0x{byte:02X}, {character!r} in Latin-1"
                break
    return InputError(
        f"{file} can't be read as a manifest, because it is not in UTF-8: {where}; save it as "
        "UTF-8."
    )
