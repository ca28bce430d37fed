"""Bytes to an upright 48x48 grey image, and every defence against bad bytes."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

pillow_heif.register_heif_opener()
Image.init()

IMAGE_SIZE = 48
"""Side of FER2013's images in pixels."""

IMAGE_SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
        *(".webp", ".avif", ".heic", ".heif", ".gif", ".pgm", ".ppm"),
    )
)
"""How the name of an image file ends, in lower case."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Longer files are not decoded."""

MAX_IMAGE_PIXELS = 89_478_485
"""Larger images are not decoded: Pillow's own limit, a quarter of a gigabyte of RGB."""

MAX_PHOTO_SIDE = 2048
"""Longer side in pixels that is kept of a photograph: 12 MiB of RGB at most, and 48 pixels of each
face that a detector finds at half of it."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "PPM")
"""What Pillow may take bytes for: its other readers have no place here, and some run programs."""


class ImageError(ValueError):
    """An image that can't be used.

    Attributes:
        status: What the labels contract calls it.
        message: Why, in one sentence.
    """

    def __init__(self, status: Literal["unreadable", "too_large"], message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class DecodedImage:
    """A face as the networks see it.

    Attributes:
        pixels: uint8 (48, 48), 0 to 255.
        width: Of the upright original, in pixels.
        height: Of the upright original, in pixels.
    """

    pixels: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class Photo:
    """A photograph, upright, shrunk where it is larger than its faces need.

    Attributes:
        pixels: uint8 (H, W, 3), red, green and blue, 0 to 255.
        width: Of the upright original, in pixels.
        height: Of the upright original, in pixels.
    """

    pixels: np.ndarray
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Pixels of the original to one of ``pixels``, at least 1."""
        height, width = self.pixels.shape[:2]
        scale: float = max(self.width, self.height) / max(width, height)
        return scale


def decode_image(data: bytes) -> DecodedImage:
    """Decode an image file of any size and mode.

    Turned upright by EXIF, laid on white where it is transparent, grey by ITU-R 601, the largest
    centred square of it scaled to 48x48. An image of that size keeps its pixels. Of an animation
    the first frame counts.

    Raises:
        ImageError: The file is too large, no image, or damaged.
    """
    with _opened(data) as image:
        # Faces of cameras come many times too large: JPEG decodes them at a fraction of the cost.
        turned, width, height = _upright(image, "L", min(image.size), 4 * IMAGE_SIZE)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        grey = ImageOps.fit(_to_grey(turned), size, Image.Resampling.BICUBIC)
        return DecodedImage(np.asarray(grey), width, height)


def decode_photo(data: bytes) -> Photo:
    """Decode a photograph of any size and mode.

    Turned upright by EXIF, laid on white where it is transparent, its longer side at most
    ``MAX_PHOTO_SIDE``. Of an animation the first frame counts.

    Raises:
        ImageError: The file is too large, no image, or damaged.
    """
    with _opened(data) as image:
        turned, width, height = _upright(image, "RGB", max(image.size), MAX_PHOTO_SIDE)
        colours = _to_rgb(turned)
        colours.thumbnail((MAX_PHOTO_SIDE, MAX_PHOTO_SIDE), Image.Resampling.BOX)
        return Photo(np.asarray(colours), width, height)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image file, and turn all that decoding it may raise into one kind of error."""
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(
            "too_large", f"The file has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise _too_many_pixels()
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    # Pillow's readers raise whatever a damaged file makes them stumble on.
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if isinstance(error, UnidentifiedImageError):
            told = "its bytes are those of no known format"
        raise ImageError("unreadable", f"The image can't be decoded: {told}.") from error


def _upright(image: Image.Image, mode: str, side: int, enough: int) -> tuple[Image.Image, int, int]:
    """Turn an image as EXIF says; return it, and the size in pixels that its original has then.

    Args:
        image: Just opened: a JPEG file is decoded at a fraction of its size where that is enough.
        mode: In which it is decoded, if it can be.
        side: The side in pixels that counts.
        enough: What that side must keep.
    """
    width, height = image.size
    scale = max(1.0, side / enough)
    image.draft(mode, (int(width / scale), int(height / scale)))
    turned = ImageOps.exif_transpose(image)
    if (turned.width > turned.height) != (image.width > image.height):
        width, height = height, width
    return turned, width, height


def _too_many_pixels() -> ImageError:
    return ImageError("too_large", f"The image has more than {MAX_IMAGE_PIXELS:,} pixels.")


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image)
    image = _opaque(image)
    if image.mode in ("P", "LAB", "HSV", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image.convert("L")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    return _opaque(image).convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale whole numbers of 16 bits by 255/65535, and other ranges to their own maximum."""
    values = np.asarray(image, np.float64)
    if not image.mode.startswith("I;16"):
        values = np.nan_to_num(values.clip(0))
    top = 65535.0 if image.mode.startswith("I;16") else max(float(values.max()), 255.0)
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))
