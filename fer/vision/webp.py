"""The structure of WebP files (RFC 9649): chunks of pixels, also unfilled ones, and metadata."""

import re

SIGNATURE = b"RIFF"

_NEEDED = re.compile(rb"VP8X|VP8L|VP8 |ALPH|ANIM|ANMF|EXIF")  # codespell:ignore
"""Chunks of pixels, and EXIF, which says how the image is turned."""

_VP8X_SIZE = (10).to_bytes(4, "little")

_ICC_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x20, 0x08, 0x04
"""Flags in the first byte of VP8X: which metadata follow."""


_MIN_ZEROS = 32
"""This many zeros at the end of compressed pixels are no data, but room that was never filled."""


def ends_in_zeros(data: bytes) -> bool:
    """Return whether the last pixels of a lossy image are missing, and zeros are in their place.

    Downloads that reserve room and break off leave such files. Decoders make up pixels from them.
    Of a lossless image, zeros may be pixels.
    """
    # Animations have their frames in chunks of other chunks, and are not looked into.
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"VP8 ":
            pixels = data[at + 8 : at + 8 + size]
            return len(pixels) - len(pixels.rstrip(b"\0")) >= _MIN_ZEROS
        at += 8 + size + size % 2
    return False


def without_metadata(data: bytes) -> bytes:
    """Return a file without color profiles, XMP and EXIF that is cut.

    Chunks are searched, since the size of the metadata before one may be wrong.
    """
    if data[12:16] == b"VP8X" and data[16:20] != _VP8X_SIZE:
        return data
    kinds, parts, at = set(), [], 12
    while match := _NEEDED.search(data, at):
        start = match.start()
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        at = start + 8 + size
        if at > len(data):
            break
        kinds.add(match[0])
        # Chunks are padded to an even size.
        parts.append(data[start:at] + bytes(size % 2))
    if b"VP8X" in kinds:
        flags = _ICC_FLAG | _XMP_FLAG | (0 if b"EXIF" in kinds else _EXIF_FLAG)
        parts[0] = parts[0][:8] + bytes((parts[0][8] & ~flags,)) + parts[0][9:]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
