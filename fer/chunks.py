"""A source cut into chunks of images: what is labelled at once, and once."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fer.sources import Piece

MIN_IMAGES, MAX_IMAGES = 32, 4096
"""Images a chunk: few of them in a small source, so that all of a cluster has some."""

GROWTH = 16
"""A chunk has one in so many of the images that came before it."""

MAX_BYTES = 64 * 2**20
"""What the images of a chunk may carry of an archive's bytes."""


@dataclass(frozen=True)
class Chunk:
    """Some pieces of a source, and a name that they have whenever it is cut.

    Attributes:
        name: A digest of the source and the number of the chunk.
        pieces: The images, and what is in no condition to be one.
    """

    name: str
    pieces: tuple[Piece, ...]


def cut(source: str, pieces: Iterable[Piece]) -> Iterator[Chunk]:
    """Cut the pieces of a source, in their order, into chunks that grow as the source does.

    Args:
        source: Location of the source.
        pieces: What ``fer.sources`` reads from it, the same each time.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:20]
    batch: list[Piece] = []
    number = size_bytes = 0
    for total, piece in enumerate(pieces, start=1):
        batch.append(piece)
        size_bytes += len(piece.data or b"")
        enough = min(MAX_IMAGES, max(MIN_IMAGES, total // GROWTH))
        if len(batch) >= enough or size_bytes >= MAX_BYTES:
            yield Chunk(f"{digest}-{number:06d}", tuple(batch))
            number, batch, size_bytes = number + 1, [], 0
    if batch:
        yield Chunk(f"{digest}-{number:06d}", tuple(batch))
