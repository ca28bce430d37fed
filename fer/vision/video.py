"""Sample the frames of videos: choose them by their times, in chunks, and decode them.

``plan`` reads the packets of a video without decoding them, and learns from each when its frame is
shown. That is fast, and right whatever the header says of length and frame rate. A chunk starts at
a keyframe, so that several processes can decode one video at the same time.
"""

import heapq
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from typing import BinaryIO, NoReturn

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fer.vision.decode import MAX_IMAGE_PIXELS, MAX_PHOTO_SIDE, ImageError, Photo

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,gif"
"""FFmpeg's names of the containers that are opened.

Others are refused: some of them, such as playlists, make FFmpeg open further files.
"""

UNINDEXED_FORMATS = ("mpegts", "mpeg")
"""Containers that can be read from any byte on, and whose clock may go back."""

UNTIMED_FORMAT = "avi"
"""A container that stores frames in the order of decoding and does not say when each is shown. Only
decoding from the beginning tells."""

CHUNK_SAMPLES, CHUNK_FRAMES = 256, 1800
"""Sampled frames, and frames to decode, at which a chunk ends at the next keyframe."""

MAX_CHUNK_SAMPLES = 16 * CHUNK_SAMPLES
"""Sampled frames at which a chunk ends even without a keyframe, since their faces are in memory
together. The next chunk must then decode the frames of this one again."""

CUT_SECONDS = 2.0
"""Length in seconds by which a video must fall short of its header to count as cut."""

LATE_FRAMES = 64
"""Frames that are decoded beyond those that a chunk was planned with, before it is given up."""


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are used.

    Attributes:
        fps: Frames for each second of playing time; None uses every frame.
        start: First time in seconds.
        end: Time in seconds before which frames are used; None means the end of the video.
    """

    fps: float | None = 1.0
    start: float = 0.0
    end: float | None = None

    def includes(self, time: float, next_time: float) -> bool:
        """Tell whether a frame at ``time`` is used if the next sample is due at ``next_time``."""
        return time >= next_time and (self.end is None or time < self.end)

    def next_time(self, time: float) -> float:
        """Return when the sample is due that follows one at ``time``."""
        if self.fps is None:
            return time
        # Times are rounded in the file, and a frame that is early by so little counts as in time.
        tolerance = 1e-3 / self.fps
        num_passed = math.floor((time + tolerance - self.start) * self.fps)
        return self.start + (num_passed + 1) / self.fps - tolerance


EVERY_SECOND = Sampling()


@dataclass(frozen=True)
class ChosenFrame:
    """A frame of a video that is to be decoded.

    Attributes:
        number: Number in the video, from 0 in the order in which frames are shown.
        time: When it is shown, in units of the video's time base, as its packet says; in an AVI
            file, which does not say it, its number.
        time_seconds: When it is shown, in seconds after the first frame. It never goes back.
    """

    number: int
    time: int
    time_seconds: float


@dataclass(frozen=True)
class FrameChunk:
    """Sampled frames of a video that are decoded together.

    Attributes:
        seek: Where to start decoding: the time of a keyframe in units of the time base, or in
            ``UNINDEXED_FORMATS`` its first byte. None means the beginning.
        first: Number of the frame at which decoding starts.
        frames: The sampled frames, in the order in which they are shown.
        problem: What is wrong with the video after these frames, as a sentence, or None.
        is_only: Whether these are all sampled frames of the video.
    """

    seek: int | None
    first: int
    frames: tuple[ChosenFrame, ...]
    problem: str | None = None
    is_only: bool = False

    def to_json(self) -> str:
        """Return the chunk as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "FrameChunk":
        """Return the chunk that ``to_json`` wrote."""
        content = json.loads(text)
        frames = tuple(ChosenFrame(**frame) for frame in content.pop("frames"))
        return cls(frames=frames, **content)


def _is_indexed(container: InputContainer) -> bool:
    return not container.format.name.startswith(UNINDEXED_FORMATS)


def _is_timed(container: InputContainer) -> bool:
    return container.format.name != UNTIMED_FORMAT


