"""Uploaded videos: their sampled frames one at a time, and the results of all of them."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from fer.labels.schema import BOX_FIELDS, Labeler
from fer.serving.schemas import FrameResult, VideoResult, build_frame_result
from fer.vision.containers import OnPacket, ignore_packet
from fer.vision.decode import ImageError, Photo
from fer.vision.sampling import ChosenFrame, FrameChunk, Sampling, plan
from fer.vision.tracking import Tracker
from fer.vision.video import decode_frames

MIN_FPS, MAX_FPS = 0.1, 240.0
"""Rates at which frames of a video are sampled. Whatever lies between two sampled frames must be
decoded as well, so that a lower rate would make much work of a small request."""


@dataclass(frozen=True)
class VideoOptions:
    """Which frames of uploaded videos are used.

    Attributes:
        fps: Frames for each second of playing time.
        max_frames: Largest number of such frames of one video.
    """

    fps: float = 1.0
    max_frames: int = 120


@dataclass
class UploadedVideo:
    """A video in memory, whose frames are decoded as they are asked for.

    Attributes:
        data: Content of the file.
        options: Which frames are used.
        problem: What is wrong with the video although frames of it are used, or None; known after
            the first frame.
    """

    data: bytes
    options: VideoOptions
    problem: str | None = None

    def frames(
        self, on_packet: OnPacket = ignore_packet
    ) -> Iterator[tuple[ChosenFrame, Photo | ImageError]]:
        """Yield the sampled frames, each with its picture or why it can't be decoded.

        Args:
            on_packet: Called before each packet of the video is decoded; also between the sampled
                frames, and before the first of them.

        Raises:
            ImageError: The file is no video, holds no frame, or too many are sampled.
        """
        chunks = self._plan(on_packet)
        self.problem = chunks[-1].problem
        if not any(chunk.frames for chunk in chunks):
            raise ImageError("unreadable", self.problem or "The video holds no frame.")
        for chunk in chunks:
            yield from decode_frames(io.BytesIO(self.data), chunk, on_packet)

    def _plan(self, on_packet: OnPacket) -> list[FrameChunk]:
        fps, max_frames = self.options.fps, self.options.max_frames
        # One more than is allowed shows that there are too many, without the rest of the video.
        sampling = Sampling(fps, limit=max_frames + 1)
        chunks = list(plan(io.BytesIO(self.data), sampling, on_packet))
        if sum(len(chunk.frames) for chunk in chunks) > max_frames:
            raise ImageError(
                "too_large",
                f"The video has more than {max_frames} frames at {fps:g} a second; send a shorter "
                f"one, lower fps (to {MIN_FPS:g} at least), or label the file with fer label "
                "--images FILE.",
            )
        return chunks


@dataclass
class DetectedFrame:
    """A frame with its detected faces.

    Attributes:
        chosen: Which frame it is.
        size: Width and height of the upright frame in pixels; zeros if it can't be decoded.
        faces: For each face, ``box`` and ``detection_score``; nothing without a detector.
        crops: uint8 (*shape) for each face, in the shape that the network takes.
        error: Why the frame can't be used, or None.
    """

    chosen: ChosenFrame
    size: tuple[int, int] = (0, 0)
    faces: list[dict[str, Any]] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)
    error: ImageError | None = None

    def boxes(self) -> list[list[float]]:
        """Return left, top, width and height of each face; without a detector, the whole frame."""
        whole = dict(zip(BOX_FIELDS, (0.0, 0.0, *self.size), strict=True))
        return [[face.get("box", whole)[name] for name in BOX_FIELDS] for face in self.faces]


def build_video_result(
    name: str,
    frames: Sequence[DetectedFrame],
    probs: Sequence[Sequence[float]],
    labeler: Labeler,
    problem: str | None,
) -> VideoResult:
    """Build the result of a video.

    Args:
        name: Name that the client gave to it.
        frames: Its frames, in the order in which they are shown.
        probs: The C class probabilities of each face of each frame.
        labeler: Turns probabilities into emotions.
        problem: What is wrong with the video although frames of it were used, or None.
    """
    tracker, left = Tracker(), iter(probs)
    results = [
        _build_frame_result(frame, list(islice(left, len(frame.faces))), tracker, labeler)
        for frame in frames
    ]
    width, height = max(frame.size for frame in frames)
    return VideoResult.of_frames(name, (width, height), results, problem)


def _build_frame_result(
    frame: DetectedFrame, probs: Sequence[Sequence[float]], tracker: Tracker, labeler: Labeler
) -> FrameResult:
    number, seconds = frame.chosen.number, frame.chosen.time_seconds
    if frame.error:
        status, error = frame.error.status, str(frame.error)
        return FrameResult(frame=number, time_seconds=seconds, status=status, error=error)
    tracks = tracker.update(seconds, frame.boxes())
    described = {"frame": number, "time_seconds": seconds, "faces": frame.faces}
    return build_frame_result(labeler, described, probs, tracks)
