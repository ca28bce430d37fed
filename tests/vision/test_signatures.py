"""Which files begin like images, and which like videos."""

import io

import pytest
from PIL import Image
from videos import make_video

from fer.vision.decode import decode_image
from fer.vision.signatures import (
    SIGNATURE_BYTES,
    VIDEO_SIGNATURE_BYTES,
    is_image,
    is_video,
)

KINDS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "HEIF", "AVIF", "PPM")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_are_told_by_their_first_bytes(kind, mode):
    buffer = io.BytesIO()
    Image.new(mode, (50, 60)).save(buffer, kind)
    decode_image(buffer.getvalue())
    assert is_image(buffer.getvalue()[:SIGNATURE_BYTES])


@pytest.mark.parametrize(
    "start",
    [
        *(
            b"",
            b"\0" * 32,
            b"BMW is a brand of cars, and no image",
            b"PK\x03\x04",
            b"P6",
            b"%PDF-1",
        ),
        *(b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypcrx \0\0", b"\0\0\0\x20ftypisom", b"Rar!\x1a\7"),
        *(b"\xff\x0a", b"GIF", b"\xef\xbb\xbfimage\n", b"emotion,pixels,Usage\n", b"P5.js"),
    ],
)
def test_other_files_are_no_images(start):
    assert not is_image(start)


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mov", "libx264", "yuv420p"),
        ("matroska", "libx264", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("mpegts", "libx264", "yuv420p"),
        ("mpeg", "mpeg2video", "yuv420p"),
    ],
)
def test_videos_are_told_by_their_first_bytes(container, codec, pixels):
    content = make_video(container, codec, num_frames=25, pixels=pixels)
    assert is_video(content[:VIDEO_SIGNATURE_BYTES])
    assert not is_image(content[:SIGNATURE_BYTES])


def test_sound_is_no_video():
    assert not is_video(b"\0\0\0\x1cftypM4A \0\0\0\0" + bytes(360))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "HEIF", "AVIF", "TIFF", "BMP"])
def test_images_are_no_videos(kind):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    assert not is_video(file.getvalue()[:VIDEO_SIGNATURE_BYTES])
