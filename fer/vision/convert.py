"""Convert decoded images of any mode to gray or RGB, in tiles where they are large."""

import itertools
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Numbers of TIFF's tags BitsPerSample, PhotometricInterpretation and SampleFormat (TIFF 6.0)."""

MAX_SIGNED = 2**31 - 1

MAX_FRACTION = 2.0
"""Fractions whose largest is at most this have 1 as white. Filters overshoot it a little."""

TILE_SIDE = 256
"""Side in pixels of the output tiles in which a large image is converted."""

MAX_WHOLE_PIXELS = 2**22
"""Images with more pixels are large: they are converted in tiles."""


def is_large(image: Image.Image) -> bool:
    """Return whether an image is to be converted in tiles."""
    return image.width * image.height > MAX_WHOLE_PIXELS


def crop_square(image: Image.Image) -> Image.Image:
    """Crop an image to its largest centered square, one pixel longer if it can't be centered."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


class Levels(NamedTuple):
    """The values that become 0 and 255 when an image is converted to eight bits.

    In a TIFF image of which 0 is white, ``black`` is the larger one.
    """

    black: float
    white: float


def shrink(
    image: Image.Image, mode: Literal["L", "RGB"], scale: float, levels: Levels
) -> Image.Image:
    """Convert an image to a mode and divide its size by ``scale`` if that is above 1.

    A large image is converted in tiles. A conversion takes several copies of its input, which would
    be of the original's size otherwise.
    """
    scale, convert = max(1.0, scale), partial(convert_mode, mode=mode, levels=levels)
    width, height = (max(1, round(side / scale)) for side in image.size)
    if not is_large(image):
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


def levels_of(image: Image.Image) -> Levels:
    """Return the levels of an image.

    The larger one is 4095 or 65535 for unsigned integers of 12 or 16 bits and 1 for fractions. For
    other numbers, it is the largest value in the image, but at least 255.
    """
    largest = _largest_level(image)
    # Pillow turns images of which 0 is white over if they have eight bits, but no others.
    is_inverted = (
        image.mode.startswith(("I", "F"))
        and isinstance(image, TiffImageFile)
        and image.tag_v2.get(PHOTOMETRIC) == 0
    )
    return Levels(largest, 0.0) if is_inverted else Levels(0.0, largest)


def _largest_level(image: Image.Image) -> float:
    if not image.mode.startswith(("I", "F")):
        return 255.0
    if image.mode.startswith("I;16"):
        return 4095.0 if _has_twelve_bits(image) else 65535.0
    if isinstance(image, PpmImageFile) and image.mode == "I":
        return 65535.0
    values = np.asarray(image)
    if image.mode == "I" and _is_unsigned(image):
        values = values.view(np.uint32)
    largest = float(values.max(where=np.isfinite(values), initial=0))
    return 1.0 if image.mode == "F" and largest <= MAX_FRACTION else max(largest, 255.0)


def _is_unsigned(image: Image.Image) -> bool:
    """Return whether the numbers of an image are unsigned. Pillow keeps 32 bits as signed ones."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLE_FORMAT, (1,)) == (1,)


def _has_twelve_bits(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,)


def ignore_unused_alpha(image: Image.Image) -> None:
    """Make a BMP image opaque if its alpha is 0 everywhere.

    BMP's fourth byte was reserved before it became alpha, and programs that don't use it still
    write zeros. Windows, browsers and OpenCV show such files opaque. In the other formats, alpha
    always was alpha: an image without any visible pixel is shown empty, and stays so here.
    """
    if (
        image.format == "BMP"
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema() == (0, 0)
    ):
        image.putalpha(255)


def convert_mode(image: Image.Image, mode: Literal["L", "RGB"], levels: Levels) -> Image.Image:
    """Convert an image to gray or RGB. ``levels`` are its ``levels_of``."""
    return _to_gray(image, levels) if mode == "L" else _to_rgb(image, levels)


def _to_gray(image: Image.Image, levels: Levels) -> Image.Image:
    if image.mode == "L" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image, levels)
    image = _opaque(image)
    if image.mode in ("P", "LAB", "HSV", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image.convert("L")


def _to_rgb(image: Image.Image, levels: Levels) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image, levels)
    return _opaque(image).convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """Place a transparent image on white."""
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque


def _to_eight_bits(image: Image.Image, levels: Levels) -> Image.Image:
    """Scale values linearly, put the transparent one on white. Those beyond the levels are clipped.

    NaN becomes black.
    """
    values = np.asarray(image)
    if image.mode == "I" and max(levels) > MAX_SIGNED:
        values = values.view(np.uint32)
    values = np.nan_to_num(values.astype(np.float64), nan=levels.black)
    shares = (values.clip(0, max(levels)) - levels.black) / (levels.white - levels.black)
    gray = (255 * shares).round().astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray)
