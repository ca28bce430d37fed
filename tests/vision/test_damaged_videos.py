"""What is wrong with a video: what it still gives, and what is said."""

import io
import os
import resource
import subprocess
import sys
from fractions import Fraction

import av
import pytest
from PIL import Image
from sampled_videos import numbers, sampled
from videos import draw_frame, make_sound, make_video, read_number, remux

from fer.vision import containers
from fer.vision.decode import ImageError
from fer.vision.sampling import Sampling, plan


@pytest.mark.parametrize("kind", ["Matroska", "MPEG-TS"])
def test_a_video_that_is_cut_gives_its_frames_up_to_the_cut(make, kind):
    content = make(kind)
    frames, problem = sampled(content[: len(content) // 2], Sampling(None))
    # Frames that are decoded last, but shown before others, are missing at the cut.
    found = numbers(frames[:-5])
    assert found == list(range(len(found)))
    assert 10 < len(found) < 90
    if kind == "Matroska":
        ends = frames[-1][1]
        assert problem == f"The video ends after {ends:.1f} s, although its header promises 4.0 s."


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("share", [0.9, 0.7])
def test_an_mp4_file_that_is_cut_gives_its_frames_up_to_the_cut(make, movflags, share):
    content = remux(make("MP4"), movflags=movflags)
    assert sampled(content, Sampling(None))[1] is None
    frames, problem = sampled(content[: int(share * len(content))], Sampling(None))
    # Frames that are decoded last, but shown before others, are missing at the cut.
    found = numbers(frames[:-5])
    assert found == list(range(len(found)))
    assert 30 < len(found) < 95
    assert problem == f"The video ends after {frames[-1][1]:.1f} s, in the middle of a frame."


def test_a_video_without_a_frame_says_so(make):
    mp4 = remux(make("MP4"), movflags="frag_keyframe+empty_moov")
    assert sampled(mp4[: mp4.index(b"moof") - 4], Sampling()) == ([], "The video holds no frame.")
    matroska = make("Matroska")
    with pytest.raises(ImageError, match=r"not a video that FFmpeg reads: end of file\.$"):
        sampled(matroska[: matroska.index(b"\x1f\x43\xb6\x75")], Sampling())


def test_frames_that_are_damaged_are_told_and_the_others_used(make):
    damaged = bytearray(make("MP4"))
    start = damaged.index(b"mdat")
    middle = start + int.from_bytes(damaged[start - 4 : start]) // 2
    damaged[middle : middle + 300] = b"\xff" * 300
    frames, _ = sampled(bytes(damaged), Sampling(None))
    kinds = [type(photo).__name__ for _, _, photo in frames]
    # At most the group of frames that depend on each other is lost.
    assert 70 < kinds.count("Photo") <= 100
    for _, _, photo in frames:
        if isinstance(photo, ImageError):
            assert str(photo).startswith("The frame can't be decoded")


PLAYLIST = b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("content", [b"", b"junk" * 1000, PLAYLIST, draw_frame(0).tobytes()])
def test_a_file_that_is_no_video_is_unreadable(content):
    with pytest.raises(ImageError, match=r"^The file is not a video that FFmpeg reads: ") as raised:
        list(plan(io.BytesIO(content), Sampling()))
    assert raised.value.status == "unreadable"


def test_sound_alone_is_unreadable():
    with pytest.raises(ImageError, match="The file holds sound or text, but no pictures"):
        list(plan(io.BytesIO(make_sound()), Sampling()))


def test_frames_of_absurd_size_are_refused_before_they_are_decoded(make, monkeypatch):
    monkeypatch.setattr(containers, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ImageError, match="A frame has 18,432 pixels; at most 10,000 are") as raised:
        list(plan(io.BytesIO(make("MP4")), Sampling()))
    assert raised.value.status == "too_large"


def test_frames_that_grow_to_absurd_size_are_refused_before_they_are_decoded():
    """A VP8 file whose first keyframe says that it is larger than the header."""
    content = bytearray(make_video("webm", "libvpx", num_frames=20, g=10))
    size = content.index(b"\x9d\x01\x2a") + 3
    content[size : size + 4] = (16_383).to_bytes(2, "little") * 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames, _ = sampled(bytes(content), Sampling(None))
    assert {type(photo) for _, _, photo in frames[:10]} == {ImageError}
    assert str(frames[0][2]).startswith("The frame can't be decoded")
    # In KiB, as Linux counts; the frame would be 400 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


LONG = """
import io, resource, sys
from fractions import Fraction
import numpy as np
from fer.vision.sampling import Sampling, plan
from fer.vision.video import decode_frames
from videos import make_video

def draw(number):
    return np.full((16, 16, 3), number % 256, np.uint8)

hours = int(sys.argv[1])
options = {"g": 10**6, "sc_threshold": 0, "preset": "ultrafast"}
file = io.BytesIO(make_video(num_frames=720 * hours, rate=Fraction(1, 5), draw=draw, **options))
frames = (frame for chunk in plan(file, Sampling()) for frame, _ in decode_frames(file, chunk))
times = [frame.time_seconds for frame in frames]
print(len(times), times[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_hours_with_a_single_keyframe_take_the_memory_of_one():
    peaks = []
    for hours in (1, 10):
        done = subprocess.run(
            [sys.executable, "-c", LONG, str(hours)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        num_frames, last, peak = map(float, done.stdout.split())
        assert (num_frames, last) == (720 * hours, 3600 * hours - 5)
        peaks.append(peak)
    # In KiB, as Linux counts.
    assert peaks[1] - peaks[0] < 20 * 1024


def test_a_damaged_frame_of_an_avi_file_is_left_out():
    content = bytearray(make_video("avi", "mjpeg", num_frames=60, pixels="yuvj420p"))
    place = content.index(b"movi")
    for _ in range(8):
        place = content.index(b"00dc", place + 1)
    size = int.from_bytes(content[place + 4 : place + 8], "little")
    content[place + 8 : place + 8 + size] = bytes(size)
    frames, _ = sampled(bytes(content), Sampling(None))
    pictures = [read_number(photo.pixels) for _, _, photo in frames]
    assert pictures == [number for number in range(60) if number != 7]
    times = [seconds for _, seconds, _ in frames]
    assert times == pytest.approx([number / 25 for number in pictures], abs=0.001)


def test_a_jpeg_of_very_many_scans_is_not_decoded():
    """Each scan passes over all pixels, so that a small file could take hours."""
    jpeg = io.BytesIO()
    Image.fromarray(draw_frame(0)).save(jpeg, "JPEG", progressive=True)
    plain = jpeg.getvalue()
    scan = plain[plain.rindex(b"\xff\xda") : -2]
    packets = [plain, plain[:-2] + 50 * scan + b"\xff\xd9", plain]
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuvj420p"
        for number, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1), True
            output.mux(packet)
    frames, _ = sampled(file.getvalue(), Sampling(None))
    assert [type(photo).__name__ for _, _, photo in frames] == ["Photo", "ImageError", "Photo"]
    assert str(frames[1][2]) == "The frame can't be decoded."


@pytest.mark.parametrize(
    ("kind", "known", "unknown"),
    [("MP4", b"avc1", b"encv"), ("Matroska", b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/CODEC")],
)
def test_pictures_that_nothing_decodes_are_unreadable(make, kind, known, unknown):
    content = make(kind).replace(known, unknown)
    with pytest.raises(ImageError, match="The pictures are encrypted, or of an unknown format"):
        list(plan(io.BytesIO(content), Sampling()))


def test_an_error_of_the_store_is_passed_on(make):
    class Refusing(io.BytesIO):
        def readinto(self, buffer):
            if self.tell() > 2000:
                raise OSError("the store refused the range")
            return super().readinto(buffer)

        def read(self, size=-1):
            if self.tell() > 2000:
                raise OSError("the store refused the range")
            return super().read(size)

    with pytest.raises(OSError, match="the store refused the range"):
        list(plan(Refusing(make("Matroska")), Sampling()))
