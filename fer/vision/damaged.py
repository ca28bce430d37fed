"""Load image files, even with damaged metadata or without their end, if their pixels are there."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from fer.vision import jpeg, png, tiff, webp
from fer.vision.loading import (
    ImageError,
    LoadedImage,
    Scale,
    check_num_bytes,
    load_pixels,
    unreadable,
)

MAX_MISSING_SHARE = 0.01
"""A JPEG that ends early is used if a smaller share of its pixels is missing."""


def load_image(data: bytes, mode: str, scale: Scale) -> LoadedImage:
    """Load the pixels of an image file, without its metadata where that is damaged.

    A JPEG or PNG file that ends early is loaded with a note if its pixels are there. So is a JPEG
    that lacks less than ``MAX_MISSING_SHARE`` of them.

    Args:
        data: The file.
        mode: As for ``load_pixels``.
        scale: As for ``load_pixels``.

    Raises:
        ImageError: The file is too large, or lacks pixels.
        Exception: Whatever else ``load_pixels`` raises on a file of which more is damaged.
    """
    check_num_bytes(data)
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
    webp.SIGNATURE: webp.without_metadata,
    **dict.fromkeys(tiff.SIGNATURES, tiff.without_metadata),
}
"""How files are rid of metadata, by their first bytes."""


def _without_damaged_metadata(data: bytes) -> bytes:
    for signature, without_metadata in _WITHOUT_METADATA.items():
        if data.startswith(signature):
            return without_metadata(data)
    return data


def _load_to_end(data: bytes, mode: str, scale: Scale) -> LoadedImage:
    """Load the pixels of a file, and find out whether it ends early or has more pages."""
    if data.startswith(jpeg.SIGNATURE):
        return _load_jpeg(data, mode, scale)
    loaded = load_pixels(data, mode, scale)
    if data.startswith(tiff.SIGNATURES) and tiff.has_more_pages(data):
        return replace(loaded, note="The TIFF file has more than one page: the first is used.")
    if data.startswith(webp.SIGNATURE) and webp.ends_in_zeros(data):
        raise unreadable("the WebP file ends in zeros, and its last pixels are missing")
    return _check_png(data, loaded) if data.startswith(png.SIGNATURE) else loaded


def _check_png(data: bytes, loaded: LoadedImage) -> LoadedImage:
    """Check that no row of a PNG image is missing, for which Pillow would fill in zeros."""
    image = loaded.image
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if not np.asarray(last_row).any() and png.lacks_rows(data):
        raise unreadable("the PNG file ends early, and its last rows of pixels are missing")
    if png.ends_early(data):
        return replace(loaded, note="The PNG file ends early, but all its pixels are there.")
    return loaded


def _load_jpeg(data: bytes, mode: str, scale: Scale) -> LoadedImage:
    """Load the pixels of a JPEG file, and find out how many of them are missing at its end.

    Decoders fill what is missing with gray and don't say so.
    """
    cut = jpeg.find_cut(data)
    if cut is not None:
        data = data[:cut] + jpeg.END_OF_IMAGE
        if jpeg.lacks_scans(data):
            raise unreadable("the JPEG file ends early, and whole scans of its pixels are missing")
    loaded = load_pixels(data, mode, scale)
    if cut is None and not jpeg.looks_cut(loaded.image):
        return loaded
    end = jpeg.find_end(data)
    missing = _missing_share(data[:end], loaded, mode, scale)
    if missing >= MAX_MISSING_SHARE:
        raise unreadable(
            f"the JPEG file ends early, and {100 * missing:.0f} % of its pixels are missing"
        )
    if missing:
        note = "The JPEG file ends early: less than 1 % of its pixels, the last ones, are missing."
        return replace(loaded, note=note)
    if cut is not None:
        return replace(loaded, note="The JPEG file ends early, but all its pixels are there.")
    return loaded


def _missing_share(data: bytes, loaded: LoadedImage, mode: str, scale: Scale) -> float:
    """Return the share of the pixels that are missing in a JPEG file.

    Args:
        data: The file up to its end-of-image marker.
        loaded: Its pixels, as they were loaded.
        mode: As for ``load_pixels``.
        scale: As for ``load_pixels``.
    """
    block_height = jpeg.block_height(loaded.image, loaded.size[1])
    return max(
        jpeg.missing_share(loaded.image, load_pixels(data + end, mode, scale).image, block_height)
        for end in jpeg.endings(data)
    )
