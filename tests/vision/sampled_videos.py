"""Videos of many kinds, and what is sampled from one."""

import io

from videos import draw_frame, read_number

from fer.vision.sampling import FrameChunk, plan
from fer.vision.video import decode_frames


def draw_odd(number):
    """Draw a frame whose width and height are odd."""
    return draw_frame(number, 191, 97)


KINDS = {
    "MP4": {"container": "mp4", "g": 25, "sc_threshold": 0},
    "MOV": {"container": "mov", "g": 25, "sc_threshold": 0},
    "Matroska": {"container": "matroska", "g": 25, "sc_threshold": 0},
    "MPEG-TS": {"container": "mpegts", "g": 25, "sc_threshold": 0},
    "H.264 in AVI": {"container": "avi", "g": 25, "sc_threshold": 0},
    "MPEG-4 in AVI": {"container": "avi", "codec": "mpeg4", "g": 12, "bf": 2},
    "Motion JPEG in AVI": {"container": "avi", "codec": "mjpeg", "pixels": "yuvj420p"},
    "WebM": {"container": "webm", "codec": "libvpx-vp9", "g": 25, "deadline": "realtime"},
    "HEVC whose groups are open": {
        "codec": "libx265",
        "x265-params": "keyint=25:open-gop=1:bframes=4:log-level=none",
    },
    "10 bits": {
        "codec": "libx265",
        "x265-params": "keyint=25:log-level=none",
        "pixels": "yuv420p10le",
    },
    "HDR": {
        "codec": "libx265",
        "x265-params": "keyint=25:log-level=none:colorprim=bt2020:transfer=smpte2084:"
        "colormatrix=bt2020nc:hdr10=1",
        "pixels": "yuv420p10le",
    },
    "odd size": {"draw": draw_odd, "pixels": "yuv444p", "g": 25, "sc_threshold": 0},
    "VP9 of an odd size": {
        "container": "webm",
        "codec": "libvpx-vp9",
        "draw": draw_odd,
        "g": 25,
        "deadline": "realtime",
    },
    "GIF": {"container": "gif", "codec": "gif", "pixels": "gray"},
}


def sampled(content, wanted):
    """Return the frames of a video as (number, seconds, photo or error), and what is wrong with it.

    Each chunk goes through JSON, as on its way to another process.
    """
    chunks = [FrameChunk.from_json(chunk.to_json()) for chunk in plan(io.BytesIO(content), wanted)]
    assert all(chunk.problem is None for chunk in chunks[:-1])
    frames = [
        (frame.number, frame.time_seconds, photo)
        for chunk in chunks
        for frame, photo in decode_frames(io.BytesIO(content), chunk)
    ]
    return frames, chunks[-1].problem


def numbers(frames):
    """Return the numbers of frames, after a look at their pictures."""
    for number, _, photo in frames:
        assert read_number(photo.pixels) == number
    return [number for number, _, _ in frames]
