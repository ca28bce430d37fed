"""Which formats are decoded, and what a file is that is not in one of them."""

import io
import re

import pillow_heif
from PIL import Image

from fer.errors import first_line

pillow_heif.register_heif_opener()
Image.init()

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "PPM")
"""Formats that Pillow may try. Its other readers are not needed, and some start programs."""

EXPECTED = "JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC, AVIF, PGM or PPM"

_OTHERS = {
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP {2}\r\n\x87\n|\xff\x4f\xff\x51",
    "a camera's RAW image": rb"FUJIFILMCCD-RAW|II(RO|RS|U\0)|.{4}ftypcrx |\0MRM|FOVb",
    "a Photoshop document": rb"8BP[SB]",
    "an icon": rb"\0\0[\x01\x02]\0[^\0]\0",
    "an OpenEXR image": rb"\x76\x2f\x31\x01",
    "a Radiance HDR image": rb"#\?(RADIANCE|RGBE)",
    "a DirectDraw surface": rb"DDS ",
    "a GIMP image": rb"gimp xcf",
    "a DICOM file": rb".{128}DICM",
    "a video": rb".{4}ftyp(iso|mp4|avc1|qt|M4V|3g)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ",
    "a PDF document": rb"%PDF-",
    "a ZIP archive": rb"PK\x03\x04",
    "a gzip file": rb"\x1f\x8b",
    "an SVG image": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg\b",
    "a web page": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(?i:!DOCTYPE html|html|head|body)\b",
    "a pointer of Git LFS": rb"version https://git-lfs",
}
"""Other formats that come under the names of images, by the first bytes of a file."""

_HEAD_BYTES = 1024


def why_not_opened(data: bytes) -> str:
    """Return why Pillow opens a file in none of ``FORMATS``, as a clause."""
    head = data[:_HEAD_BYTES]
    if not head:
        return "the file is empty"
    if not head.strip(b"\0"):
        return "the file starts with zeros"
    if (damage := _damage(data)) is not None:
        return damage
    for name, start in _OTHERS.items():
        if re.match(start, head, re.DOTALL):
            return f"the file is {name}: expected {EXPECTED}"
    return "its format is not supported"


def _damage(data: bytes) -> str | None:
    """Return what is wrong with a file in one of ``FORMATS``; None if it is in another."""
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        # Reasons that are texts say that support for a format is missing.
        if accept is None or accept(data[:16]) is not True:
            continue
        try:
            factory(io.BytesIO(data), "")
        except Exception as error:
            return f"the {name} file is damaged ({first_line(error)[:200]})"
    return None
