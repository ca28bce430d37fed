"""The list of all images of a source, as chunks in an output: made once, by the whole cluster.

A file of the manifest is a chunk, or names an archive, whose chunks are cut when it is read. What
is to be done is what the manifest has and the labels have not.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray.data

from fer import parts, storage
from fer.chunks import Chunk, cut
from fer.errors import InputError
from fer.sources import Piece, first, list_pieces, read_pieces
from ray_jobs import stages

FOLDER, COMPLETE = "manifest", "manifest.json"

ARCHIVE = "archive-"
"""Begins the name of a file that names an archive."""

SUFFIX = ".parquet"

ENOUGH_PARTS = 64
"""Parts that a listing is divided into, if the source has so many folders."""


def make(images: str, output: str, limit: int | None) -> None:
    """List a source, unless that is done.

    Args:
        images: Location of a folder, an archive or an image.
        output: Where the manifest is written.
        limit: Number of images to stop after, in the order of their names.
    """
    if storage.exists(storage.join(output, COMPLETE)):
        return
    # A listing that was cut short may have found another order of things than the next will.
    storage.delete(storage.join(output, FOLDER))
    divided = [(images, "walk")] if limit else divide(images)
    listed = (
        ray.data.from_items([{"location": where, "how": how} for where, how in divided])
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            _list,
            fn_kwargs={"output": output, "limit": limit},
            batch_format="numpy",
            batch_size=1,
            # A lister waits more than it computes.
            num_cpus=0.25,
        )
    )
    counts = Counter[str]()
    for part in stages.tallies(listed):
        counts.update(part)
    storage.write_bytes(storage.join(output, COMPLETE), json.dumps(counts).encode())


def count_images(output: str) -> int | None:
    """Return how many images a manifest has; None if there are archives, which were not opened."""
    counts = json.loads(storage.read_bytes(storage.join(output, COMPLETE)))
    return None if counts.get("archive") else int(counts.get("image", 0))


def divide(images: str) -> list[tuple[str, str]]:
    """Divide a folder among those that list it.

    Returns:
        Locations, each to ``walk`` through, or to look only for the ``files`` right inside.
    """
    walks, files = deque([images]), []
    wide: list[str] = []
    while walks and len(walks) + len(wide) < ENOUGH_PARTS:
        location = walks.popleft()
        inside = storage.children(location) if storage.is_folder(location) else None
        if inside is None:
            wide.append(location)
            continue
        walks.extend(inside[0])
        files.append(location)
    return [*((each, "walk") for each in (*wide, *walks)), *((each, "files") for each in files)]


def _list(part: dict[str, np.ndarray], output: str, limit: int | None) -> dict[str, np.ndarray]:
    location, how = str(part["location"][0]), str(part["how"][0])
    counts = Counter[str]()
    images = _without_archives(first(list_pieces(_entries(location, how)), limit), output, counts)
    for chunk in cut(f"{how} {location}", images):
        _write(output, chunk)
    return stages.tally_batch(counts)


def _entries(location: str, how: str) -> Iterable[storage.Entry]:
    if not storage.is_folder(location):
        return [storage.describe(location)]
    if how == "walk":
        return storage.walk(location)
    inside = storage.children(location)
    return inside[1] if inside else ()


def _without_archives(
    pieces: Iterable[Piece], output: str, counts: Counter[str]
) -> Iterator[Piece]:
    """Count pieces, write down the archives, and yield the others."""
    for piece in pieces:
        counts[piece.kind] += 1
        if piece.kind == "archive":
            digest = hashlib.sha256(piece.source.encode()).hexdigest()[:20]
            _write(output, Chunk(ARCHIVE + digest, (piece,)))
        else:
            yield piece


def _write(output: str, chunk: Chunk) -> None:
    location = storage.join(output, FOLDER, f"{chunk.name}.parquet")
    parts.write_table(location, stages.to_table(chunk.pieces))


# What is to be done.


def chunks(output: str, done: Collection[str], limit: int | None) -> ray.data.Dataset:
    """Return the chunks of a manifest as rows of ``chunk``, a name, and ``table``, its pieces.

    Args:
        output: Where the manifest is.
        done: Names of chunks to leave out.
        limit: Number of images of each archive to stop after.
    """
    listed = {name.removesuffix(SUFFIX) for name in storage.names(storage.join(output, FOLDER))}
    names = ray.data.from_items([{"file": name} for name in sorted(listed - {*done})])
    return names.repartition(target_num_rows_per_block=1).map_batches(
        _open,
        fn_kwargs={"output": output, "done": frozenset(done), "limit": limit},
        batch_format="numpy",
        batch_size=1,
        # A reader waits more than it computes, and another need keeps it apart from what follows.
        num_cpus=0,
    )


def _open(
    file: dict[str, np.ndarray], output: str, done: frozenset[str], limit: int | None
) -> Iterator[dict[str, list[Any]]]:
    name = str(file["file"][0])
    store, path = storage.filesystem(storage.join(output, FOLDER, name + SUFFIX))
    table = pq.read_table(path, filesystem=store)
    if not name.startswith(ARCHIVE):
        yield {"chunk": [name], "table": [stages.pack(table)]}
        return
    archive = table["source"][0].as_py()
    for chunk in cut(archive, _members(archive, limit)):
        if chunk.name not in done:
            yield {"chunk": [chunk.name], "table": [stages.pack(stages.to_table(chunk.pieces))]}


def _members(archive: str, limit: int | None) -> Iterator[Piece]:
    try:
        yield from first(read_pieces(archive), limit)
    except InputError:
        yield Piece("rejected", archive, reason="was there when it was listed, and is gone")
