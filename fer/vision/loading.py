"""Load the pixels of image files within limits of time and memory."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image, UnidentifiedImageError
from PIL.PpmImagePlugin import PpmImageFile

from fer.vision.convert import ignore_unused_alpha
from fer.vision.formats import FORMATS, why_not_opened
from fer.vision.hdr import is_hdr, to_standard

MAX_IMAGE_BYTES = 64 * 2**20
"""Larger files are not decoded."""

MAX_IMAGE_PIXELS = 89_478_485
"""Images with more pixels are not decoded. It is Pillow's own limit, 256 MiB of RGB."""

MAX_SCANNED_PIXELS = 2**31
"""Limit of the pixels in all scans of a progressive JPEG: 24 scans of the largest image."""


class ImageError(ValueError):
    """An image that can't be used.

    Attributes:
        status: Status of the image in the labels.
        message: Reason, in one sentence.
    """

    def __init__(self, status: Literal["unreadable", "too_large"], message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


Scale = Callable[[tuple[int, int]], float]
"""Returns the factor by which an image of a width and height will be shrunk after it is loaded."""


@dataclass(frozen=True)
class LoadedImage:
    """An image whose pixels are in memory.

    Attributes:
        image: The image, not turned yet; a JPEG may be smaller than its file says.
        size: Width and height of the whole image before it is turned, in pixels.
        note: What the file lacks, or None.
    """

    image: Image.Image
    size: tuple[int, int]
    note: str | None = None


def load_pixels(data: bytes, mode: str, scale: Scale) -> LoadedImage:
    """Load the pixels of an image file.

    Args:
        data: The file.
        mode: Mode into which a JPEG is decoded.
        scale: A JPEG is decoded at a fraction of its size, but at no less than this needs.

    Raises:
        ImageError: The image has too many pixels, or would take too long to decode.
        UnidentifiedImageError: The file is of no format that is decoded. Pillow raises further
            exceptions on damaged files.
    """
    image = _open(data)
    size = image.size
    # Other formats are excluded: a draft of HEIC would be its thumbnail, which may show anything.
    if image.format in ("JPEG", "MPO"):
        shrunk = max(1.0, scale(size))
        image.draft(mode, (max(1, int(size[0] / shrunk)), max(1, int(size[1] / shrunk))))
    image.load()
    ignore_unused_alpha(image)
    return LoadedImage(_standard_range(image), size)


def _standard_range(image: Image.Image) -> Image.Image:
    """Return an image as it is, or in standard levels if its file (HEIF) says that it is HDR."""
    transfer = image.info.get("nclx_profile", {}).get("transfer_characteristics")
    return to_standard(image, transfer) if is_hdr(transfer) else image


def _open(data: bytes) -> Image.Image:
    """Open an image file of which the size and the cost of decoding are within the limits."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        # A damaged file, of which metadata may be the damaged part.
        raise UnidentifiedImageError(why_not_opened(data)) from error
    check_num_pixels(image)
    _check_decoding_cost(image, data)
    return image


def _check_decoding_cost(image: Image.Image, data: bytes) -> None:
    """Reject small files that would take minutes to decode."""
    # Each scan of a progressive JPEG passes over all pixels. Ordinary files have at most ten.
    scans = data.count(b"\xff\xda") if image.info.get("progressive") else 0
    if scans * image.width * image.height > MAX_SCANNED_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError(
            "too_large", f"The progressive JPEG has {scans:,} scans, too many for its size {size}."
        )
    # Pillow decodes plain (ASCII) PPM and ranges other than 255 and 65535 number by number.
    if isinstance(image, PpmImageFile) and image.tile[0].codec_name != "raw":
        raise unreadable("this kind of PPM is not supported")


def check_num_bytes(data: bytes) -> None:
    """Check that a file has at most ``MAX_IMAGE_BYTES``.

    Raises:
        ImageError: It has more.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(
            "too_large", f"The file has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}."
        )


def check_num_pixels(image: Image.Image) -> None:
    """Check that an image, whose pixels need not be loaded, has at most ``MAX_IMAGE_PIXELS``.

    Raises:
        ImageError: It has more.
    """
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise too_many_pixels()


def too_many_pixels() -> ImageError:
    """Return the error about an image of more than ``MAX_IMAGE_PIXELS``."""
    return ImageError("too_large", f"The image has more than {MAX_IMAGE_PIXELS:,} pixels.")


def unreadable(reason: str) -> ImageError:
    """Return the error about an image that can't be decoded for a reason, which is a clause."""
    return ImageError("unreadable", f"The image can't be decoded: {reason}.")
