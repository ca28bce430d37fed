"""Read sources into items: FER2013's CSV files, class folders, zip and tar archives.

A source is read sequentially into items: encoded images and blocks of CSV rows. Parsing takes most
of the time, so it is a separate step that a cluster can run in parallel: see ``fer.data.parsing``.
"""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import IO, cast

from fer import storage
from fer.data.archives import read_tar, read_zip
from fer.data.items import SourceItem
from fer.data.kinds import LABEL_LIST, TAR_SUFFIXES, is_image, is_unknown, is_video
from fer.data.origins import Origin, Reader, compose, error_text
from fer.data.rejects import RejectedError
from fer.data.tables import read_csv_blocks, read_parquet_rows
from fer.errors import InputError, JobError
from fer.storage import listing
from fer.vision import signatures
from fer.vision.loading import MAX_IMAGE_BYTES


def read_items(
    location: str,
    *,
    name: str | None = None,
    with_tables: bool = True,
    with_videos: bool = False,
    all_files: bool = False,
) -> Iterator[SourceItem]:
    """Yield the items of a folder, an archive, a CSV file or an image, in order.

    A file that cannot be read becomes a rejected item. Memory holds one item at a time, whatever
    the size of the source.

    Args:
        location: The source.
        name: Its name, with which the path of each item begins; None for the last segment of the
            location.
        with_tables: Whether to read CSV files; otherwise they are ignored.
        with_videos: Whether to read the videos of archives; otherwise they are ignored.
        all_files: Whether files whose names do not say what they are become ``unknown``; otherwise
            they are ignored. Those in archives become images or are ignored.

    Raises:
        StoreError: The store refuses access to the whole bucket.
    """
    name, is_folder = name or storage.base_name(location), storage.is_folder(location)
    entries = listing.walk(location) if is_folder else iter([listing.describe(location)])
    for entry in entries:
        path = storage.join(name, entry.name) if is_folder else name
        wanted = (with_tables, with_videos, all_files)
        origin = Origin(entry.location, compose(path), entry.etag, *wanted)
        yield from _read_file(entry, origin)


def _read_file(entry: listing.Entry, origin: Origin) -> Iterator[SourceItem]:
    """Yield the items of a file: one that may be an image is not opened, other files are."""
    path = origin.path
    if entry.problem:
        yield origin.reject(entry.problem, "not_a_file")
        return
    if is_image(path):
        yield origin.image(None, entry.size_bytes)
        return
    if not origin.is_wanted(path):
        yield origin.ignore()
        return
    if is_unknown(path):
        yield replace(origin.image(None, entry.size_bytes), kind="unknown")
        return
    # Zip and Parquet files have a directory at their end; others are read from start to end.
    is_indexed = path.lower().endswith((".zip", ".parquet"))
    opener = storage.open_seekable if is_indexed else storage.open_stream
    try:
        with opener(entry.location) as stream:
            yield from _read_stream(stream, origin)
    except (InputError, JobError):
        raise
    # The libraries raise all kinds of exceptions on damaged files.
    except Exception as error:
        storage.check_store(entry.location)
        yield origin.fail(f"can't be read to its end: {error_text(error)}", error)


def _read_stream(stream: IO[bytes], origin: Origin) -> Iterator[SourceItem]:
    """Yield the items of an open file with the reader for its name."""
    name = origin.path.lower()
    reader = next((reader for suffix, reader in _READERS if name.endswith(suffix)), None)
    if reader is not None:
        yield from reader(stream, origin)
    elif is_image(name):
        yield _read_image(stream, origin)
    elif origin.with_videos and is_video(name):
        yield _read_video(stream, origin)
    elif origin.is_wanted(name):
        yield _read_unknown(stream, origin)
    else:
        yield origin.ignore()


def _read_unknown(stream: IO[bytes], origin: Origin) -> SourceItem:
    """Return the image or the video in a stream whose name does not say what it is."""
    start = stream.read(signatures.VIDEO_SIGNATURE_BYTES)
    if signatures.is_image(start):
        return _read_image(stream, origin, start)
    if origin.with_videos and signatures.is_video(start):
        return _read_video(stream, origin, start)
    return origin.ignore()


def _read_video(stream: IO[bytes], origin: Origin, start: bytes = b"") -> SourceItem:
    """Return the video in a stream of which ``start`` has been read."""
    video = _read_image(stream, origin, start)
    return origin.reject_large_video() if video.data is None else replace(video, kind="video")


def _read_image(stream: IO[bytes], origin: Origin, start: bytes = b"") -> SourceItem:
    """Return the image in a stream of which ``start`` has been read."""
    data = start + stream.read(MAX_IMAGE_BYTES + 1 - len(start))
    # An image that is too large keeps its size but not its bytes; `fetch_image` rejects it.
    return origin.image(data if len(data) <= MAX_IMAGE_BYTES else None, len(data))


def _read_gzip(stream: IO[bytes], origin: Origin) -> Iterator[SourceItem]:
    with gzip.open(stream) as unpacked:
        yield from _read_stream(cast(IO[bytes], unpacked), origin.without_suffix(".gz"))


def _read_csv(stream: IO[bytes], origin: Origin) -> Iterator[SourceItem]:
    """Yield a CSV file in blocks of rows."""
    if not origin.with_tables:
        yield origin.ignore()
        return
    try:
        for block in read_csv_blocks(stream):
            yield origin.rows(*block)
    except RejectedError as error:
        yield origin.reject(error.reason, error.code)


def _read_parquet(stream: IO[bytes], origin: Origin) -> Iterator[SourceItem]:
    """Yield the images of a Parquet file as Hugging Face stores them."""
    if not origin.with_tables:
        yield origin.ignore()
        return
    if origin.depth:
        yield origin.reject(
            "is a Parquet file inside an archive: unpack the archive first", "nested_archive"
        )
        return
    try:
        for number, row in enumerate(read_parquet_rows(stream), start=1):
            yield origin.table_image(number, row)
    except RejectedError as error:
        yield origin.reject(error.reason, error.code)


def _read_label_list(stream: IO[bytes], origin: Origin) -> Iterator[SourceItem]:
    if origin.with_tables:
        yield SourceItem(
            "label_list", origin.source, origin.path, data=stream.read(MAX_IMAGE_BYTES)
        )
    else:
        yield origin.ignore()


_READERS: tuple[tuple[str | tuple[str, ...], Reader], ...] = (
    (".zip", partial(read_zip, read_content=_read_stream)),
    (TAR_SUFFIXES, partial(read_tar, read_content=_read_stream)),
    (".gz", _read_gzip),
    (".csv", _read_csv),
    (".parquet", _read_parquet),
    (LABEL_LIST, _read_label_list),
)
"""Reader for each kind of file by the end of its name. The first match counts: ``.tar.gz`` is a tar
archive, any other ``.gz`` a single compressed file."""
