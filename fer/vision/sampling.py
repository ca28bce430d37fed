"""Sample the frames of videos: choose them by their times, in chunks.

``plan`` reads the packets of a video and learns from each when its frame is shown. That is fast,
and right whatever the header says of length and frame rate. A chunk starts at a keyframe, so that
several processes can decode one video at the same time. In ``UNTIMED_FORMATS``, where packets do
not tell, and where the clock goes back, it decodes the video from the beginning.
"""

import heapq
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import BinaryIO

import av

from fer.vision.containers import OnPacket, OpenVideo, describe_error, ignore_packet, open_video

CHUNK_SAMPLES, CHUNK_FRAMES = 256, 1800
"""Sampled frames, and frames to decode, at which a chunk ends at the next keyframe."""

MAX_CHUNK_SAMPLES = 16 * CHUNK_SAMPLES
"""Sampled frames at which a chunk ends even without a keyframe, since their faces are in memory
together. The next chunk must then decode the frames of this one again."""

MAX_STEP_SECONDS = 10.0
"""Time between two frames that counts as a jump of the clock in ``UNTIMED_FORMATS``; FFmpeg's own
limit for such containers."""

CUT_SECONDS = 2.0
"""Length in seconds by which a video must fall short of its header to count as cut."""


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are used.

    Attributes:
        fps: Frames for each second of playing time; None uses every frame.
        start: First time in seconds.
        end: Time in seconds before which frames are used; None means the end of the video.
        limit: Number of used frames after which no more are looked for; None means no limit.
    """

    fps: float | None = 1.0
    start: float = 0.0
    end: float | None = None
    limit: int | None = None

    def includes(self, time: float, next_time: float) -> bool:
        """Tell whether a frame at ``time`` is used if the next sample is due at ``next_time``."""
        return time >= next_time and (self.end is None or time < self.end)

    def next_time(self, time: float) -> float:
        """Return when the sample is due that follows one at ``time``."""
        if self.fps is None:
            return time
        # Matroska rounds times to milliseconds. A frame that is early by so little is in time.
        tolerance = min(1e-3, 0.25 / self.fps)
        num_passed = math.floor((time + tolerance - self.start) * self.fps)
        return self.start + (num_passed + 1) / self.fps - tolerance


EVERY_SECOND = Sampling()


@dataclass(frozen=True)
class ChosenFrame:
    """A frame of a video that is to be decoded.

    Attributes:
        number: Number in the video, from 0 in the order in which frames are shown.
        time: When it is shown, in units of the video's time base, as its packet says; or its
            number: see ``FrameChunk``.
        time_seconds: When it is shown, in seconds after the first frame. It never goes back.
    """

    number: int
    time: int
    time_seconds: float


@dataclass(frozen=True)
class FrameChunk:
    """Sampled frames of a video that are decoded together.

    Attributes:
        seek: Time of the keyframe from which to decode, in units of the time base. None means the
            beginning.
        first: Number of the frame at which decoding starts.
        frames: The sampled frames, in the order in which they are shown.
        problem: What is wrong with the video after these frames, as a sentence, or None.
        is_only: Whether these are all sampled frames of the video.
        by_number: Whether the ``time`` of each frame is its number, because the times of the video
            do not tell its frames apart.
    """

    seek: int | None
    first: int
    frames: tuple[ChosenFrame, ...]
    problem: str | None = None
    is_only: bool = False
    by_number: bool = False

    def to_json(self) -> str:
        """Return the chunk as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "FrameChunk":
        """Return the chunk that ``to_json`` wrote."""
        content = json.loads(text)
        frames = tuple(ChosenFrame(**frame) for frame in content.pop("frames"))
        return cls(frames=frames, **content)


@dataclass(frozen=True, order=True)
class _Packet:
    """A compressed frame.

    Attributes:
        time: When it is shown, in units of the time base.
        decoded_at: When it is decoded; no later packet is shown before. None if it is unknown, as
            that of the first packets of a Matroska file.
        seek: Where to start decoding: see ``FrameChunk``.
        is_keyframe: Whether decoding can start with it.
        is_cut: Whether the file ends within it.
    """

    time: int
    decoded_at: int | None = field(compare=False)
    seek: int | None = field(compare=False)
    is_keyframe: bool = field(compare=False)
    is_cut: bool = field(default=False, compare=False)


class _ClockGoesBackError(Exception):
    """A packet is decoded or shown before one that it follows, so times tell frames no longer."""


def plan(
    file: BinaryIO, sampling: Sampling, on_packet: OnPacket = ignore_packet
) -> Iterator[FrameChunk]:
    """Choose the frames of a video to use, and yield them in chunks.

    There is at least one chunk. The last one says what is wrong with the video, if anything is.

    Args:
        file: The video, open for random access. It is read to the end of what is to be sampled.
        sampling: Which frames are used.
        on_packet: Called before each packet.

    Raises:
        ImageError: The file is no video, or its frames are too large.
        OSError: The file can't be read.
    """
    with open_video(file, on_packet) as video:
        planner = _Planner(sampling, video, by_number=not video.is_timed)
        try:
            yield from _plan(video, planner)
        except _ClockGoesBackError:
            pass
        else:
            return
    with open_video(file, on_packet) as video:
        yield from _plan(video, _Planner(sampling, video, by_number=True, before=planner))


def _plan(video: OpenVideo, planner: "_Planner") -> Iterator[FrameChunk]:
    problem = None
    try:
        timed = _decode(video) if planner.by_number else _in_shown_order(_read_packets(video))
        for packet in timed:
            yield from planner.add(packet)
            if planner.is_done:
                break
    except av.error.FFmpegError as error:
        problem = f"The video can't be read beyond {planner.position}: {describe_error(error)}."
    yield planner.last(problem or planner.problem())


