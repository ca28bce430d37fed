"""Parse the pixels of FER2013's rows, which are decimal numbers."""

from collections.abc import Sequence

import numpy as np

from fer.data.rejects import RejectedError
from fer.vision.shape import FER2013_SHAPE

NUM_PIXELS = FER2013_SHAPE.num_bytes


def parse_pixels(texts: Sequence[bytes]) -> list[bytes] | list[bytes | RejectedError]:
    """Parse the ``pixels`` column of rows.

    Args:
        texts: For each row, 2,304 decimal numbers from 0 to 255, separated by spaces.

    Returns:
        For each row, its pixels (2,304 bytes, row by row) or why it is rejected.
    """
    pixels = _parse_clean_pixels(texts)
    return [_parse_any_pixels(text) for text in texts] if pixels is None else pixels


def _parse_clean_pixels(texts: Sequence[bytes]) -> list[bytes] | None:
    """Parse rows that are formatted as in FER2013, all at once, with NumPy.

    At every character, a value is computed from it and the two characters before it: the number, if
    it ends there. Then the values at the ends of numbers are picked. Adding arrays of bytes costs
    less than finding the numbers first. Three spaces are put before the text, so that the first
    digit has characters before it, and one space after it, to end the last number.

    For example, the text ``12 255`` becomes these arrays (a space is shown as ``_``; the values
    under it are not used)::

        text             1    2    _    2    5    5    _
        hundreds         0    0    1    0    0    2    5    digit two before, if no space follows it
        tens_and_ones    1   12   20    2   25   55   50    10 x digit before + digit
        sum              1   12  120    2   25  255   38    100 x hundreds + tens_and_ones, mod 256
        ends                  1                   5         positions followed by a space
        pixels               12                 255

    Returns:
        For each row, its pixels (2,304 bytes). None if any row is formatted differently or wrong.
    """
    text = np.frombuffer(b"   " + b" ".join(texts) + b" ", np.uint8)
    is_space = text == ord(" ")
    # Any other character than a digit or a space is above 9, since uint8 wraps below zero.
    digits = (text - np.uint8(ord("0"))) * ~is_space
    hundreds = digits[1:-2] * ~is_space[2:-1]
    tens_and_ones = digits[2:-1] * np.uint8(10) + digits[3:]
    ends = np.flatnonzero(is_space[4:])
    row_ends = np.cumsum([len(text) + 1 for text in texts]) - 2
    is_above_255 = (hundreds > 2) | ((hundreds == 2) & (tens_and_ones > 55))
    has_four_digits = ~(is_space[:-3] | is_space[1:-2] | is_space[2:-1] | is_space[3:])
    is_clean = (
        len(ends) == NUM_PIXELS * len(texts)
        and (ends[NUM_PIXELS - 1 :: NUM_PIXELS] == row_ends).all()
        and digits.max() <= 9
        and not (is_space[3:-1] & is_space[4:]).any()
        and not has_four_digits.any()
        and not (is_above_255 & ~is_space[3:]).any()
    )
    if not is_clean:
        return None
    pixels = (hundreds * np.uint8(100) + tens_and_ones)[ends].tobytes()
    return [pixels[start : start + NUM_PIXELS] for start in range(0, len(pixels), NUM_PIXELS)]


def _parse_any_pixels(text: bytes) -> bytes | RejectedError:
    """Parse a single row slowly, and say what is wrong with it if it is rejected."""
    words = text.split()
    if len(words) != NUM_PIXELS:
        return RejectedError("pixel_count", f"has {len(words):,} pixels: expected {NUM_PIXELS:,}")
    for word in words:
        if not (word.isdigit() and len(word) < 10 and int(word) < 256):
            found = word[:20].decode(errors="replace")
            return RejectedError("pixel_range", f"has the pixel {found!r}: expected 0 to 255")
    return bytes(map(int, words))
