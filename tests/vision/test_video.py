"""Which frames of a video are sampled, and that each is the one that its time says."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampled_videos import KINDS, numbers, sampled
from videos import make_video, read_number, turn

from fer.vision import sampling, video
from fer.vision.containers import OpenVideo
from fer.vision.decode import ImageError
from fer.vision.sampling import Sampling, plan


@pytest.mark.parametrize("samples_per_chunk", [256, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_frames_are_those_of_their_times(make, kind, samples_per_chunk, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", samples_per_chunk)
    frames, problem = sampled(make(kind), Sampling(None))
    assert numbers(frames) == list(range(100))
    assert [seconds for _, seconds, _ in frames] == pytest.approx(np.arange(100) / 25, abs=0.011)
    assert problem is None
    frames, _ = sampled(make(kind), Sampling(1.0))
    assert numbers(frames) == [0, 25, 50, 75]
    frames, _ = sampled(make(kind), Sampling(5.0, start=1.0, end=2.0))
    assert numbers(frames) == [25, 30, 35, 40, 45]


def test_chunks_of_a_video_start_at_keyframes(make, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", 10)
    chunks = list(plan(io.BytesIO(make("MP4")), Sampling(None)))
    assert [chunk.frames[0].number for chunk in chunks] == [0, 25, 50, 75]
    assert [chunk.first for chunk in chunks] == [0, 25, 50, 75]
    assert [chunk.is_only for chunk in chunks] == [False] * 4


def test_frames_without_a_keyframe_are_decoded_from_the_one_before(monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", 5)
    monkeypatch.setattr(sampling, "MAX_CHUNK_SAMPLES", 20)
    content = make_video(num_frames=90, g=1000, sc_threshold=0)
    chunks = list(plan(io.BytesIO(content), Sampling(None)))
    assert [len(chunk.frames) for chunk in chunks] == [20, 20, 20, 20, 10]
    assert {chunk.seek for chunk in chunks} == {0}
    assert numbers(sampled(content, Sampling(None))[0]) == list(range(90))


def with_sparse_cues(matroska, step):
    """Return a Matroska file whose index lists only every ``step``-th of its keyframes."""
    sparse = bytearray(matroska)
    place = matroska.rindex(b"\x1c\x53\xbb\x6b") + 4
    size_of_size = 9 - matroska[place].bit_length()
    size = int.from_bytes(matroska[place : place + size_of_size]) & (1 << 7 * size_of_size) - 1
    place += size_of_size
    end, number = place + size, 0
    while place < end:
        # Each point is small enough for a size of one byte.
        if matroska[place] == 0xBB and number % step:
            sparse[place] = 0xEC  # an element that readers skip
        number += matroska[place] == 0xBB
        place += 2 + (matroska[place + 1] & 0x7F)
    assert number > step
    return bytes(sparse)


def test_an_index_that_lacks_keyframes_loses_no_frame(monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", 20)
    # Frames of groups that lie between are decoded, too, and are more than may be late.
    content = make_video("matroska", num_frames=400, g=10, sc_threshold=0)
    frames, problem = sampled(with_sparse_cues(content, 15), Sampling(None))
    assert (numbers(frames), problem) == (list(range(400)), None)


def test_a_missing_frame_is_given_up_soon_after_its_time(make, monkeypatch):
    """A frame that never comes must not cost the decoding of all that follows."""
    monkeypatch.setattr(video, "LATE_FRAMES", 5)
    content, decoded = make("MP4"), []
    decode = OpenVideo.decode

    def decode_and_count(opened):
        for frame in decode(opened):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(OpenVideo, "decode", decode_and_count)
    (chunk,) = plan(io.BytesIO(content), Sampling(5.0, end=1.0))
    wanted = chunk.frames
    missing = replace(wanted[-1], time=wanted[-1].time + 1)
    chunk = replace(chunk, frames=(*wanted[:-1], missing))
    found = list(video.decode_frames(io.BytesIO(content), chunk))
    assert [isinstance(photo, ImageError) for _, photo in found] == [False] * 4 + [True]
    assert str(found[-1][1]) == "The frame can't be decoded."
    assert len(decoded) == wanted[-1].number + 1 + 5


def test_decoding_starts_at_the_last_keyframe_before_the_first_sample(make):
    (chunk,) = plan(io.BytesIO(make("MP4")), Sampling(1.0, start=3.1))
    assert chunk.first == 75
    assert [frame.number for frame in chunk.frames] == [78]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["MP4", "Matroska", "MPEG-TS", "HEVC whose groups are open"]),
    st.floats(0.3, 60),
    st.floats(0, 5),
    st.integers(1, 40),
)
def test_chunks_do_not_change_what_is_sampled(make, monkeypatch, kind, fps, start, per_chunk):
    wanted = Sampling(fps, start)
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", 1000)
    (whole,) = plan(io.BytesIO(make(kind)), wanted)
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", per_chunk)
    frames, _ = sampled(make(kind), wanted)
    assert numbers(frames) == [frame.number for frame in whole.frames]
    assert all(seconds >= start - 0.001 / fps for _, seconds, _ in frames)


@pytest.mark.parametrize("clockwise", [True, False])
def test_frames_of_phones_are_turned_upright(clockwise):
    wide = turn(make_video(num_frames=3), clockwise=clockwise)
    frames, _ = sampled(wide, Sampling(None))
    for number, _, photo in frames:
        assert (photo.width, photo.height) == (96, 192)
        assert photo.pixels.shape == (192, 96, 3)
        upright = np.rot90(photo.pixels, 1 if clockwise else -1)
        assert read_number(upright) == number


@pytest.mark.parametrize(
    ("codec", "container", "pixels"), [("png", "mov", "rgba"), ("ffv1", "matroska", "yuva420p")]
)
def test_transparent_frames_are_placed_on_white(codec, container, pixels):
    file, drawn = io.BytesIO(), np.zeros((48, 64, 4), np.uint8)
    drawn[:, :32] = (200, 30, 60, 255)
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        output.mux(stream.encode(av.VideoFrame.from_ndarray(drawn, "rgba")))
        output.mux(stream.encode())
    ((_, _, photo),), problem = sampled(file.getvalue(), Sampling())
    assert problem is None
    assert photo.pixels[20, 10].tolist() == pytest.approx([200, 30, 60], abs=8)
    assert photo.pixels[20, 50].tolist() == [255, 255, 255]


def test_a_frame_of_a_single_pixel_is_one():
    content = make_video(
        "webm", "libvpx-vp9", num_frames=2, draw=lambda _: np.full((1, 1, 3), 200, np.uint8)
    )
    frames, _ = sampled(content, Sampling(None))
    assert [photo.pixels.tolist() for _, _, photo in frames] == [[[[200, 200, 200]]]] * 2


def test_large_frames_are_shrunk_and_keep_their_size(monkeypatch):
    monkeypatch.setattr(video, "MAX_PHOTO_SIDE", 96)
    frames, _ = sampled(make_video(num_frames=3), Sampling(None))
    assert numbers(frames) == [0, 1, 2]
    photo = frames[0][2]
    assert photo.pixels.shape == (48, 96, 3)
    assert (photo.width, photo.height, photo.scale) == (192, 96, 2.0)


def test_colors_are_red_green_and_blue():
    def red(_):
        return np.full((48, 64, 3), (200, 30, 60), np.uint8)

    ((_, _, photo),), _ = sampled(make_video(num_frames=1, draw=red), Sampling())
    assert photo.pixels[20, 20].tolist() == pytest.approx([200, 30, 60], abs=8)


@pytest.mark.parametrize("kind", ["Matroska", "MP4"])
def test_what_follows_the_end_is_not_read(make, kind):
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size=-1):
            content = super().read(size)
            self.num_bytes += len(content)
            return content

    content = make(kind) + bytes(4 * 2**20)
    file = Counting(content)
    (chunk,) = plan(file, Sampling(1.0, end=2.0))
    assert [frame.number for frame in chunk.frames] == [0, 25]
    assert chunk.problem is None
    assert file.num_bytes < len(content) / 2


@pytest.mark.parametrize("samples_per_chunk", [256, 10])
@pytest.mark.parametrize("kind", ["MP4", "MPEG-TS"])
def test_no_more_frames_are_looked_for_than_the_limit(make, kind, samples_per_chunk, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", samples_per_chunk)
    frames, problem = sampled(make(kind), Sampling(None, start=0.4, limit=40))
    assert (numbers(frames), problem) == (list(range(10, 50)), None)
    assert numbers(sampled(make(kind), Sampling(1.0, limit=5))[0]) == [0, 25, 50, 75]


def test_times_before_or_after_the_video_give_no_frame(make):
    (chunk,) = plan(io.BytesIO(make("MP4")), Sampling(1.0, start=60.0))
    assert (chunk.frames, chunk.problem, chunk.is_only) == ((), None, True)
