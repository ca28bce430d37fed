"""Decode image files into upright 48x48 gray images or RGB photographs, safely.

The files come from strangers. Size limits, a list of formats and tiling bound the time and memory
that any file can take, and every failure becomes an ``ImageError``.
"""

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
"""Suffixes of image files, in lower case."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Larger files are not decoded."""

MAX_IMAGE_PIXELS = 89_478_485
"""Images with more pixels are not decoded. It is Pillow's own limit, 256 MiB of RGB."""

MAX_SCANNED_PIXELS = 2**31
"""Limit of the pixels in all scans of a progressive JPEG: 24 scans of the largest image."""

MAX_PHOTO_SIDE = 2048
"""Longer side in pixels to which a photograph is shrunk: at most 12 MiB of RGB. A face that is 24
pixels wide for the detector, which sees half this size, still has 48 pixels."""

MIN_FACE_SIDE = 4 * IMAGE_SIZE
"""An image of a face is decoded at no less than this side before it is scaled to ``IMAGE_SIZE``."""

BITS_PER_SAMPLE = 258
"""Number of the TIFF tag BitsPerSample (TIFF 6.0, section 8)."""

TILE_SIDE = 256
"""Side in pixels of the output tiles in which a large image is converted."""

MAX_WHOLE_PIXELS = 2**22
"""Images with more pixels are large: they are converted in tiles."""

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns an image upright, by EXIF orientation (Exif 2.32, tag 274)."""

SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)
"""EXIF orientations for which turning the image upright swaps width and height."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "PPM")
"""Formats that Pillow may try. Its other readers are not needed, and some start programs."""


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


@dataclass(frozen=True)
class DecodedImage:
    """A gray image of a face at the size of the networks' input.

    Attributes:
        pixels: uint8 (48, 48), 0 to 255.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.
    """

    pixels: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class Photo:
    """An upright RGB photograph, shrunk to ``MAX_PHOTO_SIDE`` if it is larger.

    Attributes:
        pixels: uint8 (H, W, 3), red, green and blue, 0 to 255.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.
    """

    pixels: np.ndarray
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Length in the original of one pixel of ``pixels``, at least 1."""
        height, width = self.pixels.shape[:2]
        scale: float = max(self.width, self.height) / max(width, height)
        return scale


def decode_image(data: bytes) -> DecodedImage:
    """Decode an image file of any size and mode into a 48x48 gray image.

    The image is turned upright by its EXIF orientation (HEIC and AVIF by their own transformation
    properties), placed on white if it is transparent, and converted to gray by ITU-R 601. Its
    largest centered square is scaled to 48x48. A gray image of 48x48 keeps its pixels. Only the
    first frame of an animation is used.

    Raises:
        ImageError: The file is too large, not an image, or damaged.
    """
    with _open_image(data) as image:
        # A camera's image is much larger than needed; JPEG can be decoded at a fraction of its size
        # for a fraction of the cost.
        width, height = _load(image, "L", min(image.size) / MIN_FACE_SIDE)
        white = _white_level(image)
        if _is_large(image):
            gray = _shrink(_crop_square(image), "L", min(image.size) / MIN_FACE_SIDE, white)
        else:
            gray = _to_gray(image, white)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        face = ImageOps.fit(_turn_upright(gray, image), size, Image.Resampling.BICUBIC)
        return DecodedImage(np.asarray(face), width, height)


def decode_photo(data: bytes) -> Photo:
    """Decode an image file of any size and mode into an RGB photograph.

    The image is turned upright by its EXIF orientation (HEIC and AVIF by their own transformation
    properties), placed on white if it is transparent, and shrunk until its longer side is at most
    ``MAX_PHOTO_SIDE``. Only the first frame of an animation is used.

    Raises:
        ImageError: The file is too large, not an image, or damaged.
    """
    with _open_image(data) as image:
        width, height = _load(image, "RGB", max(image.size) / MAX_PHOTO_SIDE)
        rgb = _shrink(image, "RGB", max(image.size) / MAX_PHOTO_SIDE, _white_level(image))
        return Photo(np.asarray(_turn_upright(rgb, image)), width, height)


@contextmanager
def _open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image file, and turn every exception in the body into an ImageError."""
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
                _check_decoding_cost(image, data)
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    # Pillow raises all kinds of exceptions on damaged files.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if isinstance(error, UnidentifiedImageError):
            reason = "its format is not supported"
        raise ImageError("unreadable", f"The image can't be decoded: {reason}.") from error


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
        raise ImageError(
            "unreadable", "The image can't be decoded: this kind of PPM is not supported."
        )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if the EXIF is damaged, so that the image is still used."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError):
        return 1


