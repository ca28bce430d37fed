"""The structure of TIFF files (TIFF 6.0): tags that pixels depend on, and metadata beside them."""

import struct
from typing import Literal, NamedTuple

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


def without_metadata(data: bytes) -> bytes:
    """Return a file whose first image has only the tags that its pixels depend on.

    The list of tags is written anew at the end of the file; values stay where they are.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    layout = _BIG if b"+" in data[2:4] else _CLASSIC
    header, entry = layout.header, layout.entry
    start = int.from_bytes(data[header : header + layout.offset], order)
    first = start + layout.number
    number = min(int.from_bytes(data[start:first], order), (len(data) - first) // entry)
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
