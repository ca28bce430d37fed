"""Videos to measure on: a camera pans over one photograph of people after the other."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import av
import cv2
import numpy as np

from fer.vision.decode import ImageError, decode_photo

RATE, SIZE = 25, (1280, 720)
"""Frames a second, and width and height of the videos, unless a benchmark says otherwise."""

SECONDS_PER_PHOTO = 5
"""Time that the camera pans over a photograph."""


def write_pan(
    file: Path, photos: Path, minutes: float, rate: int = RATE, size: tuple[int, int] = SIZE
) -> None:
    """Write a video of a length, rate and size that pans over the photographs in a folder."""
    frames = pan(read_photos(photos), round(60 * minutes * rate), rate, size)
    write_video(file, frames, rate, size)


def read_photos(folder: Path) -> list[np.ndarray]:
    """Return the photographs in a folder as uint8 (H, W, 3), red, green and blue."""
    photos = []
    for file in sorted(folder.rglob("*.jpg")):
        try:
            photos.append(decode_photo(file.read_bytes()).pixels)
        except ImageError:
            continue
    return photos


def pan(
    photos: Sequence[np.ndarray], num_frames: int, rate: int, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yield frames of a camera that moves in a circle over one photograph after the other."""
    width, height = size
    per_photo = SECONDS_PER_PHOTO * rate
    for number, photo in zip(range(0, num_frames, per_photo), cycle(photos), strict=False):
        scale = 1.3 * max(width / photo.shape[1], height / photo.shape[0])
        large = cv2.resize(photo, None, fx=scale, fy=scale)
        room_x, room_y = large.shape[1] - width, large.shape[0] - height
        for frame in range(min(per_photo, num_frames - number)):
            angle = 2 * math.pi * frame / per_photo
            x = round(room_x * (1 + math.cos(angle)) / 2)
            y = round(room_y * (1 + math.sin(angle)) / 2)
            yield large[y : y + height, x : x + width]


def write_video(file: Path, frames: Iterator[np.ndarray], rate: int, size: tuple[int, int]) -> None:
    """Encode frames as H.264 with a keyframe every two seconds, as phones do."""
    with av.open(str(file), "w") as output:
        stream = output.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        stream.pix_fmt, stream.gop_size = "yuv420p", 2 * rate
        stream.width, stream.height = size
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
