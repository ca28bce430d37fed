"""Which frames of a video are sampled, and that each is the one that its time says."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from videos import draw_frame, make_sound, make_video, read_number, turn

from fer.vision import containers, sampling, video
from fer.vision.decode import ImageError
from fer.vision.sampling import FrameChunk, Sampling, plan
from fer.vision.video import decode_frames

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
    "GIF": {"container": "gif", "codec": "gif", "pixels": "gray"},
}


@pytest.fixture(scope="module")
def make():
    """Return a function that makes a video of a kind, or returns the one that it has made."""
    made = {}

    def make_once(kind):
        if kind not in made:
            made[kind] = make_video(**{"num_frames": 100, **KINDS[kind]})
        return made[kind]

    return make_once


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


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_times_are_right_where_the_rate_varies(container):
    def time(number):
        return number * 40 if number < 50 else 2000 + (number - 50) * 133

    content = make_video(container, times=time, num_frames=80)
    frames, _ = sampled(content, Sampling(None))
    assert numbers(frames) == list(range(80))
    expected = [time(number) / 1000 for number in range(80)]
    assert [seconds for _, seconds, _ in frames] == pytest.approx(expected, abs=0.001)
    frames, _ = sampled(content, Sampling(1.0))
    assert [seconds for _, seconds, _ in frames] == [0, 1, 2, 3.064, 4.128, 5.059]


@pytest.mark.parametrize("clockwise", [True, False])
def test_frames_of_phones_are_turned_upright(clockwise):
    wide = turn(make_video(num_frames=3), clockwise=clockwise)
    frames, _ = sampled(wide, Sampling(None))
    for number, _, photo in frames:
        assert (photo.width, photo.height) == (96, 192)
        assert photo.pixels.shape == (192, 96, 3)
        upright = np.rot90(photo.pixels, 1 if clockwise else -1)
        assert read_number(upright) == number


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


# What is wrong with a video.


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


def test_times_before_or_after_the_video_give_no_frame(make):
    (chunk,) = plan(io.BytesIO(make("MP4")), Sampling(1.0, start=60.0))
    assert (chunk.frames, chunk.problem, chunk.is_only) == ((), None, True)


def shifted(content, seconds):
    """Return an MPEG-TS file with the frames of another, shown later."""
    file = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(file, "w", format="mpegts") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is None:
                continue
            packet.pts += round(seconds / packet.time_base)
            packet.dts += round(seconds / packet.time_base)
            packet.stream = stream
            output.mux(packet)
    return file.getvalue()


def draw_later(number):
    return draw_frame(number + 1000)


@pytest.mark.parametrize("offsets", [(0, 0), (20, 0), (100, 0), (0, 1000)])
def test_a_clock_that_jumps_moves_time_on_by_a_frame(offsets):
    # 90 frames are no whole number of samples, and the later ones look like none of the first.
    first = make_video("mpegts", num_frames=90, g=25, sc_threshold=0)
    second = make_video("mpegts", num_frames=100, draw=draw_later, g=25, sc_threshold=0)
    parts = zip((first, second), offsets, strict=True)
    content = b"".join(shifted(part, offset) for part, offset in parts)
    frames, _ = sampled(content, Sampling(1.0))
    assert [number for number, _, _ in frames] == list(range(0, 190, 25))
    assert [read_number(photo.pixels) for _, _, photo in frames] == [
        *(0, 25, 50, 75),
        *(1010, 1035, 1060, 1085),
    ]
    assert [seconds for _, seconds, _ in frames] == pytest.approx(np.arange(8), abs=0.001)


@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg1video"])
def test_packets_without_times_are_no_riddle(codec):
    content = make_video("mpeg", codec, num_frames=100, g=12, bf=2)
    frames, _ = sampled(content, Sampling(None))
    assert numbers(frames) == list(range(100))


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


@pytest.mark.parametrize("rate", [24, 30, 60])
def test_times_in_milliseconds_are_sampled_as_exact_ones(rate):
    content = make_video("matroska", num_frames=120, rate=rate, g=10)
    assert numbers(sampled(content, Sampling(rate))[0]) == list(range(120))
    assert numbers(sampled(content, Sampling(rate / 2))[0]) == list(range(0, 120, 2))


def test_what_an_edit_list_cuts_off_is_not_shown():
    source, file = make_video(num_frames=100, g=25, sc_threshold=0), io.BytesIO()
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with (
        av.open(io.BytesIO(source)) as original,
        av.open(file, "w", format="mp4", options=options) as output,
    ):
        stream = output.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(video=0):
            if packet.dts is not None:
                packet.pts -= round(1.2 / packet.time_base)
                packet.dts -= round(1.2 / packet.time_base)
                packet.stream = stream
                output.mux(packet)
    frames, _ = sampled(file.getvalue(), Sampling(1.0))
    assert [read_number(photo.pixels) for _, _, photo in frames] == [30, 55, 80]
    assert [seconds for _, seconds, _ in frames] == pytest.approx([0, 1, 2], abs=0.001)


@pytest.mark.parametrize(
    ("kind", "known", "unknown"),
    [("MP4", b"avc1", b"encv"), ("Matroska", b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/CODEC")],
)
def test_pictures_that_nothing_decodes_are_unreadable(make, kind, known, unknown):
    content = make(kind).replace(known, unknown)
    with pytest.raises(ImageError, match="The pictures are encrypted, or of an unknown format"):
        list(plan(io.BytesIO(content), Sampling()))


def test_a_header_that_counts_from_the_start_of_the_clock_is_not_taken_for_a_cut():
    content = make_video("matroska", num_frames=50, times=lambda number: 10_000 + 40 * number)
    assert sampled(content, Sampling())[1] is None
    slides = make_video("avi", "mjpeg", num_frames=10, rate=Fraction(1, 5), pixels="yuvj420p")
    assert sampled(slides, Sampling())[1] is None


def test_frames_of_the_same_time_do_not_stretch_it():
    content = make_video("matroska", times=lambda number: number // 2 * 80, bf=0)
    frames, _ = sampled(content, Sampling(None))
    times = [seconds for _, seconds, _ in frames]
    assert times == pytest.approx([number // 2 * 0.08 for number in range(100)], abs=0.001)


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
