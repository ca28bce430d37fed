"""Decode image files into upright images of faces or RGB photographs, safely.

The files come from strangers. Size limits, a list of formats and tiling bound the time and memory
that any file can take, and every failure becomes an ``ImageError``.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fer.vision.convert import convert_mode, crop_square, is_large, levels_of, shrink
from fer.vision.damaged import load_image
from fer.vision.loading import ImageError, LoadedImage, too_many_pixels, unreadable
from fer.vision.shape import FER2013_SHAPE, ImageShape

__all__ = ["DecodedImage", "ImageError", "Photo", "crop_center", "decode_image", "decode_photo"]

IMAGE_SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
        *(".webp", ".avif", ".heic", ".heif", ".hif", ".gif", ".pgm", ".ppm"),
    )
)
"""Suffixes of image files, in lower case."""

MAX_PHOTO_SIDE = 2048
"""Longer side in pixels to which a photograph is shrunk: at most 12 MiB of RGB. A face that is 24
pixels wide for the detector, which sees half this size, still has 48 pixels."""

OVERSAMPLING = 4
"""An image of a face is decoded at no less than this multiple of its final side."""

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


@dataclass(frozen=True)
class DecodedImage:
    """An image of a face in the shape of a network's input.

    Attributes:
        pixels: uint8 (size, size), or (size, size, 3) for color, 0 to 255.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.
        note: What the file lacks, or has beside it, although it was used; a sentence, or None.
    """

    pixels: np.ndarray
    width: int
    height: int
    note: str | None = None


@dataclass(frozen=True)
class Photo:
    """An upright RGB photograph, shrunk to ``MAX_PHOTO_SIDE`` if it is larger.

    Attributes:
        pixels: uint8 (H, W, 3), red, green and blue, 0 to 255.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.
        note: What the file lacks, or has beside it, although it was used; a sentence, or None.
    """

    pixels: np.ndarray
    width: int
    height: int
    note: str | None = None

    @property
    def scale(self) -> float:
        """Length in the original of one pixel of ``pixels``, at least 1."""
        height, width = self.pixels.shape[:2]
        scale: float = max(self.width, self.height) / max(width, height)
        return scale


def decode_image(data: bytes, shape: ImageShape = FER2013_SHAPE) -> DecodedImage:
    """Decode an image file of any size and mode into an image of a face.

    The image is turned upright by its EXIF orientation (HEIC and AVIF by their own transformation
    properties), placed on white if it is transparent, and converted to gray by ITU-R 601 unless
    color is wanted. Its largest centered square is scaled to the side of ``shape``. A gray image
    that has this shape keeps its pixels. Only the first frame of an animation is used. Damaged
    metadata is ignored. A JPEG that lacks only its end is used with a note, and so is the first
    page of a TIFF file.

    Args:
        data: The file.
        shape: Shape of the result.

    Raises:
        ImageError: The file is too large, not an image, or damaged.
    """
    side = OVERSAMPLING * shape.size
    with _image_errors():
        # A camera's image is much larger than needed; JPEG can be decoded at a fraction of its size
        # for a fraction of the cost.
        loaded = load_image(data, shape.mode, lambda size: min(size) / side)
        image = loaded.image
        levels = levels_of(image)
        if is_large(image):
            converted = shrink(crop_square(image), shape.mode, min(image.size) / side, levels)
        else:
            converted = convert_mode(image, shape.mode, levels)
        face = _fit(_turn_upright(converted, image), shape)
        return DecodedImage(face, *_upright_size(loaded), loaded.note)


def crop_center(photo: Photo, shape: ImageShape = FER2013_SHAPE) -> np.ndarray:
    """Scale the largest centered square of a photograph to an image uint8 (*shape.array)."""
    return _fit(Image.fromarray(photo.pixels).convert(shape.mode), shape)


def _fit(image: Image.Image, shape: ImageShape) -> np.ndarray:
    if image.size == (shape.size, shape.size):
        return np.asarray(image)
    return np.asarray(ImageOps.fit(image, (shape.size, shape.size), Image.Resampling.BICUBIC))


def decode_photo(data: bytes) -> Photo:
    """Decode an image file of any size and mode into an RGB photograph.

    The image is turned upright by its EXIF orientation (HEIC and AVIF by their own transformation
    properties), placed on white if it is transparent, and shrunk until its longer side is at most
    ``MAX_PHOTO_SIDE``. Only the first frame of an animation is used. Damaged metadata is ignored. A
    JPEG that lacks only its end is used with a note, and so is the first page of a TIFF file.

    Raises:
        ImageError: The file is too large, not an image, or damaged.
    """
    with _image_errors():
        loaded = load_image(data, "RGB", lambda size: max(size) / MAX_PHOTO_SIDE)
        image = loaded.image
        rgb = shrink(image, "RGB", max(image.size) / MAX_PHOTO_SIDE, levels_of(image))
        return Photo(np.asarray(_turn_upright(rgb, image)), *_upright_size(loaded), loaded.note)


@contextmanager
def _image_errors() -> Iterator[None]:
    """Turn every exception into an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise too_many_pixels() from error
    except UnidentifiedImageError as error:
        raise unreadable(str(error)) from error
    # Pillow raises all kinds of exceptions on damaged files.
    except Exception as error:
        raise unreadable(f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error


def _upright_size(loaded: LoadedImage) -> tuple[int, int]:
    """Return the width and height of a whole image after it is turned."""
    # The orientation is only known after loading: Pillow turns TIFF images as it loads them, and
    # the EXIF of a PNG file may follow the pixels.
    width, height = loaded.size
    is_sideways = _orientation(loaded.image) in SIDEWAYS_ORIENTATIONS
    return (height, width) if is_sideways else (width, height)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if the EXIF is damaged, so that the image is still used."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Pillow raises all kinds of exceptions on damaged EXIF.
    except Exception:
        return 1


def _turn_upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Turn ``pixels``, which were made from ``image``, upright by the EXIF of ``image``."""
    # Pillow's exif_transpose also rewrites the EXIF, and fails on values that some cameras write.
    transpose = _TRANSPOSES.get(_orientation(image))
    return pixels if transpose is None else pixels.transpose(transpose)
