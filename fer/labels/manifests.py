"""Manifests: CSV and Parquet tables that list the images to label, read as a stream.

Each row names an image or an archive by its path or URI. Relative paths start in the manifest's
folder. A table of labels is also a manifest, so images that failed can be labeled again.
"""

import csv
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fer import storage
from fer.data.sources import MEMBER_SEPARATOR, SourceItem, is_archive
from fer.data.tables import MAX_ROW_BYTES, is_csv
from fer.errors import InputError
from fer.storage import listing

LOCATION_COLUMNS = ("image", "uri", "path")
"""Accepted names of the column of locations; a manifest's first match is used."""

OPTIONAL_COLUMNS = {"size_bytes": pa.float64(), "etag": pa.string()}
"""Columns that are used where present. Sizes are read as floats, because pandas writes integer
columns with missing values as fractions."""

BATCH_ROWS = 4096

SUFFIX = ".parquet"


def is_manifest(location: str) -> bool:
    """Return whether a location is a CSV or Parquet file, or a folder of Parquet files only."""
    if not storage.is_folder(location):
        return is_csv(location) or location.lower().endswith(SUFFIX)
    # One page of the listing is enough to tell tables from images with a table among them.
    names = [entry.name for entry in islice(listing.walk(location), listing.PAGE_SIZE)]
    tables = [name for name in names if not storage.base_name(name).startswith("_")]
    return bool(tables) and all(name.lower().endswith(SUFFIX) for name in tables)


def list_manifest_files(location: str) -> list[str]:
    """Return the files of a manifest, sorted by name."""
    if not storage.is_folder(location):
        return [location]
    return [
        entry.location for entry in listing.walk(location) if entry.name.lower().endswith(SUFFIX)
    ]


def manifest_folder(location: str) -> str:
    """Return the folder of a manifest, from which its relative paths start."""
    return location if storage.is_folder(location) else posixpath.dirname(location)


def check_manifest(location: str) -> None:
    """Check that a manifest exists, can be read and has a column of locations.

    Raises:
        InputError: A check fails.
    """
    if not storage.exists(location):
        raise InputError(f"{location} does not exist: expected a manifest, an archive or a folder.")
    _columns(list_manifest_files(location)[0])


def read_manifest(location: str) -> Iterator[SourceItem]:
    """Yield the images and archives that a manifest lists, in order, without opening them.

    A row without a usable location becomes a rejected item. Consecutive rows with the same
    location, such as the faces of one image in a table of labels, are yielded once.

    Raises:
        InputError: A file is not a manifest, or a bucket that it names can't be read.
    """
    for file in list_manifest_files(location):
        previous = None
        for item in _read_file(file):
            if item.source != previous:
                yield item
            previous = item.source


def _read_file(file: str) -> Iterator[SourceItem]:
    column, *optional = _columns(file)
    folder, row = posixpath.dirname(file), 0
    with _explain_read_errors(file):
        for batch in _batches(file, [column, *optional]):
            values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            sizes = values.get("size_bytes", [None] * len(batch))
            etags = values.get("etag", [None] * len(batch))
            for location, size, etag in zip(values[column], sizes, etags, strict=True):
                row += 1
                if location and "\0" not in location:
                    unquoted = (etag or "").strip('"') or None
                    yield _to_item(location, folder, _to_size_bytes(size), unquoted)
                else:
                    problem = "contains a zero byte" if location else "is empty"
                    reason = f"names no image: its {column} {problem}"
                    yield SourceItem("rejected", f"{file}#{row}", reason=reason)


def _to_item(text: str, folder: str, size_bytes: int | None, etag: str | None) -> SourceItem:
    try:
        location = storage.resolve(text) if storage.is_uri(text) else _join(folder, text)
    except InputError as error:
        # A bucket that these credentials can't read fails the job at once, not row by row.
        if text.lower().startswith("s3://"):
            raise
        return SourceItem("rejected", text, reason=f"can't be opened: {str(error).rstrip('.')}")
    archive, is_member, _ = location.rpartition(MEMBER_SEPARATOR)
    if is_member and is_archive(archive):
        reason = f"is a member of {storage.base_name(archive)}; name the archive instead"
        return SourceItem("rejected", location, reason=reason)
    return SourceItem(
        "archive" if is_archive(location) else "image", location, size_bytes=size_bytes, etag=etag
    )


def _join(folder: str, path: str) -> str:
    if not {".", ".."} & {*path.split("/")}:
        return storage.join(folder, path)
    # Object stores do not resolve dots in a key.
    scheme, mark, rest = folder.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(rest, path))


def _to_size_bytes(size: float | None) -> int | None:
    """Convert a size to an integer; None where a float can't represent it exactly."""
    return int(size) if size is not None and 0 <= size < 2**53 else None


def _columns(file: str) -> list[str]:
    """Return the column of locations, then those of ``OPTIONAL_COLUMNS`` that the file has."""
    with _explain_read_errors(file):
        types = _csv_types(file) if is_csv(file) else _parquet_types(file)
    if {"emotion", "pixels"} <= {name.strip().lower() for name in types}:
        raise InputError(
            f"{file} is a table of pixels like FER2013, which `fer ingest` reads; expected a "
            f"manifest with a column {_join_with_or(LOCATION_COLUMNS)}, a folder, an archive or an "
            "image."
        )
    column = next((name for name in LOCATION_COLUMNS if _is_text(types.get(name))), None)
    if column is None:
        columns = ", ".join(f"{name} ({type_})" for name, type_ in types.items())[:200]
        raise InputError(
            f"{file} has the columns {columns or '(none)'}; expected a text column named "
            f"{_join_with_or(LOCATION_COLUMNS)} that names an image in each row."
        )
    return [column, *(name for name in OPTIONAL_COLUMNS if name in types)]


def _join_with_or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _csv_types(file: str) -> dict[str, pa.DataType]:
    store, path = storage.filesystem(file)
    with store.open_input_stream(path, compression="detect") as stream:
        start = stream.read(MAX_ROW_BYTES)
    line = start.decode("utf-8-sig", errors="replace").splitlines()[:1]
    return dict.fromkeys(next(csv.reader(line), []), pa.string())


def _parquet_types(file: str) -> dict[str, pa.DataType]:
    store, path = storage.filesystem(file)
    with store.open_input_file(path) as stream:
        schema = pq.read_schema(stream)
    return dict(zip(schema.names, schema.types, strict=True))


def _is_text(type_: pa.DataType | None) -> bool:
    if type_ is not None and pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return type_ is not None and any(test(type_) for test in tests)


def _batches(file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some columns, converted to the types of ``OPTIONAL_COLUMNS`` or text."""
    types = {name: OPTIONAL_COLUMNS.get(name, pa.string()) for name in columns}
    store, path = storage.filesystem(file)
    if is_csv(file):
        with store.open_input_stream(path, compression="detect") as stream:
            yield from pc.open_csv(
                stream,
                parse_options=pc.ParseOptions(newlines_in_values=True),
                convert_options=pc.ConvertOptions(include_columns=columns, column_types=types),
            )
        return
    with store.open_input_file(path) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(BATCH_ROWS, columns=columns):
            yield pa.RecordBatch.from_arrays(
                [batch.column(name).cast(type_) for name, type_ in types.items()], names=columns
            )


@contextmanager
def _explain_read_errors(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, csv.Error) as error:
        message = str(error).splitlines()[0][:200].rstrip(".")
        raise InputError(
            f"{file} can't be read as a manifest: {message}; check its columns and quotes."
        ) from error
    except OSError as error:
        raise OSError(f"{file} can't be read to its end: {error}") from error
