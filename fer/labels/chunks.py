"""A source cut into chunks of images: what is labeled at once, and once."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fer.data.sources import Piece

MIN_IMAGES, MAX_IMAGES = 32, 4096
"""Images a chunk: few of them in a small source, so that all of a cluster has some."""

GROWTH = 16
"""A chunk has one in so many of the images that came before it."""

MAX_BYTES = 64 * 2**20
"""What the images of a chunk may carry of an archive's bytes."""


@dataclass(frozen=True)
class Chunk:
    """Some pieces of a source, and a name that they have whenever they are cut.

    Attributes:
        name: A digest of what the pieces are and in which state, and of the salt.
        pieces: The images, and what is in no condition to be one.
    """

    name: str
    pieces: tuple[Piece, ...]


def cut(pieces: Iterable[Piece], salt: str = "", num_parts: int = 1) -> Iterator[Chunk]:
    """Cut the pieces of a source, in their order, into chunks that grow as the source does.

    Args:
        pieces: What ``fer.data.sources`` reads from it, or from a part of it.
        salt: Sets the chunks' names apart from those of the same pieces at another time.
        num_parts: Parts of the source that are cut on their own, taken to be as large as this one,
            but for no chunk of more than half of what came before it.
    """
    batch: list[Piece] = []
    size_bytes = before = 0
    for piece in pieces:
        batch.append(piece)
        size_bytes += len(piece.data or b"")
        grown = min(before * num_parts // GROWTH, before // 2)
        enough = min(MAX_IMAGES, max(MIN_IMAGES, grown))
        if len(batch) >= enough or size_bytes >= MAX_BYTES:
            yield _chunk(batch, salt)
            before += len(batch)
            batch, size_bytes = [], 0
    if batch:
        yield _chunk(batch, salt)


def _chunk(pieces: list[Piece], salt: str) -> Chunk:
    digest = hashlib.sha256(salt.encode())
    for piece in pieces:
        digest.update(f"{piece.source}\n{piece.etag}\n".encode())
    return Chunk(digest.hexdigest()[:24], tuple(pieces))
