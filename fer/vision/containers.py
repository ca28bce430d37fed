"""Open videos: which containers are read, and what each can tell about its frames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fer.vision.loading import MAX_IMAGE_PIXELS, MAX_SCANNED_PIXELS, ImageError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,gif"
"""FFmpeg's names of the containers that are opened.

Others are refused: some of them, such as playlists, make FFmpeg open further files.
"""

UNTIMED_FORMATS = ("mpegts", "mpeg", "avi")
"""Containers whose packets are not frames, or do not say when these are shown, or whose clock may
go back. Only decoding them from the beginning tells which frame is which."""


OnPacket = Callable[[], object]
"""Called before each packet of a video, which is most often a frame, is read and decoded. What it
raises ends the work."""


def ignore_packet() -> None:
    """Go on with the next packet."""


@dataclass(frozen=True)
class OpenVideo:
    """An open video.

    Attributes:
        container: The file as FFmpeg reads it.
        stream: Its first stream of pictures.
        on_packet: Called before each packet.
    """

    container: InputContainer
    stream: VideoStream
    on_packet: OnPacket = ignore_packet

    @property
    def is_timed(self) -> bool:
        """Whether each packet is a frame and says when it is shown."""
        return not self.container.format.name.startswith(UNTIMED_FORMATS)

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of the packets' times."""
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def promised_seconds(self) -> float | None:
        """When the pictures end according to the header; None if it does not say."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        # Matroska keeps the time of each stream's end in a tag: 00:01:05.240000000.
        hours, _, rest = self.stream.metadata.get("DURATION", "").partition(":")
        minutes, _, seconds = rest.partition(":")
        if seconds:
            with suppress(ValueError):
                return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        if self.container.duration and len(self.container.streams) == 1:
            return float(self.container.duration / av.time_base)
        return None

    def packets(self) -> "Iterator[Packet[VideoStream]]":
        """Read packet by packet from where the container is."""
        for packet in self.container.demux(self.stream):
            self.on_packet()
            yield packet

    def decode(self) -> Iterator[VideoFrame]:
        """Decode frame by frame from where the container is, past what is damaged."""
        # Each CPU decodes a video of its own, so more threads would compete for the same CPUs.
        self.stream.codec_context.thread_count = 1
        self.stream.codec_context.options = {"max_pixels": str(MAX_IMAGE_PIXELS)}
        for packet in self.packets():
            if self._takes_minutes(packet):
                continue
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                # What follows may be intact.
                continue

    def _takes_minutes(self, packet: "Packet[VideoStream]") -> bool:
        """Whether a frame is a progressive JPEG of so many scans that it would block the process.

        The stream's size does not count, because that in the frame itself may be larger.
        """
        if self.stream.codec_context.name != "mjpeg":
            return False
        return bytes(packet).count(b"\xff\xda") > MAX_SCANNED_PIXELS // MAX_IMAGE_PIXELS


@contextmanager
def open_video(file: BinaryIO, on_packet: OnPacket = ignore_packet) -> Iterator[OpenVideo]:
    """Open a video.

    Args:
        file: The video, open for random access.
        on_packet: Called before each packet.

    Raises:
        ImageError: The file is no video, or its frames are too large.
    """
    file.seek(0)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "pipe"}
    try:
        container = av.open(file, "r", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        reason = f"The file is not a video that FFmpeg reads: {describe_error(error)}."
        raise ImageError("unreadable", reason) from error
    with container:
        yield OpenVideo(container, _first_pictures(container), on_packet)


def _first_pictures(container: InputContainer) -> VideoStream:
    """Return the first stream of pictures that is not the cover of an album."""
    cover = av.stream.Disposition.attached_pic
    stream = next((each for each in container.streams.video if not each.disposition & cover), None)
    if stream is None:
        raise ImageError("unreadable", "The file holds sound or text, but no pictures.")
    if stream.codec_context is None:
        raise ImageError("unreadable", "The pictures are encrypted, or of an unknown format.")
    num_pixels = stream.width * stream.height
    if num_pixels > MAX_IMAGE_PIXELS:
        limit = f"at most {MAX_IMAGE_PIXELS:,} are decoded"
        raise ImageError("too_large", f"A frame has {num_pixels:,} pixels; {limit}.")
    return stream


def describe_error(error: av.error.FFmpegError) -> str:
    """Return what FFmpeg says of an error, as the end of a sentence."""
    text = (error.strerror or type(error).__name__).strip().rstrip(".")
    return text[:1].lower() + text[1:]
