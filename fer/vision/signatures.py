"""How image files and videos begin, to tell them from other files."""

import re

SIGNATURE_BYTES = 32
"""Number of bytes at the start of a file that ``is_image`` looks at."""

_SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n"
    rb"|\xff\xd8\xff"  # JPEG
    rb"|GIF8[79]a"
    rb"|II\*\0|MM\0\*|II\+\0|MM\0\+"  # TIFF and BigTIFF
    rb"|RIFF....WEBP"
    # BMP: reserved bytes are 0, and the size of the second header is one of a few.
    rb"|BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    # HEIC and AVIF: the brands of ISO/IEC 23008-12 and of AV1 Image File Format.
    rb"|\0\0..ftyp(?:hei[cxms]|hev[cxms]|mif[12]|msf1|avi[fs])"
    rb"|P[56]\s",  # PGM and PPM
    re.DOTALL,
)

_VIDEO_SIGNATURES = re.compile(
    rb"....ftyp(?!M4[ABP] |F4[AB] )"  # MP4 and MOV, unless it is an image or sound
    rb"|....(?:moov|mdat|wide)"  # MOV of old
    rb"|\x1a\x45\xdf\xa3"  # Matroska and WebM
    rb"|RIFF....AVI "
    rb"|\0\0\x01\xba"  # MPEG
    rb"|G.{187}G.{187}G"  # MPEG-TS: packets of 188 bytes
    rb"|.{4}G.{191}G",  # MPEG-TS of Blu-rays: packets of 192 bytes
    re.DOTALL,
)

VIDEO_SIGNATURE_BYTES = 2 * 188 + 1
"""Number of bytes at the start of a file that ``is_video`` looks at."""


def is_image(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is of a format that ``decode`` reads.

    Args:
        start: The first ``SIGNATURE_BYTES`` of the file, or all of a shorter one.
    """
    return _SIGNATURES.match(start) is not None


def is_video(start: bytes) -> bool:
    """Return whether a file begins like a video of a kind that ``fer.vision.video`` reads.

    Args:
        start: The first ``VIDEO_SIGNATURE_BYTES`` of the file, or all of a shorter one.
    """
    return _VIDEO_SIGNATURES.match(start) is not None and not is_image(start)
