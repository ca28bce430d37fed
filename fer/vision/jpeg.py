"""The structure of JPEG files (ITU-T T.81): their metadata, and files that end early."""

import re
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

SIGNATURE = b"\xff\xd8\xff"
SOI, EOI, SOS, COM = 0xD8, 0xD9, 0xDA, 0xFE
END_OF_IMAGE = bytes((0xFF, EOI))

_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""A marker, except for those that stand within the data of a scan."""

_MIN_METADATA_BYTES = {0xE0: 14, 0xE1: 2, 0xEE: 12}
"""Application segments that pixels depend on, and their sizes without marker and length: JFIF and
Adobe name the colors (T.871; T.872, 6.5.3), and EXIF and XMP say how the image is turned."""

_MIN_ZEROS = 16
"""This many zeros at the end of a file are no data, but room that was never filled."""


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each segment, up to EOI or the end of the file.

    A segment that the file's end cuts ends beyond the file.
    """
    at = 2
    while match := _MARKER.search(data, at):
        start, marker = match.start(), data[match.start() + 1]
        at = start + 2
        if marker not in (SOI, EOI):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield marker, start, at
        if marker == EOI:
            return


def without_metadata(data: bytes) -> bytes:
    """Return a file without comments and application segments that pixels do not depend on."""
    parts, kept = [], 0
    for marker, start, end in _segments(data):
        if marker == SOS:
            break
        if marker == COM or 0xE0 <= marker <= 0xEF:
            if end - start - 4 >= _MIN_METADATA_BYTES.get(marker, len(data)):
                continue
            parts.append(data[kept:start])
            kept = end
    return b"".join([*parts, data[kept:]])


def find_cut(data: bytes) -> int | None:
    """Return where the data of the pixels ends in a file that ends early.

    None if the file has an end-of-image marker after its first scan, or has no scan.
    """
    scan = next((end for marker, _, end in _segments(data) if marker == SOS), len(data))
    if scan >= len(data) or data.rfind(END_OF_IMAGE, scan) >= 0:
        return None
    filled = data.rstrip(b"\0")
    if len(data) - len(filled) < _MIN_ZEROS:
        filled = data
    elif filled.endswith(b"\xff"):
        # A zero after 0xFF belongs to the data.
        return len(filled) + 1
    # What follows 0xFF is missing: it was part of a marker, or a byte whose zero is missing.
    return len(filled.rstrip(b"\xff"))


def find_end(data: bytes) -> int:
    """Return where the first image's end-of-image marker stands, or the size of the file."""
    return next((start for marker, start, _ in _segments(data) if marker == EOI), len(data))


def looks_cut(image: Image.Image) -> bool:
    """Return whether the last pixel of a decoded JPEG has the gray with which decoders fill."""
    pixel = image.getpixel((image.width - 1, image.height - 1))
    values = pixel if isinstance(pixel, tuple) else (pixel,)
    return all(value in (127, 128) for value in values)


def lacks_scans(data: bytes) -> bool:
    """Return whether a file ends before scans that its pixels need.

    A scan refines some coefficients of some components down to a bit (T.81, B.2.3 and G.1.1.1).
    All 64 of each component must have reached their lowest bit.
    """
    missing: dict[int, set[int]] = {}
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            missing = {component: set(range(64)) for component in body[6::3]}
        elif marker == SOS and len(body) >= 6 and len(body) == 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            # Components of a sequential scan are coded as a whole.
            for component in body[1:-3:2] if bits & 0x0F == 0 else ():
                missing.get(component, set()).difference_update(range(first, last + 1))
    return any(missing.values())


def endings(data: bytes) -> tuple[bytes, bytes]:
    """Return two ends for a file that ends early, with which decoders read different pixels.

    The first bit after the data differs, so at least one of them changes the code that is cut. If
    nothing is missing, decoders ignore what follows the last block.
    """
    scan = [end for marker, _, end in _segments(data) if marker == SOS][-1]
    places = [data.rfind(bytes((0xFF, 0xD0 + number)), scan) for number in range(8)]
    # Restart markers are numbered modulo 8 in each scan.
    number = 1 + places.index(max(places)) if max(places) >= 0 else 0
    filler = bytes(1 + 101 * at % 253 for at in range(64))
    inverse = bytes(255 - byte for byte in filler)
    first, second = (
        b"".join(part + bytes((0xFF, 0xD0 + (number + at) % 8)) for at in range(8))
        for part in (filler, inverse)
    )
    return first + filler + END_OF_IMAGE, second + inverse + END_OF_IMAGE


def block_height(image: Image.Image, height: int) -> int:
    """Return the height in pixels of a row of blocks in an image that was decoded at a fraction.

    Args:
        image: The decoded image.
        height: Height of the whole image, in pixels.
    """
    assert isinstance(image, JpegImageFile)
    # A component is its id, its horizontal and vertical sampling, and its table.
    sampling = max(component[2] for component in image.layer)
    return max(1, round(8 * sampling * image.height / height))


def missing_share(one: Image.Image, other: Image.Image, block_height: int) -> float:
    """Return the share of pixels from the first on that differs, in the order of a JPEG's blocks.

    Args:
        one: An image.
        other: The same image, decoded with one of the ``endings``.
        block_height: Height in pixels of a row of blocks.

    Returns:
        0 if the images are the same; 1 if they differ from the first block on.
    """
    differs = np.asarray(one) != np.asarray(other)
    if differs.ndim == 3:
        differs = differs.any(axis=2)
    if not differs.any():
        return 0.0
    height, width = differs.shape
    top = int(differs.any(axis=1).argmax())
    # Interpolated colors change the row above a block, too.
    top = (top + (block_height > 2)) // block_height * block_height
    left = int(differs[top : top + block_height].any(axis=0).argmax())
    row_height = min(block_height, height - top)
    share: float = ((height - top) * width - left * row_height) / (height * width)
    return share
