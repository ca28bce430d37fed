"""What a file is whose bytes are no image, or an image of a kind that is not decoded."""

import gzip
import io
import re
import zipfile

import pytest
from PIL import Image

from fer.vision.decode import ImageError, decode_image, decode_photo


def packed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"here")
    return buffer.getvalue()


def jpeg_2000():
    return b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 " + bytes(9)


OTHERS = {
    "a JPEG XL image": [b"\xff\x0a\xfa\x1f\x01\x91\x08", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftyp"],
    "a JPEG 2000 image": [jpeg_2000(), b"\xff\x4f\xff\x51\0\x2f"],
    "a camera's RAW image": [b"\0\0\0\x18ftypcrx \0\0\0\1", b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0"],
    "a Photoshop document": [b"8BPS\0\1" + bytes(20)],
    "a video": [b"\0\0\0\x20ftypisom\0\0\2\0", b"\0\0\0\x14ftypqt  ", b"\x1a\x45\xdf\xa3\x01"],
    "a PDF document": [b"%PDF-1.7\n"],
    "a ZIP archive": [packed()],
    "a gzip file": [gzip.compress(b"here")],
    "an SVG image": [b'<svg xmlns="http://www.w3.org/2000/svg">', b'<?xml version="1.0"?>\n<svg>'],
    "a web page": [b"<!doctype html><title>Not found</title>", b"\n<HTML><body>"],
    "a pointer of Git LFS": [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"],
}


def reason(data):
    with pytest.raises(ImageError) as caught:
        decode_photo(data)
    with pytest.raises(ImageError) as caught_of_face:
        decode_image(data)
    assert caught.value.status == "unreadable"
    assert str(caught.value) == str(caught_of_face.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "files"), OTHERS.items())
def test_a_file_of_another_kind_is_named(name, files):
    for data in files:
        assert reason(data) == (
            f"The image can't be decoded: the file is {name}: expected JPEG, PNG, WebP, TIFF, BMP, "
            "GIF, HEIC, AVIF, PGM or PPM."
        )


def test_an_empty_file_and_one_of_zeros_are_named():
    assert reason(b"") == "The image can't be decoded: the file is empty."
    assert reason(bytes(5000)) == "The image can't be decoded: the file starts with zeros."


@pytest.mark.parametrize("data", [b"junk", b"Python is a language", b"Bitmaps", bytes(9) + b"x"])
def test_unknown_bytes_are_of_no_supported_format(data):
    assert re.search(r"its format is not supported|the \w+ file is damaged", reason(data))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("PNG", b"\x89PNG\r\n\x1a\n" + bytes(40)),
        ("TIFF", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
        ("HEIF", b"\0\0\0\x20ftypheic" + bytes(40)),
        ("GIF", b"GIF89a\1"),
    ],
)
def test_a_damaged_file_is_not_called_unsupported(kind, data):
    assert reason(data).startswith(f"The image can't be decoded: the {kind} file is damaged (")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF"])
def test_a_files_name_does_not_matter(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (60, 60)).save(buffer, kind)
    assert decode_photo(buffer.getvalue()).width == 60
