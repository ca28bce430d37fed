"""Videos: cut long ones into chunks, and detect the faces of their frames."""

import hashlib
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, cast

from fer import storage
from fer.data.items import NotAnImageError, SourceItem, fetch_image
from fer.labels.chunks import UNREAD, Chunk
from fer.storage import listing
from fer.vision.animation import is_animation, sample_animation
from fer.vision.decode import ImageError, Photo
from fer.vision.sampling import ChosenFrame, FrameChunk, Sampling, plan
from fer.vision.video import decode_frames
from ray_jobs.cluster import isolation
from ray_jobs.cluster.watchdog import WatchedFile, watched
from ray_jobs.labeling.images import (
    Detection,
    columns_without_data,
    detect_in_frame,
    detect_in_image,
)

VIDEO_PREFIX = "video-"
"""Prefix of a chunk's name if the chunk is a part of one video. The digest of the video and the
number of the part follow."""

PART_SUFFIX = "-{:06}"
"""End of a chunk's name that gives the number of a part, from 1."""

CLIP_BYTES, CLIPS_PER_CHUNK = 2 * 2**20, 16
"""Largest size of a video that shares a chunk with others, and most videos in such a chunk."""

TEXT_BYTES = 4096
"""Bytes at the start of a file that tell a program from a video."""

THUMBNAIL_SECONDS = 0.5
"""Least time between two frames of a video that get thumbnails, for the turns of timelines."""


def is_clip(video: SourceItem) -> bool:
    """Tell whether a video is so small that it is not cut."""
    return video.size_bytes is not None and video.size_bytes <= CLIP_BYTES


def name_video(video: SourceItem, salt: str) -> str:
    """Return the first part of the names of a video's chunks."""
    digest = hashlib.sha256(f"{salt}{video.source}\n{video.etag}".encode()).hexdigest()
    return VIDEO_PREFIX + digest[:24]


def part_of(file: str) -> str:
    """Return what the names of the label files of a long video begin with; empty for others."""
    is_part = storage.base_name(file).startswith(VIDEO_PREFIX)
    return file.rpartition("-")[0] if is_part else ""


def is_first_part(name: str) -> bool:
    """Tell whether a chunk is the first one of a video, or holds something else."""
    return not name.startswith(VIDEO_PREFIX) or name.endswith(PART_SUFFIX.format(1))


def cut(video: SourceItem, sampling: Sampling, name: str) -> Iterator[Chunk]:
    """Cut a video into chunks, each of a single item with the frames to use.

    A video that can't be read becomes a chunk too. Detection meets the same problem and reports it.
    """
    number = 0
    try:
        if isolation.is_poison_suspect():
            planned = isolation.iterate_isolated(_plan, video, sampling)
        else:
            planned = _plan(video, sampling)
        for number, frames in enumerate(planned, start=1):
            item = replace(video, frames=frames.to_json())
            yield Chunk(name + PART_SUFFIX.format(number), (item,))
    except (NotAnImageError, ImageError, OSError) as error:
        yield Chunk(name + UNREAD, (_unread(video, number, error),))


def _plan(video: SourceItem, sampling: Sampling) -> Iterator[FrameChunk]:
    with _open(video) as file:
        yield from watched(plan(file, sampling))


def _unread(video: SourceItem, num_chunks: int, error: Exception) -> SourceItem:
    """Return a video that was read up to an error, without its ETag, so that an update tries again.

    If it is damaged, or gone, and has no chunk yet, detection tells why. After another error,
    detection must not read it: it might succeed, and an earlier run may have labeled chunks of it.
    """
    is_refused = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    if not num_chunks and not is_refused:
        return video
    reason = storage.describe_error(error) if isinstance(error, OSError) else str(error)
    what = "The rest of the video" if num_chunks else "The video"
    problem = f"{what} can't be read: {reason.rstrip('.')}."
    return replace(video, frames=FrameChunk(None, 0, (), problem).to_json(), etag=None)


def detect_in_video(detection: Detection, video: SourceItem) -> list[dict[str, Any]]:
    """Decode the frames of a video, or of a chunk of one, and detect their faces.

    Returns:
        Columns of ``DETECTED_SCHEMA`` for each frame; and for what is wrong with the video.
    """
    try:
        with _open(video) as file:
            planned = [FrameChunk.from_json(video.frames)] if video.frames else []
            chunks = planned or list(watched(plan(file, detection.sampling)))
            return [row for chunk in chunks for row in _rows(file, chunk, detection, video)]
    except (NotAnImageError, ImageError, OSError) as error:
        return [columns_without_data(video, error)]


