"""The structure of PNG files (ISO/IEC 15948): ancillary chunks, and files that end early."""

import io
import struct
import zlib
from collections.abc import Iterator
from math import ceil

from PIL.PngImagePlugin import PngStream

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by color type."""

_INFLATED_BYTES = 2**20

_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def ends_early(data: bytes) -> bool:
    """Return whether a PNG file lacks its last chunk."""
    return all(kind != b"IEND" for kind, _, _ in _chunks(data))


def lacks_rows(data: bytes) -> bool:
    """Return whether the compressed pixels of a PNG file end before the last row.

    Pillow fills what is missing with zeros if the compressed data ends in good order.
    """
    width, height, depth, color, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    # Pillow refuses interlaced images that are cut.
    if interlace:
        return False
    # Each row starts with the number of its filter.
    needed: int = height * (1 + ceil(width * depth * _CHANNELS[color] / 8))
    return _count_inflated(data, needed) < needed


def _count_inflated(data: bytes, limit: int) -> int:
    """Return how many bytes the compressed pixels have; it stops counting above ``limit``."""
    inflate, number = zlib.decompressobj(), 0
    for kind, start, end in _chunks(data):
        rest = data[start + 8 : end - 4] if kind == b"IDAT" else b""
        while rest and number < limit:
            number += len(inflate.decompress(rest, _INFLATED_BYTES))
            rest = inflate.unconsumed_tail
    return number


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, and the start and end of its length, kind, body and checksum.

    The last chunk of a file that is cut ends beyond the file.
    """
    start = len(SIGNATURE)
    while start + 8 <= len(data):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def without_damaged_chunks(data: bytes) -> bytes:
    """Return a file without ancillary chunks that are damaged, or that Pillow refuses to read.

    Of an animation, only the default image is left.
    """
    stream, parts = PngStream(io.BytesIO()), [SIGNATURE]
    for kind, start, end in _chunks(data):
        # The header is read as well: what transparency looks like depends on it.
        is_harmless = kind not in _ANIMATION and _is_readable(stream, data[start:end])
        # The case of the first letter says whether pixels need the chunk.
        if kind[:1].isupper() or is_harmless:
            parts.append(data[start:end])
    return b"".join(parts)


def _is_readable(stream: PngStream, chunk: bytes) -> bool:
    kind, body, checksum = chunk[4:8], chunk[8:-4], chunk[-4:]
    if kind == b"IDAT" or zlib.crc32(kind + body) != int.from_bytes(checksum, "big"):
        return False
    stream.fp = io.BytesIO(body)
    try:
        stream.call(kind, 0, len(body))
    except AttributeError:
        # Pillow does not know the chunk, and skips it.
        return kind.isalpha()
    # Pillow raises all kinds of exceptions on damaged chunks, and refuses texts above 1 MiB.
    except Exception:
        return False
    return True