@contextmanager
def _open(file: "BinaryIO | _Unseekable") -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and its first stream of pictures.

    Raises:
        ImageError: The file is no video, or its frames are too large.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "pipe"}
    try:
        container = av.open(file, "r", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        _fail("The file is not a video that FFmpeg reads", error)
    with container:
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise ImageError("unreadable", "The file holds sound or text, but no pictures.")
        stream = streams[0]
        num_pixels = stream.width * stream.height
        if num_pixels > MAX_IMAGE_PIXELS:
            raise ImageError(
                "too_large",
                f"A frame has {num_pixels:,} pixels; at most {MAX_IMAGE_PIXELS:,} are decoded.",
            )
        yield container, stream


def _fail(what: str, error: av.error.FFmpegError) -> NoReturn:
    raise ImageError("unreadable", f"{what}: {_reason(error)}.") from error


def _reason(error: av.error.FFmpegError) -> str:
    text = (error.strerror or type(error).__name__).strip().rstrip(".")
    return text[:1].lower() + text[1:]


# Plan.


@dataclass(frozen=True, order=True)
class _Packet:
    """A compressed frame.

    Attributes:
        time: When it is shown, in units of the time base.
        decoded_at: When it is decoded; no later packet is shown before. None if it is unknown, as
            that of the first packets of a Matroska file.
        seek: Where to start decoding: see ``FrameChunk``.
        is_keyframe: Whether decoding can start with it.
    """

    time: int
    decoded_at: int | None = field(compare=False)
    seek: int | None = field(compare=False)
    is_keyframe: bool = field(compare=False)


def plan(file: BinaryIO, sampling: Sampling) -> Iterator[FrameChunk]:
    """Choose the frames of a video to use, and yield them in chunks.

    There is at least one chunk. The last one says what is wrong with the video, if anything is.

    Args:
        file: The video, open for random access. It is read from beginning to end.
        sampling: Which frames are used.

    Raises:
        ImageError: The file is no video, or its frames are too large.
        OSError: The file can't be read.
    """
    with _open(file) as (container, stream):
        time_base = stream.time_base or Fraction(1, 1000)
        planner = _Planner(sampling, time_base, is_timed=_is_timed(container))
        problem = None
        try:
            for packet in _in_shown_order(_read_packets(container, stream)):
                yield from planner.add(packet)
        except av.error.FFmpegError as error:
            problem = f"The video can't be read beyond {planner.position}: {_reason(error)}."
        yield planner.last(problem or planner.problem(_promised_seconds(container, stream)))


def _read_packets(container: InputContainer, stream: VideoStream) -> Iterator[_Packet]:
    """Yield the packets of a stream in the order of decoding."""
    is_indexed, is_timed = _is_indexed(container), _is_timed(container)
    keyframe = -math.inf
    start: int | None = None
    earlier_start: int | None = None
    for packet in container.demux(stream):
        time = packet.pts if is_timed and packet.pts is not None else packet.dts
        if time is None or not packet.size:
            continue
        is_start = is_timed and bool(packet.is_keyframe)
        if is_start:
            keyframe, earlier_start = time, start
            start = time if is_indexed else packet.pos
        # A frame that is shown before its keyframe also needs the one before that.
        seek = earlier_start if time < keyframe else start
        yield _Packet(time, packet.dts, seek, is_start)


def _in_shown_order(packets: Iterator[_Packet]) -> Iterator[_Packet]:
    """Sort packets by the times at which they are shown."""
    waiting: list[_Packet] = []
    newest = -math.inf
    problem = None
    try:
        for packet in packets:
            if packet.decoded_at is not None:
                # Where the clock goes back, what follows is shown after what came before.
                limit = packet.decoded_at if packet.decoded_at >= newest else math.inf
                newest = packet.decoded_at
                while waiting and waiting[0].time < limit:
                    yield heapq.heappop(waiting)
            heapq.heappush(waiting, packet)
    except av.error.FFmpegError as error:
        problem = error
    yield from sorted(waiting)
    if problem:
        raise problem


class _Planner:
    """Samples the frames of a video in the order in which they are shown, and cuts chunks."""

    def __init__(self, sampling: Sampling, time_base: Fraction, *, is_timed: bool) -> None:
        self._sampling, self._time_base, self._is_timed = sampling, time_base, is_timed
        self._next_time = sampling.start
        self._previous: _Packet | None = None
        self._elapsed = Fraction(0)
        self._frame_seconds = Fraction(0)
        self._num_frames = 0
        # Numbers of the frames at which the chunk begins, and from which it is decoded.
        self._begin, self._decoded_from = 0, 0
        self._last_keyframe = 0
        self._seek: int | None = None
        self._chosen: list[ChosenFrame] = []
        self._num_chunks = 0

    @property
    def position(self) -> str:
        """How far the video was read, for a person."""
        return f"{float(self._elapsed):.1f} s"

    def add(self, packet: _Packet) -> Iterator[FrameChunk]:
        """Take the next frame; yield the chunk before it if that is complete."""
        self._advance(packet)
        if self._chosen and self._is_full(packet):
            yield self._cut()
        if packet.is_keyframe:
            self._last_keyframe = self._num_frames
        # What comes before the last keyframe before the first sample need not be decoded.
        if not self._chosen and (packet.is_keyframe or packet.seek != self._seek):
            self._begin, self._seek = self._num_frames, packet.seek
            self._decoded_from = self._last_keyframe
        if self._sampling.includes(seconds := float(self._elapsed), self._next_time):
            time = packet.time if self._is_timed else self._num_frames
            self._chosen.append(ChosenFrame(self._num_frames, time, round(seconds, 6)))
            self._next_time = self._sampling.next_time(seconds)
        self._num_frames += 1

    def _advance(self, packet: _Packet) -> None:
        """Move the time on: by what the packet says, or by one frame where its clock goes back."""
        if self._previous:
            step = (packet.time - self._previous.time) * self._time_base
            if step > 0:
                self._frame_seconds = step
            self._elapsed += step if step > 0 else self._frame_seconds
        self._previous = packet

    def _is_full(self, packet: _Packet) -> bool:
        num_samples, num_frames = len(self._chosen), self._num_frames - self._begin
        is_full = num_samples >= CHUNK_SAMPLES or num_frames >= CHUNK_FRAMES
        return (is_full and packet.is_keyframe) or num_samples >= MAX_CHUNK_SAMPLES

    def _cut(self, problem: str | None = None, *, is_only: bool = False) -> FrameChunk:
        frames = tuple(self._chosen)
        self._chosen, self._num_chunks = [], self._num_chunks + 1
        return FrameChunk(self._seek, self._decoded_from, frames, problem, is_only)

    def last(self, problem: str | None) -> FrameChunk:
        """Return the chunk at the end of the video; it may be empty."""
        return self._cut(problem, is_only=not self._num_chunks)

    def problem(self, promised_seconds: float | None) -> str | None:
        """Return what is wrong with a video that was read to its end, as a sentence, or None."""
        if not self._num_frames:
            return "The video holds no frame."
        if promised_seconds and promised_seconds - self._elapsed > CUT_SECONDS:
            return (
                f"The video ends after {self.position}, although its header promises "
                f"{promised_seconds:.1f} s."
            )
        return None


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the length of the pictures according to the header; None if it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


# Decode.


def decode_frames(
    file: BinaryIO, chunk: FrameChunk
) -> Iterator[tuple[ChosenFrame, Photo | ImageError]]:
    """Decode the frames of a chunk, one after the other.

    Args:
        file: The video, open for random access.
        chunk: One of the chunks that ``plan`` yielded.

    Yields:
        Each frame of the chunk, with its picture or why it can't be decoded.

    Raises:
        ImageError: The file is not the video that was planned.
        OSError: The file can't be read.
    """
    missing = list(chunk.frames)
    if not missing:
        return
    try:
        for decoded in _decode(file, chunk):
            at = next((i for i, frame in enumerate(missing) if frame.time == decoded.time), None)
            if at is None:
                continue
            # The decoder has left out those before.
            yield from ((frame, _undecodable()) for frame in missing[:at])
            yield missing[at], decoded.to_photo()
            del missing[: at + 1]
            if not missing:
                return
    except av.error.FFmpegError as error:
        yield from ((frame, _undecodable(error)) for frame in missing)
    else:
        yield from ((frame, _undecodable()) for frame in missing)


def _undecodable(error: av.error.FFmpegError | None = None) -> ImageError:
    reason = f": {_reason(error)}" if error else ""
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
        scaled = self.frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray()
        num_turns = round(self.frame.rotation / 90) % 4
        upright = np.ascontiguousarray(np.rot90(scaled, num_turns))
        return Photo(upright, *((height, width) if num_turns % 2 else (width, height)))


def _decode(file: BinaryIO, chunk: FrameChunk) -> Iterator[_Decoded]:
    """Yield the frames around those of a chunk, in the order in which they are shown."""
    wanted, first = chunk.frames, chunk.first
    frames = _decode_from(file, chunk.seek, first)
    head = next(frames, None)
    is_late = head is None or head.time is None or head.time > wanted[0].time
    if is_late and chunk.seek is not None:
        # Some indexes lead to a later keyframe. The beginning is always right.
        first = 0
        frames = _decode_from(file, None, first)
        head = next(frames, None)
    if head is not None:
        yield head
    yield from islice(frames, wanted[-1].number - first + LATE_FRAMES)


def _decode_from(file: BinaryIO, seek: int | None, first: int) -> Iterator[_Decoded]:
    """Yield the frames of a video from a keyframe on: see ``FrameChunk``."""
    file.seek(0)
    with _open(file) as (container, _):
        is_indexed, is_timed = _is_indexed(container), _is_timed(container)
    file.seek(0 if is_indexed or seek is None else seek)
    with _open(file if is_indexed else _Unseekable(file)) as (container, stream):
        # Each CPU decodes a chunk of its own, so more threads would compete for the same CPUs.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_IMAGE_PIXELS)}
        if seek is not None and is_indexed:
            container.seek(seek, stream=stream)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        for number, frame in enumerate(_decode_packets(container, stream), start=first):
            yield _Decoded(frame, frame.pts if is_timed else number, aspect)


def _decode_packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            # What follows may be intact.
            continue


class _Unseekable:
    """A file from its current byte on."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
