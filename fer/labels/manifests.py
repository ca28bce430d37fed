"""Tables of locations as sources of images: CSV and Parquet, read as a stream, never held.

A row names an image or an archive by its path or URI; a path that is relative starts in the
table's folder. A table of labels is one too: what failed in it can be labeled again.
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
from fer.data.sources import MAX_ROW_BYTES, MEMBER, Piece, is_archive, is_csv
from fer.errors import InputError
from fer.storage import listing

COLUMNS = ("image", "uri", "path")
"""What the column of locations may be called; the first of them that a table has is read."""

KNOWN = {"size_bytes": pa.float64(), "etag": pa.string()}
"""What a table may know of its images; pandas writes whole numbers with gaps as fractions."""

BATCH_ROWS = 4096

SUFFIX = ".parquet"


def is_manifest(location: str) -> bool:
    """Tell whether a location is a CSV or Parquet file, or a folder of nothing but the latter."""
    if not storage.is_folder(location):
        return is_csv(location) or location.lower().endswith(SUFFIX)
    # A page is enough to tell a folder of tables from one of photographs with a table among them.
    some = [entry.name for entry in islice(listing.walk(location), listing.PAGE)]
    tables = [name for name in some if not storage.name(name).startswith("_")]
    return bool(tables) and all(name.lower().endswith(SUFFIX) for name in tables)


def list_files(location: str) -> list[str]:
    """Return the files of a manifest, in the order of their names."""
    if not storage.is_folder(location):
        return [location]
    return [
        entry.location for entry in listing.walk(location) if entry.name.lower().endswith(SUFFIX)
    ]


def folder(location: str) -> str:
    """Return the folder of a manifest."""
    return location if storage.is_folder(location) else posixpath.dirname(location)


def check_manifest(location: str) -> None:
    """Refuse a manifest that is not there, can't be read, or has no column of locations.

    Raises:
        InputError: It is one of those.
    """
    if not storage.exists(location):
        raise InputError(f"{location} does not exist: expected a manifest, an archive or a folder.")
    _columns(list_files(location)[0])


def read_manifest(location: str) -> Iterator[Piece]:
    """Yield the images and archives that a manifest names, in order, without opening any.

    A row that names nothing, or what can't be opened, becomes a rejected piece; a location that
    follows itself, as that of several faces does in a table of labels, is yielded once.

    Raises:
        InputError: A file is no such table, or a bucket that it names can't be read.
    """
    for file in list_files(location):
        previous = None
        for piece in _read_file(file):
            if piece.source != previous:
                yield piece
            previous = piece.source


def _read_file(file: str) -> Iterator[Piece]:
    column, *known = _columns(file)
    parent, row = posixpath.dirname(file), 0
    with _told_as_sentence(file):
        for batch in _batches(file, [column, *known]):
            values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            sizes = values.get("size_bytes", [None] * len(batch))
            etags = values.get("etag", [None] * len(batch))
            for named, size, etag in zip(values[column], sizes, etags, strict=True):
                row += 1
                if named and "\0" not in named:
                    yield _piece(named, parent, _whole(size), (etag or "").strip('"') or None)
                else:
                    why = "cut by a zero byte" if named else "empty"
                    reason = f"names no image: its {column} is {why}"
                    yield Piece("rejected", f"{file}#{row}", reason=reason)


def _piece(named: str, parent: str, size_bytes: int | None, etag: str | None) -> Piece:
    try:
        location = storage.resolve(named) if storage.is_uri(named) else _below(parent, named)
    except InputError as error:
        # A bucket that these credentials can't read fails here, and not a row at a time.
        if named.lower().startswith("s3://"):
            raise
        return Piece("rejected", named, reason=str(error).rstrip("."))
    archive, is_member, _ = location.rpartition(MEMBER)
    if is_member and is_archive(archive):
        reason = f"is a member of {storage.name(archive)}: name the archive instead"
        return Piece("rejected", location, reason=reason)
    return Piece(
        "archive" if is_archive(location) else "image", location, size_bytes=size_bytes, etag=etag
    )


def _below(parent: str, path: str) -> str:
    if not {".", ".."} & {*path.split("/")}:
        return storage.join(parent, path)
    # A store takes the dots of a key as they stand.
    scheme, mark, rest = parent.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(rest, path))


def _whole(size: float | None) -> int | None:
    return int(size) if size is not None and 0 <= size < 2**53 else None


def _columns(file: str) -> list[str]:
    """Return the column of locations, and those of ``KNOWN`` that a table has."""
    with _told_as_sentence(file):
        types = _header(file) if is_csv(file) else _schema(file)
    if {"emotion", "pixels"} <= {name.strip().lower() for name in types}:
        raise InputError(
            f"{file} is a table of pixels as FER2013 has them: `fer ingest` reads these; expected "
            f"a manifest with a column {_either(COLUMNS)}, a folder, an archive or an image."
        )
    column = next((name for name in COLUMNS if _is_text(types.get(name))), None)
    if column is None:
        found = ", ".join(f"{name} ({held})" for name, held in types.items())[:200] or "(none)"
        raise InputError(
            f"{file} has the columns {found}: expected one of text that is called "
            f"{_either(COLUMNS)} and names an image in each row."
        )
    return [column, *(name for name in KNOWN if name in types)]


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _header(file: str) -> dict[str, pa.DataType]:
    store, path = storage.filesystem(file)
    with store.open_input_stream(path, compression="detect") as stream:
        start = stream.read(MAX_ROW_BYTES)
    line = start.decode("utf-8-sig", errors="replace").splitlines()[:1]
    return dict.fromkeys(next(csv.reader(line), []), pa.string())


def _schema(file: str) -> dict[str, pa.DataType]:
    store, path = storage.filesystem(file)
    with store.open_input_file(path) as stream:
        schema = pq.read_schema(stream)
    return dict(zip(schema.names, schema.types, strict=True))


def _is_text(held: pa.DataType | None) -> bool:
    if held is not None and pa.types.is_dictionary(held):
        held = held.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return held is not None and any(test(held) for test in tests)


def _batches(file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some columns, locations as text and the others as ``KNOWN`` has them."""
    types = {name: KNOWN.get(name, pa.string()) for name in columns}
    store, path = storage.filesystem(file)
    if is_csv(file):
        with store.open_input_stream(path, compression="detect") as stream:
            yield from pc.open_csv(
                stream,
                parse_options=pc.ParseOptions(newlines_in_values=True),
                convert_options=pc.ConvertOptions(include_columns=columns, column_types=types),
            )
        return
    with store.open_input_file(path) as opened:
        for batch in pq.ParquetFile(opened).iter_batches(BATCH_ROWS, columns=columns):
            yield pa.RecordBatch.from_arrays(
                [batch.column(name).cast(held) for name, held in types.items()], names=columns
            )


@contextmanager
def _told_as_sentence(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, csv.Error) as error:
        told = str(error).splitlines()[0][:200].rstrip(".")
        raise InputError(
            f"{file} can't be read as a table of images: {told}; check it, and its quotes."
        ) from error
    except OSError as error:
        raise OSError(f"{file} can't be read to its end: {error}") from error
