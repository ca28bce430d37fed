"""Sample the frames of animated images: GIF, WebP and PNG."""

import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageSequence

from fer.vision.decode import MAX_PHOTO_SIDE, Photo
from fer.vision.loading import ImageError, check_num_pixels, too_many_pixels
from fer.vision.sampling import ChosenFrame, Sampling

ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng")

ANIMATED_FORMATS = ("GIF", "WEBP", "PNG")
"""Formats that Pillow may try. The pages of a TIFF or a PSD file are no frames."""

DEFAULT_DURATION_MS = 100
"""How long browsers show a frame whose file says 0."""


def is_animation(data: bytes) -> bool:
    """Return whether a file is an image of several frames, and not too large to be decoded."""
    try:
        with _open(data) as image:
            return bool(getattr(image, "is_animated", False))
    # Pillow raises all kinds of exceptions on damaged files, which decoding then reports.
    except Exception:
        return False


def _open(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=ANIMATED_FORMATS)
    check_num_pixels(image)
    return image


def sample_animation(
    data: bytes, sampling: Sampling
) -> Iterator[tuple[ChosenFrame, Photo | ImageError]]:
    """Yield the sampled frames of an animation, each on white, or why it can't be decoded.

    Nothing after a frame that can't be decoded can be decoded either.

    Args:
        data: The file.
        sampling: Which frames are used.
    """
    elapsed_ms, due = 0.0, sampling.start
    number = 0
    try:
        with _open(data) as image:
            for frame in ImageSequence.Iterator(image):
                # A frame of a GIF may extend beyond those before it.
                check_num_pixels(frame)
                seconds = elapsed_ms / 1000
                rgba = frame.convert("RGBA")
                if sampling.includes(seconds, due):
                    due = sampling.next_time(seconds)
                    yield ChosenFrame(number, round(elapsed_ms), round(seconds, 6)), _to_photo(rgba)
                elapsed_ms += frame.info.get("duration") or DEFAULT_DURATION_MS
                number += 1
    # Pillow raises all kinds of exceptions on damaged files.
    except Exception as error:
        chosen = ChosenFrame(number, round(elapsed_ms), round(elapsed_ms / 1000, 6))
        yield chosen, _to_image_error(error)


def _to_image_error(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return too_many_pixels()
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ImageError("unreadable", f"The frame can't be decoded: {reason}.")


def _to_photo(rgba: Image.Image) -> Photo:
    width, height = rgba.size
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    rgb.thumbnail((MAX_PHOTO_SIDE, MAX_PHOTO_SIDE))
    return Photo(np.asarray(rgb), width, height)
