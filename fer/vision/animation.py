"""Sample the frames of animated images: GIF, WebP and PNG."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageSequence

from fer.vision.decode import MAX_PHOTO_SIDE, ImageError, Photo
from fer.vision.sampling import ChosenFrame, Sampling

ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng")

DEFAULT_DURATION_MS = 100
"""How long browsers show a frame whose file says 0."""


def is_animation(data: bytes) -> bool:
    """Return whether a file is an image of several frames."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return bool(getattr(image, "is_animated", False))
    # Pillow raises all kinds of exceptions on damaged files, which decoding then reports.
    except Exception:
        return False


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
        with Image.open(io.BytesIO(data)) as image:
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                seconds = elapsed_ms / 1000
                rgba = frame.convert("RGBA")
                if sampling.includes(seconds, due):
                    due = sampling.next_time(seconds)
                    yield ChosenFrame(number, round(elapsed_ms), round(seconds, 6)), _to_photo(rgba)
                elapsed_ms += frame.info.get("duration") or DEFAULT_DURATION_MS
    # Pillow raises all kinds of exceptions on damaged files.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        problem = ImageError("unreadable", f"The frame can't be decoded: {reason}.")
        yield ChosenFrame(number + 1, round(elapsed_ms), round(elapsed_ms / 1000, 6)), problem


def _to_photo(rgba: Image.Image) -> Photo:
    width, height = rgba.size
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    rgb.thumbnail((MAX_PHOTO_SIDE, MAX_PHOTO_SIDE))
    return Photo(np.asarray(rgb), width, height)