def _load(image: Image.Image, mode: str, scale: float) -> tuple[int, int]:
    """Load the pixels of an image.

    Args:
        image: An opened image file.
        mode: Mode into which a JPEG is decoded.
        scale: Factor by which the caller will shrink the image. A JPEG is decoded at a fraction of
            its size, but at no less than the caller needs.

    Returns:
        Width and height in pixels of the whole image after it is turned upright.
    """
    width, height = image.size
    scale = max(1.0, scale)
    # Other formats are excluded: a draft of HEIC would be its thumbnail, which may show anything.
    if image.format in ("JPEG", "MPO"):
        image.draft(mode, (max(1, int(width / scale)), max(1, int(height / scale))))
    image.load()
    # The orientation is only known after loading: Pillow turns TIFF images as it loads them, and
    # the EXIF of a PNG file may follow the pixels.
    return (height, width) if _orientation(image) in SIDEWAYS_ORIENTATIONS else (width, height)


def _turn_upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Turn ``pixels``, which were made from ``image``, upright by the EXIF of ``image``."""
    # Pillow's exif_transpose also rewrites the EXIF, and fails on values that some cameras write.
    transpose = _TRANSPOSES.get(_orientation(image))
    return pixels if transpose is None else pixels.transpose(transpose)


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > MAX_WHOLE_PIXELS


def _crop_square(image: Image.Image) -> Image.Image:
    """Crop an image to its largest centered square, one pixel longer if it can't be centered."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def _shrink(
    image: Image.Image, mode: Literal["L", "RGB"], scale: float, white: float
) -> Image.Image:
    """Convert an image to a mode and divide its size by ``scale`` if that is above 1.

    A large image is converted in tiles. A conversion takes several copies of its input, which would
    be of the original's size otherwise.
    """
    scale, convert = max(1.0, scale), partial(_CONVERSIONS[mode], white=white)
    width, height = (max(1, round(side / scale)) for side in image.size)
    if not _is_large(image):
        whole = convert(image)
        return whole if scale == 1 else whole.resize((width, height), Image.Resampling.BOX)
    scale_x, scale_y = image.width / width, image.height / height
    shrunk = Image.new(mode, (width, height))
    for x, y in itertools.product(range(0, width, TILE_SIDE), range(0, height, TILE_SIDE)):
        right, bottom = min(x + TILE_SIDE, width), min(y + TILE_SIDE, height)
        box = (x * scale_x, y * scale_y, right * scale_x, bottom * scale_y)
        shrunk.paste(_shrink_tile(image, box, (right - x, bottom - y), convert), (x, y))
    return shrunk


def _shrink_tile(
    image: Image.Image,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    """Convert a box of an image and scale it to ``size``.

    Args:
        image: The whole image.
        box: Left, top, right and bottom in pixels, which may be fractions.
        size: Width and height of the result.
        convert: Converts an image to the mode of the result.
    """
    left, top = int(box[0]), int(box[1])
    right, bottom = min(ceil(box[2]), image.width), min(ceil(box[3]), image.height)
    tile = convert(image.crop((left, top, right, bottom)))
    box_in_tile = (
        box[0] - left,
        box[1] - top,
        min(box[2], right) - left,
        min(box[3], bottom) - top,
    )
    return tile.resize(size, Image.Resampling.BOX, box=box_in_tile)


def _too_many_pixels() -> ImageError:
    return ImageError("too_large", f"The image has more than {MAX_IMAGE_PIXELS:,} pixels.")


def _white_level(image: Image.Image) -> float:
    """Return the value that becomes 255 when an image is converted to eight bits.

    It is 4095 or 65535 for unsigned integers of 12 or 16 bits and 1 for fractions. For other
    numbers, it is the largest value in the image, but at least 255.
    """
    if not image.mode.startswith(("I", "F")):
        return 255.0
    if image.mode.startswith("I;16"):
        return 4095.0 if _has_twelve_bits(image) else 65535.0
    if isinstance(image, PpmImageFile) and image.mode == "I":
        return 65535.0
    # fmax ignores NaN, which max would return.
    largest = float(np.fmax.reduce(np.asarray(image), axis=None))
    return 1.0 if image.mode == "F" and largest <= 1 else max(largest, 255.0)


def _has_twelve_bits(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,)


def _to_gray(image: Image.Image, white: float) -> Image.Image:
    if image.mode == "L":
        return image
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image, white)
    image = _opaque(image)
    if image.mode in ("P", "LAB", "HSV", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image.convert("L")


def _to_rgb(image: Image.Image, white: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image, white)
    return _opaque(image).convert("RGB")


_CONVERSIONS = {"L": _to_gray, "RGB": _to_rgb}


def _opaque(image: Image.Image) -> Image.Image:
    """Place a transparent image on white."""
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque


def _to_eight_bits(image: Image.Image, white: float) -> Image.Image:
    """Scale values linearly so that ``white`` becomes 255. Negative values and NaN become 0."""
    values = np.nan_to_num(np.asarray(image, np.float64).clip(0))
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
