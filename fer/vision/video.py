"""Decode the sampled frames of videos."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from fer.vision.containers import OnPacket, describe_error, ignore_packet, open_video
from fer.vision.decode import MAX_PHOTO_SIDE, ImageError, Photo
from fer.vision.hdr import is_hdr, to_standard
from fer.vision.sampling import ChosenFrame, FrameChunk

LATE_FRAMES = 64
"""Frames that are decoded beyond the last one of a chunk, before what is missing is given up."""


def decode_frames(
    file: BinaryIO, chunk: FrameChunk, on_packet: OnPacket = ignore_packet
) -> Iterator[tuple[ChosenFrame, Photo | ImageError]]:
    """Decode the frames of a chunk, one after the other.

    Args:
        file: The video, open for random access.
        chunk: One of the chunks that ``plan`` yielded.
        on_packet: Called before each packet.

    Yields:
        Each frame of the chunk, with its picture or why it can't be decoded.

    Raises:
        ImageError: The file is not the video that was planned.
        OSError: The file can't be read.
    """
    missing = deque(chunk.frames)
    # How often each time is still awaited: some frames are shown at the same time.
    times = Counter(frame.time for frame in chunk.frames)
    if not missing:
        return
    try:
        for decoded in _decode(file, chunk, on_packet):
            if decoded.time is None or not times[decoded.time]:
                continue
            while (frame := missing.popleft()).time != decoded.time:
                # The decoder has left it out.
                times[frame.time] -= 1
                yield frame, _undecodable()
            times[frame.time] -= 1
            yield frame, decoded.to_photo()
            if not missing:
                return
    except av.error.FFmpegError as error:
        yield from ((frame, _undecodable(error)) for frame in missing)
    else:
        yield from ((frame, _undecodable()) for frame in missing)


def _undecodable(error: av.error.FFmpegError | None = None) -> ImageError:
    reason = f": {describe_error(error)}" if error else ""
    return ImageError("unreadable", f"The frame can't be decoded{reason}.")


@dataclass(frozen=True)
class _Decoded:
    """A decoded frame.

    Attributes:
        frame: The frame as FFmpeg keeps it.
        time: When it is shown: see ``ChosenFrame``.
        aspect: Width of its pixels divided by their height.
    """

    frame: VideoFrame
    time: int | None
    aspect: Fraction

    def to_photo(self) -> Photo:
        """Return an upright picture with square pixels."""
        width, height = max(1, round(self.frame.width * self.aspect)), self.frame.height
        scale = min(1.0, MAX_PHOTO_SIDE / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        has_alpha = any(component.is_alpha for component in self.frame.format.components)
        pixels = "rgba" if has_alpha else "rgb24"
        scaled = self.frame.reformat(*size, format=pixels, interpolation="AREA").to_ndarray()
        scaled = _on_white(scaled) if has_alpha else scaled
        if is_hdr(self.frame.color_trc):
            scaled = np.asarray(to_standard(Image.fromarray(scaled), self.frame.color_trc))
        num_turns = round(self.frame.rotation / 90) % 4
        upright = np.ascontiguousarray(np.rot90(scaled, num_turns))
        return Photo(upright, *((height, width) if num_turns % 2 else (width, height)))


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Return a transparent frame uint8 (H, W, 4) as (H, W, 3) on white, as images are."""
    frame = Image.fromarray(rgba)
    white = Image.new("RGBA", frame.size, "white")
    return np.asarray(Image.alpha_composite(white, frame).convert("RGB"))


def _decode(file: BinaryIO, chunk: FrameChunk, on_packet: OnPacket) -> Iterator[_Decoded]:
    """Yield the frames around those of a chunk, in the order in which they are shown."""
    # The way to the first frame needs no index, which may be far away at the end of the file.
    seek = chunk.seek if chunk.first else None
    frames = _decode_from(file, seek, on_packet, by_number=chunk.by_number)
    head = next(frames, None)
    is_late = head is None or head.time is None or head.time > chunk.frames[0].time
    if is_late and seek is not None:
        # Some indexes lead to a later keyframe. The beginning is always right.
        frames = _decode_from(file, None, on_packet, by_number=chunk.by_number)
        head = next(frames, None)
    if head is not None:
        yield head
    # Not by their number: some indexes lead to a keyframe that is far before the planned one.
    end, num_late = max(frame.time for frame in chunk.frames), 0
    for frame in frames:
        yield frame
        num_late += frame.time is None or frame.time > end
        if num_late == LATE_FRAMES:
            return


def _decode_from(
    file: BinaryIO, seek: int | None, on_packet: OnPacket, *, by_number: bool
) -> Iterator[_Decoded]:
    """Yield the frames of a video from a keyframe, or from the beginning, on."""
    with open_video(file, on_packet) as video:
        if seek is not None:
            video.container.seek(seek, stream=video.stream)
        aspect = video.stream.sample_aspect_ratio or Fraction(1)
        for number, frame in enumerate(video.decode()):
            yield _Decoded(frame, number if by_number else frame.pts, aspect)
