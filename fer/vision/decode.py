"""Decode image files into upright images of faces or RGB photographs, safely.

The files come from strangers. Size limits, a list of formats and tiling bound the time and memory
that any file can take, and every failure becomes an ``ImageError``.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PpmImagePlugin import PpmImageFile

from fer.vision import jpeg, png, tiff, webp
from fer.vision.convert import (
    convert_mode,
    crop_square,
    ignore_unused_alpha,
    is_large,
    shrink,
    white_level,
)
from fer.vision.formats import FORMATS, why_not_opened
from fer.vision.shape import FER2013_SHAPE, ImageShape

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

OVERSAMPLING = 4
"""An image of a face is decoded at no less than this multiple of its final side."""

MAX_MISSING_SHARE = 0.01
"""A JPEG that ends early is used if a smaller share of its pixels is missing."""

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
    """An image of a face in the shape of a network's input.

    Attributes:
        pixels: uint8 (size, size), or (size, size, 3) for color, 0 to 255.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.
        note: What the file lacks although it was used, in one sentence, or None.
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
        note: What the file lacks although it was used, in one sentence, or None.
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
    metadata is ignored, and a JPEG that lacks only its end is used with a note.

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
        loaded = _load(data, shape.mode, lambda size: min(size) / side)
        image = loaded.image
        white = white_level(image)
        if is_large(image):
            converted = shrink(crop_square(image), shape.mode, min(image.size) / side, white)
        else:
            converted = convert_mode(image, shape.mode, white)
        face = _fit(_turn_upright(converted, image), shape)
        return DecodedImage(face, *loaded.upright_size, loaded.note)


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
    ``MAX_PHOTO_SIDE``. Only the first frame of an animation is used. Damaged metadata is ignored,
    and a JPEG that lacks only its end is used with a note.

    Raises:
        ImageError: The file is too large, not an image, or damaged.
    """
    with _image_errors():
        loaded = _load(data, "RGB", lambda size: max(size) / MAX_PHOTO_SIDE)
        image = loaded.image
        rgb = shrink(image, "RGB", max(image.size) / MAX_PHOTO_SIDE, white_level(image))
        return Photo(np.asarray(_turn_upright(rgb, image)), *loaded.upright_size, loaded.note)


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
        raise _unreadable(str(error)) from error
    # Pillow raises all kinds of exceptions on damaged files.
    except Exception as error:
        raise _unreadable(f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error


def _unreadable(reason: str) -> ImageError:
    return ImageError("unreadable", f"The image can't be decoded: {reason}.")


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


Scale = Callable[[tuple[int, int]], float]
"""Returns the factor by which an image of a width and height will be shrunk after it is loaded."""


@dataclass(frozen=True)
class _Loaded:
    """An image whose pixels are in memory.

    Attributes:
        image: The image, not turned yet; a JPEG may be smaller than its file says.
        size: Width and height of the whole image before it is turned, in pixels.
        note: What the file lacks, or None.
    """

    image: Image.Image
    size: tuple[int, int]
    note: str | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the whole image after it is turned."""
        # The orientation is only known after loading: Pillow turns TIFF images as it loads them,
        # and the EXIF of a PNG file may follow the pixels.
        width, height = self.size
        is_sideways = _orientation(self.image) in SIDEWAYS_ORIENTATIONS
        return (height, width) if is_sideways else (width, height)


def _load(data: bytes, mode: str, scale: Scale) -> _Loaded:
    """Load the pixels of an image file, without its metadata where that is damaged.

    Args:
        data: The file.
        mode: Mode into which a JPEG is decoded.
        scale: A JPEG is decoded at a fraction of its size, but at no less than this needs.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(
            "too_large", f"The file has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}."
        )
    try:
        return _load_to_end(data, mode, scale)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception:
        plain = _without_damaged_metadata(data)
        if plain == data:
            raise
    return _load_to_end(plain, mode, scale)


_WITHOUT_METADATA: dict[bytes, Callable[[bytes], bytes]] = {
    jpeg.SIGNATURE: jpeg.without_metadata,
    png.SIGNATURE: png.without_damaged_chunks,
    b"RIFF": webp.without_metadata,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff.without_metadata),
}
"""How files are rid of metadata, by their first bytes."""


def _without_damaged_metadata(data: bytes) -> bytes:
    for signature, without_metadata in _WITHOUT_METADATA.items():
        if data.startswith(signature):
            return without_metadata(data)
    return data


def _load_to_end(data: bytes, mode: str, scale: Scale) -> _Loaded:
    """Load the pixels of a file, and find out whether it ends early."""
    if data.startswith(jpeg.SIGNATURE):
        return _load_jpeg(data, mode, scale)
    loaded = _load_pixels(data, mode, scale)
    return _check_png(data, loaded) if data.startswith(png.SIGNATURE) else loaded


def _check_png(data: bytes, loaded: _Loaded) -> _Loaded:
    """Check that no row of a PNG image is missing, for which Pillow would fill in zeros."""
    image = loaded.image
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if not np.asarray(last_row).any() and png.lacks_rows(data):
        raise _unreadable("the PNG file ends early, and its last rows of pixels are missing")
    if png.ends_early(data):
        return replace(loaded, note="The PNG file ends early, but all its pixels are there.")
    return loaded


def _load_jpeg(data: bytes, mode: str, scale: Scale) -> _Loaded:
    """Load the pixels of a JPEG file, and find out how many of them are missing at its end.

    Decoders fill what is missing with gray and don't say so.
    """
    cut = jpeg.find_cut(data)
    if cut is not None:
        data = data[:cut] + jpeg.END_OF_IMAGE
        if jpeg.lacks_scans(data):
            raise _unreadable("the JPEG file ends early, and whole scans of its pixels are missing")
    loaded = _load_pixels(data, mode, scale)
    if cut is None and not jpeg.looks_cut(loaded.image):
        return loaded
    end = jpeg.find_end(data)
    missing = _missing_share(data[:end], loaded, mode, scale)
    if missing >= MAX_MISSING_SHARE:
        raise _unreadable(
            f"the JPEG file ends early, and {100 * missing:.0f} % of its pixels are missing"
        )
    if missing:
        note = "The JPEG file ends early: less than 1 % of its pixels, the last ones, are missing."
        return replace(loaded, note=note)
    if cut is not None:
        return replace(loaded, note="The JPEG file ends early, but all its pixels are there.")
    return loaded


def _missing_share(data: bytes, loaded: _Loaded, mode: str, scale: Scale) -> float:
    """Return the share of the pixels that are missing in a JPEG file.

    Args:
        data: The file up to its end-of-image marker.
        loaded: Its pixels, as they were loaded.
        mode: As for ``_load``.
        scale: As for ``_load``.
    """
    block_height = jpeg.block_height(loaded.image, loaded.size[1])
    return max(
        jpeg.missing_share(loaded.image, _load_pixels(data + end, mode, scale).image, block_height)
        for end in jpeg.endings(data)
    )


def _load_pixels(data: bytes, mode: str, scale: Scale) -> _Loaded:
    image = _open(data)
    size = image.size
    # Other formats are excluded: a draft of HEIC would be its thumbnail, which may show anything.
    if image.format in ("JPEG", "MPO"):
        shrunk = max(1.0, scale(size))
        image.draft(mode, (max(1, int(size[0] / shrunk)), max(1, int(size[1] / shrunk))))
    image.load()
    ignore_unused_alpha(image)
    return _Loaded(image, size)


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
        raise ImageError(
            "unreadable", "The image can't be decoded: this kind of PPM is not supported."
        )


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
