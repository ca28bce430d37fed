"""Manifests: tables that list the images to label, read as a stream.

Each row names an image or an archive by its path or URI. Relative paths start in the manifest's
folder. A table of labels is also a manifest, so images that failed can be labeled again.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from fer import storage
from fer.data.items import MEMBER_SEPARATOR, ItemKind, SourceItem
from fer.data.kinds import is_archive, is_packed_image, is_video
from fer.errors import InputError
from fer.labels.manifest_tables import Columns, Row, is_table, read_rows, read_types
from fer.storage import listing
from fer.storage.local import escape_bytes

LOCATION_COLUMNS = ("image", "uri", "url", "path", "file", "filename", "key")
"""Accepted names of the column of locations, in any case; a manifest's first match is used."""

_SPELLINGS = {"filename": ("filename", "file_name"), "path": ("path", "file_path", "image_path")}
"""Other spellings of these names."""


def is_manifest(location: str) -> bool:
    """Return whether a location is a table, or a folder of tables only."""
    if not storage.is_folder(location):
        return is_table(location)
    # Images may follow thousands of tables, so the listing ends only with the first other file.
    names = (entry.name for entry in listing.walk(location))
    are_tables = (is_table(name) for name in names if not storage.base_name(name).startswith("_"))
    return next(are_tables, False) and all(are_tables)


def is_bad_row(location: str) -> bool:
    """Return whether a rejected item is a manifest's row that names nothing that can be opened."""
    file, mark, number = location.rpartition("#")
    if mark and number.isdigit() and is_table(file):
        return True
    return _is_foreign(location)


def _is_foreign(location: str) -> bool:
    """Return whether a location has a scheme that can't be opened, as that of a web page."""
    if not storage.is_uri(location) or location.lower().startswith("s3://"):
        return False
    try:
        storage.filesystem(location)
    except InputError:
        return True
    return False


def list_manifest_files(location: str) -> list[str]:
    """Return the files of a manifest, sorted by name."""
    if not storage.is_folder(location):
        return [location]
    return [entry.location for entry in listing.walk(location) if is_table(entry.name)]


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
    file = list_manifest_files(location)[0]
    # The first rows show more than the names of the columns, such as another encoding.
    next(read_rows(file, _columns(file)), None)


def read_manifest(location: str) -> Iterator[SourceItem]:
    """Yield the images, videos and archives that a manifest lists, in order, without opening them.

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
    columns = _columns(file)
    folder = _start_of(columns.location, file)
    for number, row in enumerate(read_rows(file, columns), start=1):
        problem = _problem(row)
        if problem is None:
            yield _to_item(row, folder)
        else:
            reason = f"names no image: its {columns.location} {problem}"
            yield SourceItem("rejected", f"{file}#{number}", reason=reason)


def _start_of(column: str, file: str) -> str:
    """Return the folder in which the relative paths of a column start; a key's is its bucket."""
    folder = posixpath.dirname(file)
    if column.strip().lower() == "key" and storage.is_uri(file):
        return "/".join(file.split("/")[:3])
    return folder


def _problem(row: Row) -> str | None:
    """Return why a row does not name a file, as a clause; None if it does."""
    if row.location in (None, ""):
        return "is empty"
    if not isinstance(row.location, str):
        return "is not text"
    try:
        _escape_surrogates(row.location)
    except UnicodeEncodeError as error:
        return f"contains {error.object[error.start]!r}, which is half a character"
    return "contains a zero byte" if "\0" in row.location else None


def _escape_surrogates(text: str) -> str:
    """Spell bytes that are not valid UTF-8 as labels do.

    In JSON Lines they may stand as surrogates, which is how Python lists names.
    """
    return escape_bytes(text.encode("utf-8", "surrogateescape"))


def _to_item(row: Row, folder: str) -> SourceItem:
    text = row.location
    try:
        location = storage.resolve(text) if storage.is_uri(text) else _join(folder, text)
        location = _escape_surrogates(location)
    except InputError as error:
        # A bucket that these credentials can't read fails the job at once, not row by row.
        if text.lower().startswith("s3://"):
            raise
        reason = f"can't be opened: {str(error).rstrip('.')}"
        return SourceItem("rejected", _escape_surrogates(text), reason=reason)
    archive, is_member, _ = location.rpartition(MEMBER_SEPARATOR)
    if is_member and is_archive(archive):
        reason = f"is a member of {storage.base_name(archive)}; name the archive instead"
        return SourceItem("rejected", location, reason=reason)
    return SourceItem(
        _kind_of(location),
        location,
        size_bytes=_to_size_bytes(row.size_bytes),
        etag=(row.etag or "").strip('"') or None,
    )


def _kind_of(location: str) -> ItemKind:
    if is_archive(location) or is_packed_image(location):
        return "archive"
    return "video" if is_video(location) else "image"


def _join(folder: str, path: str) -> str:
    if not {".", ".."} & {*path.split("/")}:
        return storage.join(folder, path)
    # Object stores do not resolve dots in a key.
    scheme, mark, rest = folder.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(rest, path))


def _to_size_bytes(size: float | None) -> int | None:
    """Convert a size to an integer; None where a float can't represent it exactly."""
    return int(size) if size is not None and 0 <= size < 2**53 else None


def _columns(file: str) -> Columns:
    """Return the names of a manifest's columns."""
    types = read_types(file)
    if {"emotion", "pixels"} <= {name.strip().lower() for name in types}:
        raise InputError(
            f"{file} is a table of pixels like FER2013, which `fer ingest` reads; expected a "
            f"manifest with a column {_join_with_or(LOCATION_COLUMNS)}, a folder, an archive or an "
            "image."
        )
    texts = {name: type_ for name, type_ in types.items() if _is_text(type_)}
    spellings = [text for name in LOCATION_COLUMNS for text in _SPELLINGS.get(name, (name,))]
    column = next(filter(None, (_find(texts, spelling) for spelling in spellings)), None)
    if column is None:
        columns = ", ".join(f"{name} ({type_})" for name, type_ in types.items())[:200]
        raise InputError(
            f"{file} has the columns {columns or '(none)'}; expected a text column named "
            f"{_join_with_or(LOCATION_COLUMNS)} that names an image in each row."
        )
    return Columns(column, _find(types, "size_bytes"), _find(types, "etag"))


def _find(types: Mapping[str, pa.DataType], name: str) -> str | None:
    """Return the column of a name, or one that differs from it only in case and spaces."""
    if name in types:
        return name
    return next((column for column in types if column.strip().lower() == name), None)


def _join_with_or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(type_) for test in tests)
