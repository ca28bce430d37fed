"""Chunks: groups of images that are labeled together and written to one file."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fer.data.items import SourceItem
from fer.vision.shape import ImageShape

MIN_IMAGES, MAX_IMAGES = 32, 4096
"""Fewest and most images in a chunk. Small sources get small chunks, so that every node of a
cluster has work."""

GROWTH = 16
"""A chunk holds one image for every 16 images in the chunks before it, within the limits above."""

MAX_BYTES = 64 * 2**20
"""A chunk is complete when the image data that it carries out of an archive reaches this size, or
when the crops of its images would, with one face each."""

UNREAD = "-unread"
"""Ends the name of a chunk of an archive or a video that can't be read to its end for the moment.
Other chunks follow from a later try, so a resumed run deletes its file first."""


@dataclass(frozen=True)
class Chunk:
    """A group of items of a source.

    Attributes:
        name: A digest of the items' locations and ETags and of a salt. The same items always get
            the same name.
        items: The images, and the items that were rejected.
    """

    name: str
    items: tuple[SourceItem, ...]


def split_into_chunks(
    items: Iterable[SourceItem],
    salt: str = "",
    num_shares: int = 1,
    max_images: int = MAX_IMAGES,
) -> Iterator[Chunk]:
    """Split the items of a source, in order, into chunks that grow with the number of items.

    Args:
        items: The items that ``fer.data.readers`` reads from a source, or from a share of it.
        salt: Changes the names of the chunks, so that labeling the same items again writes files
            with other names.
        num_shares: Number of shares that the source is read in, each split into chunks of its own.
            All are assumed to be as large as this one, but a chunk grows to at most half the number
            of items before it in this share.
        max_images: Most items in a chunk.
    """
    chunk: list[SourceItem] = []
    size_bytes = num_before = 0
    for item in items:
        chunk.append(item)
        size_bytes += len(item.data or b"")
        wanted = min(num_before * num_shares // GROWTH, num_before // 2)
        full = min(max_images, max(MIN_IMAGES, wanted))
        if len(chunk) >= full or size_bytes >= MAX_BYTES:
            yield name_chunk(chunk, salt)
            num_before += len(chunk)
            chunk, size_bytes = [], 0
    if chunk:
        yield name_chunk(chunk, salt)


def most_images(shape: ImageShape) -> int:
    """Return the most images in a chunk whose crops have a shape, since memory holds all of them.

    It is ``MAX_IMAGES`` for crops of up to 128x128 gray levels.
    """
    return min(MAX_IMAGES, MAX_BYTES // shape.num_bytes)


def name_chunk(items: Sequence[SourceItem], salt: str) -> Chunk:
    """Return a chunk of items, named by a digest of their locations and ETags and of a salt."""
    digest = hashlib.sha256(salt.encode())
    for item in items:
        digest.update(f"{item.source}\n{item.etag}\n".encode())
    return Chunk(digest.hexdigest()[:24], tuple(items))
