"""Bytes to an upright 48x48 grey image, and every defence against bad bytes."""

import io
import warnings
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


def decode_image(data: bytes) -> DecodedImage:
    """Decode an image file of any size and mode.

    Turned upright by EXIF, laid on white where it is transparent, grey by ITU-R 601, the largest
    centred square of it scaled to 48x48. An image of that size keeps its pixels. Of an animation
    the first frame counts.

    Raises:
        ImageError: The file is too large, no image, or damaged.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(
            "too_large", f"The file has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                return _decode(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except (
        Exception
    ) as error:  # Pillow's readers raise whatever a damaged file makes them stumble on
        told = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if isinstance(error, UnidentifiedImageError):
            told = "its bytes are those of no known format"
        raise ImageError("unreadable", f"The image can't be decoded: {told}.") from error


def _decode(image: Image.Image) -> DecodedImage:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_many_pixels()
    width, height = image.size
    # Faces of cameras come many times too large: JPEG decodes them at a fraction of the cost.
    scale = max(1.0, min(width, height) / (4 * IMAGE_SIZE))
    image.draft("L", (int(width / scale), int(height / scale)))
    turned = ImageOps.exif_transpose(image)
    if (turned.width > turned.height) != (image.width > image.height):
        width, height = height, width
    grey = ImageOps.fit(_to_grey(turned), (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return DecodedImage(np.asarray(grey), width, height)


def _too_many_pixels() -> ImageError:
    return ImageError("too_large", f"The image has more than {MAX_IMAGE_PIXELS:,} pixels.")


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    if image.mode in ("P", "LAB", "HSV", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image.convert("L")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale whole numbers of 16 bits by 255/65535, and other ranges to their own maximum."""
    values = np.asarray(image, np.float64)
    if not image.mode.startswith("I;16"):
        values = np.nan_to_num(values.clip(0))
    top = 65535.0 if image.mode.startswith("I;16") else max(float(values.max()), 255.0)
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))
