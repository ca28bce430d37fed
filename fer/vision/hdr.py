"""Pictures of high dynamic range (HDR), as a standard screen shows them.

Phones and cameras record HDR with one of two transfer functions of ITU-R BT.2100: PQ (HDR10, Dolby
Vision) or HLG. Taken for standard levels, their pictures are flat, and faces are missed.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

PQ, HLG = 16, 18
"""Numbers of the transfer functions in ITU-T H.273, which FFmpeg and HEIF use."""

NUM_LEVELS = 33
"""Levels of each color in the table of a conversion, which interpolates between them."""


def is_hdr(transfer: int | None) -> bool:
    """Tell whether pictures with a transfer function, by its number in H.273 if known, are HDR."""
    return transfer in (PQ, HLG)


def to_standard(picture: Image.Image, transfer: int) -> Image.Image:
    """Return an HDR picture in the levels of sRGB. What is brighter than paper becomes white.

    Args:
        picture: Levels as they are coded, 8 bits of each color, or of gray. The primary colors are
            those of BT.2100, whatever the file says: no others belong to these functions.
        transfer: Number of the transfer function, ``PQ`` or ``HLG``.

    Returns:
        A picture in mode RGB, or RGBA if it was.
    """
    colored = picture if picture.mode == "RGBA" else picture.convert("RGB")
    return colored.filter(_table(transfer))


@lru_cache
def _table(transfer: int) -> ImageFilter.Color3DLUT:
    """Let FFmpeg convert a picture of all colors, once in each process.

    It takes seconds to prepare a conversion, and would do so for each picture.
    """
    # Few processes ever see HDR.
    from av import VideoFrame  # noqa: PLC0415
    from av.video.reformatter import ColorPrimaries, ColorTrc  # noqa: PLC0415

    levels = np.linspace(0, 2**16 - 1, NUM_LEVELS).round().astype(np.uint16)
    blue, green, red = np.meshgrid(levels, levels, levels, indexing="ij")
    colors = np.stack([red, green, blue], axis=-1).reshape(NUM_LEVELS, -1, 3)
    frame = VideoFrame.from_ndarray(colors, format="rgb48le")
    frame.color_trc, frame.color_primaries = transfer, ColorPrimaries.BT2020
    standard = frame.reformat(
        format="rgb48le",
        dst_color_trc=ColorTrc.IEC61966_2_1,
        dst_color_primaries=ColorPrimaries.BT709,
    )
    table = standard.to_ndarray() / (2**16 - 1)
    return ImageFilter.Color3DLUT(NUM_LEVELS, table.ravel().tolist())