def _read_packets(video: OpenVideo) -> Iterator[_Packet]:
    """Yield the packets of a video in the order of decoding.

    Raises:
        _ClockGoesBackError: Times no longer tell which packet is meant.
    """
    keyframe: int | None = None
    earlier: int | None = None
    newest = -math.inf
    for packet in video.packets():
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or not packet.size:
            continue
        if packet.dts is not None:
            if packet.dts < newest:
                raise _ClockGoesBackError
            newest = packet.dts
        if packet.is_keyframe:
            keyframe, earlier = time, keyframe
        # What an edit list cuts off is decoded for what follows, and not shown.
        if packet.is_discard:
            continue
        # A frame that is shown before its keyframe also needs the one before that.
        is_leading = keyframe is not None and time < keyframe
        seek = earlier if is_leading else keyframe
        yield _Packet(time, packet.dts, seek, bool(packet.is_keyframe), bool(packet.is_corrupt))


def _decode(video: OpenVideo) -> Iterator[_Packet]:
    """Decode a video whose packets do not say when their frames are shown."""
    previous, step = -1, 1
    for frame in video.decode():
        # AVI knows only the order of decoding, whose clock is that of showing, but for a delay.
        time = frame.dts if video.container.format.name == "avi" else frame.pts
        if time is None:
            time = previous + step
        elif time > previous:
            step = time - previous
        yield _Packet(time, None, None, is_keyframe=False)
        previous = time


def _in_shown_order(packets: Iterator[_Packet]) -> Iterator[_Packet]:
    """Sort packets by the times at which they are shown."""
    waiting: list[_Packet] = []
    problem = None
    try:
        for packet in packets:
            if packet.decoded_at is not None:
                while waiting and waiting[0].time < packet.decoded_at:
                    yield heapq.heappop(waiting)
            heapq.heappush(waiting, packet)
    except av.error.FFmpegError as error:
        problem = error
    yield from sorted(waiting)
    if problem:
        raise problem


class _Planner:
    """Samples the frames of a video in the order in which they are shown, and cuts chunks.

    Attributes:
        by_number: See ``FrameChunk``.
    """

    def __init__(
        self,
        sampling: Sampling,
        video: OpenVideo,
        *,
        by_number: bool,
        before: "_Planner | None" = None,
    ) -> None:
        """Begin.

        Args:
            sampling: Which frames are used.
            video: The video.
            by_number: See ``FrameChunk``.
            before: A planner that gave up the same video. Its chunks are not yielded again.
        """
        self.by_number = by_number
        self._sampling, self._time_base, self._is_timed = sampling, video.time_base, video.is_timed
        self._promised_seconds = video.promised_seconds
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
        self._is_cut_short = False
        self._num_chunks: int = before._num_chunks if before else 0
        # Number of the frame from which on samples are not in a chunk yet.
        self._unplanned: int = before._unplanned if before else 0
        self._num_planned: int = before._num_planned if before else 0

    @property
    def position(self) -> str:
        """How far the video was read, for a person."""
        return f"{float(self._elapsed):.1f} s"

    @property
    def is_done(self) -> bool:
        """Whether no later frame is to be sampled."""
        end, limit = self._sampling.end, self._sampling.limit
        is_past_end = end is not None and self._elapsed >= end
        return is_past_end or (limit is not None and self._num_planned + len(self._chosen) >= limit)

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
            time = self._num_frames if self.by_number else packet.time
            if self._num_frames >= self._unplanned:
                self._chosen.append(ChosenFrame(self._num_frames, time, round(seconds, 6)))
            self._next_time = self._sampling.next_time(seconds)
        self._num_frames += 1

    def _advance(self, packet: _Packet) -> None:
        """Move the time on: by what the packet says, or by one frame where its clock jumps."""
        if self._previous:
            step = (packet.time - self._previous.time) * self._time_base
            is_jump = step < 0 or (step > MAX_STEP_SECONDS and not self._is_timed)
            self._elapsed += self._frame_seconds if is_jump else step
            if step and not is_jump:
                self._frame_seconds = step
        self._previous = packet
        self._is_cut_short |= packet.is_cut

    def _is_full(self, packet: _Packet) -> bool:
        num_samples, num_frames = len(self._chosen), self._num_frames - self._begin
        is_full = num_samples >= CHUNK_SAMPLES or num_frames >= CHUNK_FRAMES
        return (is_full and packet.is_keyframe) or num_samples >= MAX_CHUNK_SAMPLES

    def _cut(self, problem: str | None = None, *, is_only: bool = False) -> FrameChunk:
        frames = tuple(self._chosen)
        self._chosen, self._num_chunks = [], self._num_chunks + 1
        self._num_planned += len(frames)
        if frames:
            self._unplanned = frames[-1].number + 1
        return FrameChunk(self._seek, self._decoded_from, frames, problem, is_only, self.by_number)

    def last(self, problem: str | None) -> FrameChunk:
        """Return the chunk at the end of the video; it may be empty."""
        return self._cut(problem, is_only=not self._num_chunks)

    def problem(self) -> str | None:
        """Return what is wrong with the video, of which nothing is left, as a sentence, or None."""
        if not self._num_frames:
            return "The video holds no frame."
        promised, ends = self._promised_seconds, self._elapsed + self._frame_seconds
        if self._previous and self._is_timed:
            # Some headers count from the start of the clock, and not from the first frame.
            ends = max(ends, self._previous.time * self._time_base + self._frame_seconds)
        if promised and promised - ends > CUT_SECONDS and not self.is_done:
            return (
                f"The video ends after {self.position}, although its header promises "
                f"{promised:.1f} s."
            )
        if self._is_cut_short:
            return f"The video ends after {self.position}, in the middle of a frame."
        return None
