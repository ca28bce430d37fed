"""The structure of TIFF files (TIFF 6.0): pages, tags that pixels depend on, and other metadata."""

import struct
from typing import Literal, NamedTuple

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files."""

_PIXEL_TAGS = frozenset(
    (
        *(254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284),
        *(292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, 512, 513, 514),
        *(519, 520, 521, 529, 530, 531, 532),
    )
)
"""Tags of size, layout, compression, color and orientation (TIFF 6.0, appendix A)."""


class _Layout(NamedTuple):
    """Sizes in bytes in a kind of TIFF: of the header, a number of entries, an entry, an offset."""

    header: int
    number: int
    entry: int
    offset: int


_CLASSIC, _BIG = _Layout(4, 2, 12, 4), _Layout(8, 8, 20, 8)


MAX_WALKED_PAGES = 16
"""Pages of a file that are looked at."""

_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101
"""The tag NewSubfileType, and its bits for smaller copies of another page and for masks."""


def has_more_pages(data: bytes) -> bool:
    """Return whether a second page of a file is a picture, and no thumbnail or mask."""
    order, layout = _read_layout(data)
    start, seen = _number(data, layout.header, layout.offset, order), {0}
    for page in range(MAX_WALKED_PAGES):
        entries = start + layout.number
        end = entries + layout.entry * _number(data, start, layout.number, order)
        # Damaged files have pages that follow each other in a circle.
        if start in seen or end > len(data):
            return False
        seen.add(start)
        kinds = (
            _number(data, at + layout.entry - layout.offset, 4, order)
            for at in range(entries, end, layout.entry)
            if _number(data, at, 2, order) == _SUBFILE_TYPE
        )
        if page and not next(kinds, 0) & _REDUCED_OR_MASK:
            return True
        start = _number(data, end, layout.offset, order)
    return False


def _read_layout(data: bytes) -> tuple[Literal["little", "big"], _Layout]:
    return "little" if data.startswith(b"II") else "big", _BIG if b"+" in data[2:4] else _CLASSIC


def _number(data: bytes, start: int, size: int, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data[start : start + size], order)


def without_metadata(data: bytes) -> bytes:
    """Return a file whose first image has only the tags that its pixels depend on.

    The list of tags is written anew at the end of the file; values stay where they are.
    """
    order, layout = _read_layout(data)
    header, entry = layout.header, layout.entry
    start = _number(data, header, layout.offset, order)
    first = start + layout.number
    number = min(_number(data, start, layout.number, order), (len(data) - first) // entry)
    entries = (data[first + entry * at : first + entry * (at + 1)] for at in range(number))
    short = struct.Struct("<H" if order == "little" else ">H")
    kept = [each for each in entries if short.unpack_from(each)[0] in _PIXEL_TAGS]
    even = data + bytes(len(data) % 2)
    return b"".join(
        (
            even[:header],
            len(even).to_bytes(layout.offset, order),
            even[header + layout.offset :],
            len(kept).to_bytes(layout.number, order),
            *kept,
            bytes(layout.offset),
        )
    )
