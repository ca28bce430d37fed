"""Bytes to an upright 48x48 gray image, and every defense against bad bytes."""

import io
import itertools
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

pillow_heif.register_heif_opener()
Image.init()

IMAGE_SIZE = 48
"""Side of FER2013's images in pixels."""

IMAGE_SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
        *(".webp", ".avif", ".heic", ".heif", ".hif", ".gif", ".pgm", ".ppm"),
    )
)
"""How the name of an image file ends, in lower case."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Longer files are not decoded."""

MAX_IMAGE_PIXELS = 89_478_485
"""Larger images are not decoded: Pillow's own limit, a quarter of a gigabyte of RGB."""

MAX_SCANNED_PIXELS = 2**31
"""What all scans of a JPEG may go over together: 24 of the largest image."""

MAX_PHOTO_SIDE = 2048
"""Longer side in pixels that is kept of a photograph: 12 MiB of RGB at most, and 48 pixels of each
face that a detector finds at half of it."""

ENOUGH = 4 * IMAGE_SIZE
"""The side in pixels that is kept of a face before it is scaled to ``IMAGE_SIZE``."""

BITS_PER_SAMPLE = 258
"""TIFF's tag of that name (TIFF 6.0, section 8)."""

TILE_SIDE, MAX_TILE_PIXELS = 256, 2**22
"""Side in pixels of what is made of an image at once, and size of what is converted as a whole."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation (Exif 2.32, tag 274)."""

LYING = (5, 6, 7, 8)
"""EXIF orientations of images whose width is their height when they are turned upright."""

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

    Turned upright by EXIF (HEIC and AVIF by what they say themselves), laid on white where it is
    transparent, gray by ITU-R 601, the largest centered square of it scaled to 48x48. An image of
    that size keeps its pixels. Of an animation the first frame counts.

    Raises:
        ImageError: The file is too large, no image, or damaged.
    """
    with _opened(data) as image:
        # Faces of cameras come many times too large: JPEG decodes them at a fraction of the cost.
        width, height = _decode(image, "L", min(image.size) / ENOUGH)
        top = _top(image)
        if _is_large(image):
            gray = _shrunk(_middle(image), "L", min(image.size) / ENOUGH, top)
        else:
            gray = _to_gray(image, top)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        face = ImageOps.fit(_turned(gray, image), size, Image.Resampling.BICUBIC)
        return DecodedImage(np.asarray(face), width, height)


def decode_photo(data: bytes) -> Photo:
    """Decode a photograph of any size and mode.

    Turned upright by EXIF (HEIC and AVIF by what they say themselves), laid on white where it is
    transparent, its longer side at most ``MAX_PHOTO_SIDE``. Of an animation the first frame counts.

    Raises:
        ImageError: The file is too large, no image, or damaged.
    """
    with _opened(data) as image:
        width, height = _decode(image, "RGB", max(image.size) / MAX_PHOTO_SIDE)
        colors = _shrunk(image, "RGB", max(image.size) / MAX_PHOTO_SIDE, _top(image))
        return Photo(np.asarray(_turned(colors, image)), width, height)


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
                _check_work(image, data)
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


def _check_work(image: Image.Image, data: bytes) -> None:
    """Refuse small files that are made to be decoded for minutes, or whose decoder is that slow."""
    # A progressive JPEG goes over all pixels as often as it has scans, of which ten are many.
    scans = data.count(b"\xff\xda") if image.info.get("progressive") else 0
    if scans * image.width * image.height > MAX_SCANNED_PIXELS:
        raise ImageError("too_large", f"The image goes over its pixels {scans:,} times.")
    # Numbers that are written out, or of another range than bytes, Pillow reads one by one.
    if isinstance(image, PpmImageFile) and image.tile[0].codec_name != "raw":
        raise ImageError("unreadable", "The image can't be decoded: this kind of PPM is not read.")


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where it can't be read: of pixels that can nothing is lost."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError):
        return 1


def _decode(image: Image.Image, mode: str, scale: float) -> tuple[int, int]:
    """Decode an image, a JPEG file at a fraction of its size where that loses nothing needed.

    Returns:
        Width and height in pixels of the whole image once it is turned upright.
    """
    width, height = image.size
    scale = max(1.0, scale)
    # HEIC would hand out the thumbnail that it carries, of whatever picture that is.
    if image.format in ("JPEG", "MPO"):
        image.draft(mode, (max(1, int(width / scale)), max(1, int(height / scale))))
    image.load()
    # Now, and not before: TIFF files turn themselves, and PNG files may tell it after the pixels.
    return (height, width) if _orientation(image) in LYING else (width, height)


def _turned(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Turn what was made of an image upright, as the image's EXIF says."""
    # Pillow's own exif_transpose writes the EXIF anew, and stumbles on what cameras put there.
    turn = _TURNS.get(_orientation(image))
    return pixels if turn is None else pixels.transpose(turn)


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > MAX_TILE_PIXELS


