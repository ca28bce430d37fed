import io

import numpy as np
import pytest
from PIL import Image

from fer.images import ImageError, decode_image


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_face_of_48_pixels_keeps_them(faces):
    image = faces[0][0]
    assert (decode_image(encode(Image.fromarray(image), "PNG")).pixels == image).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_formats(kind):
    decoded = decode_image(encode(Image.new("RGB", (90, 60), (200, 200, 200)), kind))
    assert (decoded.width, decoded.height, decoded.pixels.shape) == (90, 60, (48, 48))
    assert abs(float(decoded.pixels.mean()) - 200) < 4


def test_upright_by_exif():
    exif = Image.Exif()
    exif[0x112] = 6
    decoded = decode_image(encode(Image.new("L", (90, 60)), "JPEG", exif=exif))
    assert (decoded.width, decoded.height) == (60, 90)


def test_transparent_is_white():
    assert decode_image(encode(Image.new("RGBA", (60, 60)), "PNG")).pixels.min() == 255


@pytest.mark.parametrize("data", [b"", b"abc", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_bad_bytes(data):
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.status == "unreadable"


def test_bomb():
    with pytest.raises(ImageError) as caught:
        decode_image(encode(Image.new("1", (20_000, 10_000)), "PNG"))
    assert caught.value.status == "too_large"


def test_sixteen_bits():
    values = np.full((48, 48), 65535 // 2, np.uint16)
    assert decode_image(encode(Image.fromarray(values), "PNG")).pixels.max() == 127
