"""Frames of animated images."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from videos import draw_frame, read_number

from fer.vision.animation import is_animation, sample_animation
from fer.vision.decode import ImageError, decode_photo
from fer.vision.loading import MAX_IMAGE_PIXELS
from fer.vision.sampling import Sampling


def animate(kind, durations, draw=draw_frame):
    frames = [Image.fromarray(draw(number)) for number in range(len(durations))]
    options = {"save_all": True, "append_images": frames[1:], "duration": durations}
    file = io.BytesIO()
    frames[0].save(file, kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_are_shown_as_long_as_each_says(kind):
    content = animate(kind, [100, 400, 1000, 200, 300])
    assert is_animation(content)
    frames = list(sample_animation(content, Sampling(None)))
    assert [chosen.number for chosen, _ in frames] == [0, 1, 2, 3, 4]
    assert [chosen.time_seconds for chosen, _ in frames] == [0, 0.1, 0.5, 1.5, 1.7]
    assert [read_number(photo.pixels) for _, photo in frames] == [0, 1, 2, 3, 4]
    frames = list(sample_animation(content, Sampling(1.0, start=0.2)))
    assert [chosen.number for chosen, _ in frames] == [2, 3]


def test_transparent_frames_are_placed_on_white():
    frames = [Image.new("RGBA", (32, 24), (255, 0, 0, 0)) for _ in range(2)]
    frames[1].paste((0, 0, 0, 255), (0, 0, 16, 24))
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=100)
    (_, first), (_, second) = sample_animation(file.getvalue(), Sampling(None))
    assert (first.pixels == 255).all()
    assert (second.pixels[:, :16] == 0).all()
    assert (second.pixels[:, 16:] == 255).all()


def test_large_frames_are_shrunk(monkeypatch):
    monkeypatch.setattr("fer.vision.animation.MAX_PHOTO_SIDE", 96)
    content = animate("GIF", [100, 100])
    (_, photo), _ = sample_animation(content, Sampling(None))
    assert (photo.pixels.shape, photo.width, photo.height) == ((48, 96, 3), 192, 96)


def test_a_damaged_animation_gives_its_frames_up_to_the_damage():
    def noise(number):
        return np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)

    content = animate("WEBP", [100] * 5, noise)
    damaged = content[: len(content) * 3 // 5]
    frames = list(sample_animation(damaged, Sampling(None)))
    assert isinstance(frames[-1][1], ImageError)
    assert str(frames[-1][1]).startswith("The frame can't be decoded: ")


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_the_frame_that_is_damaged_is_named(share):
    content = animate("GIF", [100] * 5)
    starts = [at for at in range(len(content)) if content.startswith(b"\x21\xf9\x04", at)]
    assert len(starts) == 5
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(content)], strict=True)):
        cut = content[: start + int((end - start) * share)]
        frames = list(sample_animation(cut, Sampling(None)))
        assert [chosen.number for chosen, _ in frames] == [*range(number + 1)]
        assert [chosen.time for chosen, _ in frames] == [
            100 * number for number in range(number + 1)
        ]
        assert isinstance(frames[-1][1], ImageError)


@pytest.mark.parametrize("kind", ["TIFF", "MPO"])
def test_pages_are_no_frames(kind):
    pages = [Image.fromarray(draw_frame(number)) for number in range(2)]
    file = io.BytesIO()
    pages[0].save(file, kind, save_all=True, append_images=pages[1:])
    assert not is_animation(file.getvalue())


def header_of_png(width, height):
    content = animate("PNG", [100, 100])
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def test_large_animations_are_no_animations_and_too_large():
    width = 8192
    assert is_animation(header_of_png(width, MAX_IMAGE_PIXELS // width))
    for height in (MAX_IMAGE_PIXELS // width + 1, 3 * MAX_IMAGE_PIXELS // width):
        content = header_of_png(width, height)
        assert not is_animation(content)
        ((chosen, problem),) = sample_animation(content, Sampling(None))
        assert (chosen.number, problem.status) == (0, "too_large")
        with pytest.raises(ImageError) as caught:
            decode_photo(content)
        assert caught.value.status == "too_large"


@pytest.mark.parametrize("content", [b"", b"junk", b"GIF89a"])
def test_other_files_are_no_animations(content, png, faces):
    assert not is_animation(content)
    assert not is_animation(png(faces[0][0]))
