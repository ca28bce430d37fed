"""The time of each frame, in videos whose clocks are odd."""

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from sampled_videos import numbers, sampled
from videos import draw_frame, make_video, read_number, remux

from fer.vision import sampling
from fer.vision.sampling import Sampling


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


def with_clusters(content, move):
    """Return a Matroska file whose clusters of a second are moved in time.

    Args:
        content: The video.
        move: Returns the new time of cluster N from its own, in milliseconds.
    """
    moved = bytearray(remux(content, "matroska", cluster_time_limit="900"))
    clusters = [match.start() for match in re.finditer(b"\x1f\x43\xb6\x75", moved)]
    for number, place in enumerate(clusters):
        time = moved.index(b"\xe7", place)
        content = slice(time + 2, time + 2 + (moved[time + 1] & 0x7F))
        then = move(number, int.from_bytes(moved[content]))
        moved[content] = then.to_bytes(content.stop - content.start)
    return bytes(moved)


def test_a_clock_that_jumps_in_matroska_is_what_the_video_says():
    content = make_video("matroska", num_frames=100, g=25, sc_threshold=0, bf=0)
    later = with_clusters(content, lambda number, time: time + 20_000 * (number >= 2))
    frames, problem = sampled(later, Sampling(None))
    assert numbers(frames) == list(range(100))
    assert problem is None
    seconds = [seconds for _, seconds, _ in frames]
    assert seconds[:46] == pytest.approx([n / 25 for n in range(46)], abs=0.001)
    assert seconds[46:] == pytest.approx([n / 25 + 20 for n in range(46, 100)], abs=0.001)


@pytest.mark.parametrize("samples_per_chunk", [256, 10])
def test_a_clock_that_goes_back_in_matroska_moves_time_on(samples_per_chunk, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_SAMPLES", samples_per_chunk)
    content = make_video("matroska", num_frames=100, g=25, sc_threshold=0, bf=0)
    back = with_clusters(content, lambda number, time: max(0, time - 2000 * (number >= 2)))
    frames, problem = sampled(back, Sampling(None))
    # Each frame is the one that its number says, although two are shown at each time.
    assert numbers(frames) == list(range(100))
    assert problem is None
    seconds = [seconds for _, seconds, _ in frames]
    assert seconds == pytest.approx([n / 25 for n in range(100)], abs=0.2)
    assert seconds == sorted(seconds)
    assert numbers(sampled(back, Sampling(1.0))[0])[0] == 0


@pytest.mark.parametrize("rate", [1, 1000])
def test_a_frame_rate_that_lies_changes_no_time(rate):
    content = make_video("mp4", rate=rate, times=lambda number: 40 * number)
    frames, problem = sampled(content, Sampling(1.0))
    assert (numbers(frames), problem) == ([0, 25, 50, 75], None)
    assert [seconds for _, seconds, _ in frames] == pytest.approx(np.arange(4), abs=0.001)


@pytest.mark.parametrize("factor", [0, 0.1, 100])
def test_a_length_that_lies_changes_no_time(factor):
    content = bytearray(make_video(g=25, sc_threshold=0))
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        place = content.index(box) + offset
        field = slice(place, place + 4)
        content[field] = round(int.from_bytes(content[field]) * factor).to_bytes(4)
    frames, problem = sampled(bytes(content), Sampling(1.0))
    assert (numbers(frames), problem) == ([0, 25, 50, 75], None)
    assert [seconds for _, seconds, _ in frames] == pytest.approx(np.arange(4), abs=0.001)


@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg1video"])
def test_packets_without_times_are_no_riddle(codec):
    content = make_video("mpeg", codec, num_frames=100, g=12, bf=2)
    frames, _ = sampled(content, Sampling(None))
    assert numbers(frames) == list(range(100))


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
