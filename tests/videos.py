"""Videos whose frames show their own number, so that a test can tell which one it got."""

import io
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

NUM_BITS = 12
"""Bits of a frame's number, each a bar of its own."""


def draw_frame(number, width=192, height=96):
    """Draw a frame: its number as black and white bars above, a gray level that changes below."""
    frame = np.full((height, width, 3), number * 7 % 256, np.uint8)
    for bit in range(NUM_BITS):
        bar = slice(bit * width // NUM_BITS, (bit + 1) * width // NUM_BITS)
        frame[: height // 2, bar] = 255 if number >> bit & 1 else 0
    return frame


def read_number(pixels):
    """Return the number that a frame shows."""
    height, width = pixels.shape[:2]
    edges = [bit * width // NUM_BITS for bit in range(NUM_BITS + 1)]
    margin_x, margin_y = width // NUM_BITS // 4, height // 8
    bars = pixels[margin_y : height // 2 - margin_y]
    levels = [bars[:, a + margin_x : b - margin_x].mean() for a, b in pairwise(edges)]
    return sum((level > 128) << bit for bit, level in enumerate(levels))


def make_video(
    container="mp4",
    codec="libx264",
    num_frames=100,
    rate=25,
    draw=draw_frame,
    times=None,
    **options,
):
    """Encode a video.

    Args:
        container: FFmpeg's name of it.
        codec: FFmpeg's name of the encoder.
        num_frames: Number of frames.
        rate: Frames a second.
        draw: Returns frame N, uint8 (H, W, 3).
        times: Returns when frame N is shown, in milliseconds, if not at the rate.
        options: Of the encoder; ``pixels`` is the format of the pixels.

    Returns:
        The file.
    """
    file, pixels = io.BytesIO(), options.pop("pixels", "yuv420p")
    options = {name: str(value) for name, value in options.items()}
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = pixels
        if times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(number), "rgb24")
            if times:
                frame.pts, frame.time_base = times(number), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def make_sound():
    """Encode a file that holds only sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44100)
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def turn(mp4, *, clockwise):
    """Return an MP4 file that says that its frames are to be turned by 90 degrees, as phones do."""
    one = (1 << 16).to_bytes(4)
    minus_one = (-(1 << 16)).to_bytes(4, signed=True)
    zero, w = bytes(4), (1 << 30).to_bytes(4)
    upright = one + zero * 3 + one + zero * 3 + w
    first, second = (one, minus_one) if clockwise else (minus_one, one)
    turned = zero + first + zero + second + zero * 4 + w
    track = mp4.index(b"tkhd")
    place = mp4.index(upright, track)
    return mp4[:place] + turned + mp4[place + len(upright) :]


def remux(content, container="mp4", **options):
    """Return a video with the packets of another, in a container with some options of FFmpeg's."""
    with tempfile.TemporaryDirectory() as folder:
        # FFmpeg opens a file again to move its header to its beginning.
        path = f"{folder}/video.{container}"
        with (
            av.open(io.BytesIO(content)) as source,
            av.open(path, "w", format=container, options=options) as output,
        ):
            stream = output.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
        return Path(path).read_bytes()


def rows_at(places, first=0):
    """Return rows of label files: in each frame, faces whose left edges are at some places."""
    return [
        {
            "image": "/a.mp4",
            "frame": first + number,
            "time_seconds": (first + number) / 5,
            "face": face,
            "box": {"x": x, "y": 50.0, "width": 40.0, "height": 48.0},
            "track": None,
        }
        for number, xs in enumerate(places)
        for face, x in enumerate(xs)
    ]