def detect_in_animation(
    detection: Detection, with_thumbnails: bool, item: SourceItem
) -> list[dict[str, Any]]:
    """Do for an animated image what ``detect_in_video`` does; a still one is a single image."""
    try:
        data = fetch_image(item)
    except (NotAnImageError, ImageError, OSError) as error:
        return [columns_without_data(item, error)]
    fetched = replace(item, data=data, size_bytes=len(data))
    if not is_animation(data):
        return [detect_in_image(detection, with_thumbnails, fetched)]
    frames = watched(sample_animation(data, detection.sampling))
    return list(_frame_rows(frames, fetched, detection)) or [_no_frame(fetched)]


def _rows(
    file: BinaryIO, chunk: FrameChunk, detection: Detection, video: SourceItem
) -> Iterator[dict[str, Any]]:
    yield from _frame_rows(watched(decode_frames(file, chunk)), video, detection)
    if chunk.problem:
        yield _problem(video, chunk.problem)
    elif chunk.is_only and not chunk.frames:
        yield _no_frame(video)


def _frame_rows(
    frames: Iterable[tuple[ChosenFrame, Photo | ImageError]],
    video: SourceItem,
    detection: Detection,
) -> Iterator[dict[str, Any]]:
    """Yield the columns of each frame; one in ``THUMBNAIL_SECONDS`` gets thumbnails."""
    next_seconds = -math.inf
    for frame, photo in frames:
        row = {
            "size_bytes": video.size_bytes,
            "frame": frame.number,
            "time_seconds": frame.time_seconds,
        }
        if isinstance(photo, ImageError):
            yield {**row, "status": photo.status, "error": str(photo)}
        else:
            with_thumbnails = frame.time_seconds >= next_seconds
            if with_thumbnails:
                next_seconds = frame.time_seconds + THUMBNAIL_SECONDS
            yield {**row, **detect_in_frame(detection, with_thumbnails, photo)}


def undecodable(video: SourceItem, error: ChildProcessError) -> list[dict[str, Any]]:
    """Return columns that say which frames are lost with the process that decoded them.

    They have no ETag, so that an update tries the video again.
    """
    chunk = FrameChunk.from_json(video.frames)
    problems = [chunk.problem] if chunk.problem else []
    if chunk.frames:
        start, end = (chunk.frames[index].time_seconds for index in (0, -1))
        lost = f"The frames from {start:.1f} s to {end:.1f} s can't be decoded: {error}."
        problems.insert(0, lost)
    elif not problems:
        problems = [f"The file can't be read: {error}."]
    return [{**_problem(video, problem), "etag": None} for problem in problems]


def _problem(video: SourceItem, problem: str) -> dict[str, Any]:
    return {"size_bytes": video.size_bytes, "status": "unreadable", "error": problem}


def _no_frame(video: SourceItem) -> dict[str, Any]:
    note = "No frame is shown in the time that --start and --end give."
    return {"size_bytes": video.size_bytes, "error": note, "faces": [], "crops": []}


@contextmanager
def _open(video: SourceItem) -> Iterator[BinaryIO]:
    """Open a video for random access.

    Raises:
        NotAnImageError: It is a program in TypeScript.
        OSError: It can't be read, or has changed since it was listed.
    """
    with WatchedFile(_open_file(video)) as file:
        if _may_be_program(video) and _is_text(file.read(TEXT_BYTES)):
            raise NotAnImageError(video.source)
        yield cast(BinaryIO, file)


def is_program(video: SourceItem) -> bool:
    """Tell whether a file that is named like a video is a program in TypeScript.

    False if it can't be read to tell.
    """
    if not _may_be_program(video):
        return False
    if video.data is not None:
        return _is_text(video.data[:TEXT_BYTES])
    try:
        return _is_text(storage.read_bytes(video.source, TEXT_BYTES))
    except OSError:
        return False


def _may_be_program(video: SourceItem) -> bool:
    return video.source.lower().endswith(".ts")


def _open_file(video: SourceItem) -> BinaryIO:
    if video.data is not None:
        return io.BytesIO(video.data)
    if not storage.exists(video.source):
        raise FileNotFoundError(video.source)
    if video.etag and listing.describe(video.source).etag != video.etag:
        raise OSError("it has changed since it was listed; label it with --update")
    return storage.open_seekable(video.source)


def _is_text(start: bytes) -> bool:
    """Tell whether a file begins like a program; an empty file does not."""
    # The last letter may be cut.
    text = start.decode(errors="replace").removesuffix("\ufffd")
    is_clean = all(letter.isprintable() or letter.isspace() for letter in text)
    return bool(text) and is_clean and "\ufffd" not in text