def _middle(image: Image.Image) -> Image.Image:
    """Return the largest centered square of an image, a pixel longer where it can't be centered."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def _shrunk(image: Image.Image, mode: Literal["L", "RGB"], scale: float, top: float) -> Image.Image:
    """Convert an image, and scale it down where ``scale`` is above 1; a large one by tiles.

    Memory then holds no second image of the original's size, of which conversions take several.
    """
    scale, convert = max(1.0, scale), partial(_CONVERSIONS[mode], top=top)
    width, height = (max(1, round(side / scale)) for side in image.size)
    if not _is_large(image):
        whole = convert(image)
        return whole if scale == 1 else whole.resize((width, height), Image.Resampling.BOX)
    across, down = image.width / width, image.height / height
    shrunk = Image.new(mode, (width, height))
    for x, y in itertools.product(range(0, width, TILE_SIDE), range(0, height, TILE_SIDE)):
        right, bottom = min(x + TILE_SIDE, width), min(y + TILE_SIDE, height)
        box = (x * across, y * down, right * across, bottom * down)
        shrunk.paste(_scaled(image, box, (right - x, bottom - y), convert), (x, y))
    return shrunk


def _scaled(
    image: Image.Image,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    """Convert and scale the part of an image in a box, in pixels: left, top, right and bottom."""
    left, top = int(box[0]), int(box[1])
    right, bottom = min(ceil(box[2]), image.width), min(ceil(box[3]), image.height)
    part = convert(image.crop((left, top, right, bottom)))
    inner = (box[0] - left, box[1] - top, min(box[2], right) - left, min(box[3], bottom) - top)
    return part.resize(size, Image.Resampling.BOX, box=inner)


def _too_many_pixels() -> ImageError:
    return ImageError("too_large", f"The image has more than {MAX_IMAGE_PIXELS:,} pixels.")


def _top(image: Image.Image) -> float:
    """Return which value of an image of more than eight bits becomes 255."""
    if not image.mode.startswith(("I", "F")):
        return 255.0
    if image.mode.startswith("I;16"):
        return 4095.0 if _has_twelve_bits(image) else 65535.0
    if isinstance(image, PpmImageFile) and image.mode == "I":
        return 65535.0
    # The smallest that is no number would pass for the largest.
    largest = float(np.fmax.reduce(np.asarray(image), axis=None))
    return 1.0 if image.mode == "F" and largest <= 1 else max(largest, 255.0)


def _has_twelve_bits(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,)


def _to_gray(image: Image.Image, top: float) -> Image.Image:
    if image.mode == "L":
        return image
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image, top)
    image = _opaque(image)
    if image.mode in ("P", "LAB", "HSV", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image.convert("L")


def _to_rgb(image: Image.Image, top: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image, top)
    return _opaque(image).convert("RGB")


_CONVERSIONS = {"L": _to_gray, "RGB": _to_rgb}


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque


def _to_eight_bits(image: Image.Image, top: float) -> Image.Image:
    """Scale 16 bits by 255/65535, fractions from 0 to 1 by 255, and what is above 255 to 255."""
    values = np.nan_to_num(np.asarray(image, np.float64).clip(0))
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))
