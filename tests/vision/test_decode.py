import io
import struct

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from fer.vision.decode import ImageError, decode_image, decode_photo
from fer.vision.shape import ImageShape


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_image_of_48x48_keeps_its_pixels(faces):
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_ignored(kind):
    image = Image.new("RGB", (90, 60), (200, 200, 200))
    decoded = decode_image(encode(image, kind, exif=b"Exif\0\0" + bytes(20), dpi=(72, 72)))
    assert (decoded.width, decoded.height) == (90, 60)
    assert abs(float(decoded.pixels.mean()) - 200) < 4


def test_fractions_from_0_to_1():
    values = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(48, 48)
    pixels = decode_image(encode(Image.fromarray(values), "TIFF")).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert abs(float(pixels.mean()) - 127.5) < 1


GRADIENT = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(48, 48)


def patched(tiff, tag, old, new):
    """Return a TIFF file with another value of a tag of one short number."""
    old, new = (struct.pack("<HHII", tag, 3, 1, value) for value in (old, new))
    assert tiff.count(old) == 1
    return tiff.replace(old, new)


@pytest.mark.parametrize(
    "values", [(65535 * GRADIENT).astype(np.uint16), GRADIENT], ids=["16 bits", "fractions"]
)
def test_a_tiff_image_of_which_zero_is_white(values):
    white = values.max()
    data = patched(encode(Image.fromarray(white - values), "TIFF"), 262, 1, 0)
    for pixels in (decode_image(data).pixels, decode_photo(data).pixels[..., 0]):
        np.testing.assert_allclose(pixels, 255 * GRADIENT, atol=1)


def test_unsigned_numbers_of_32_bits():
    values = (GRADIENT.astype(np.float64) * (2**32 - 1)).astype(np.uint32)
    data = patched(encode(Image.fromarray(values.view(np.int32)), "TIFF"), 339, 2, 1)
    for pixels in (decode_image(data).pixels, decode_photo(data).pixels[..., 0]):
        np.testing.assert_allclose(pixels, 255 * GRADIENT, atol=1)


@pytest.mark.parametrize("odd", [1.02, -0.02, np.nan, np.inf, -np.inf])
def test_fractions_beyond_white_and_black_are_clipped(odd):
    values = GRADIENT.copy()
    values[20, 20] = odd
    pixels = decode_image(encode(Image.fromarray(values), "TIFF")).pixels
    assert pixels[20, 20] == (255 if odd > 1 else 0)
    np.testing.assert_allclose(np.delete(pixels, 20, 0), np.delete(255 * GRADIENT, 20, 0), atol=1)


@pytest.mark.parametrize("scale", [1, 257], ids=["L", "I;16"])
@pytest.mark.parametrize("shape", [ImageShape(), ImageShape(48, 3)], ids=str)
def test_a_transparent_gray_level_becomes_white(scale, shape):
    gray = np.full((48, 48), 100, np.uint16) * scale
    gray[:24] = 0
    image = Image.fromarray(gray.astype(np.uint8) if scale == 1 else gray)
    pixels = decode_image(encode(image, "PNG", transparency=0), shape).pixels
    assert ((pixels[:24] == 255).all(), (pixels[24:] == 100).all()) == (True, True)


def test_transparent_pixels_become_white():
    assert decode_image(encode(Image.new("RGBA", (60, 60)), "PNG")).pixels.min() == 255


@pytest.mark.parametrize("data", [b"", b"abc", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_rejects_bad_bytes(data):
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.status == "unreadable"


def test_rejects_a_decompression_bomb():
    with pytest.raises(ImageError) as caught:
        decode_image(encode(Image.new("1", (20_000, 10_000)), "PNG"))
    assert caught.value.status == "too_large"


def test_sixteen_bits():
    values = np.full((48, 48), 65535 // 2, np.uint16)
    assert decode_image(encode(Image.fromarray(values), "PNG")).pixels.max() == 127


RED, GREEN, BLUE, WHITE = (250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 240)


@pytest.fixture(scope="module")
def phone_photo():
    """An upright photograph, 180x120, whose quarters differ: red and green above blue and white."""
    pixels = np.empty((120, 180, 3), np.uint8)
    pixels[:60, :90], pixels[:60, 90:], pixels[60:, :90], pixels[60:, 90:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def check_upright(data):
    photo = decode_photo(data)
    assert (photo.width, photo.height, photo.pixels.shape) == (180, 120, (120, 180, 3))
    quarters = photo.pixels[[20, 20, -20, -20], [20, -20, 20, -20]]
    assert np.abs(quarters.astype(int) - [RED, GREEN, BLUE, WHITE]).max() <= 4
    face = decode_image(data)
    assert (face.width, face.height) == (180, 120)
    grays = face.pixels[[5, 5, -5, -5], [5, -5, 5, -5]].astype(int)
    assert np.abs(grays - [89, 155, 46, 240]).max() <= 6


def encode_sideways(image, **options):
    """Encode an image with its pixels rotated by 90 degrees and the EXIF orientation to match."""
    exif = Image.Exif()
    exif[0x112] = 6
    return encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif, **options)


def with_irot(heic, quarters):
    """Add HEIF's own rotation of the pixels, in quarter turns counterclockwise.

    It replaces the property ``pixi`` (three channels of 8 bits), which has the same size.
    """
    pixi = struct.pack(">I4sI4B", 16, b"pixi", 0, 3, 8, 8, 8)
    assert heic.count(pixi) == 1
    return heic.replace(pixi, struct.pack(">I4sB7x", 16, b"irot", quarters))


def test_heic_of_a_phone_is_turned_once(phone_photo):
    check_upright(with_irot(encode_sideways(phone_photo, kind="HEIF", quality=95), 3))


def test_heic_without_exif_is_turned(phone_photo):
    upside_down = phone_photo.transpose(Image.Transpose.ROTATE_180)
    check_upright(with_irot(encode(upside_down, "HEIF", quality=95), 2))


def test_exif_alone_does_not_turn_heic(phone_photo):
    exif = Image.Exif()
    exif[0x112] = 6  # HEIF ignores EXIF and uses irot, and so do phones
    check_upright(encode(phone_photo, "HEIF", quality=95, exif=exif))


def test_avif_is_turned(phone_photo):
    data = encode_sideways(phone_photo, kind="AVIF", quality=95)
    assert b"irot" in data
    check_upright(data)


def test_heic_of_tiles(phone_photo):
    data = encode(phone_photo, "HEIF", quality=95, tile_size=64)
    assert b"grid" in data
    check_upright(data)


def test_heic_of_ten_bits(phone_photo):
    sixteen = np.asarray(phone_photo).astype(np.uint16) * 257
    heic = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (180, 120), sixteen.tobytes()).save(heic, quality=95)
    assert pillow_heif.open_heif(heic, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    check_upright(heic.getvalue())


def test_avif_of_ten_bits(phone_photo):
    blue_first = (np.asarray(phone_photo)[..., ::-1].astype(np.uint16) * 257) >> 6
    done, avif = cv2.imencode(".avif", blue_first, [cv2.IMWRITE_AVIF_DEPTH, 10])
    assert done
    check_upright(avif.tobytes())


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_rejects_a_truncated_phone_photo(kind):
    noise = np.random.default_rng(0).integers(0, 256, (120, 180, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    for length in (20, 300, len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError) as caught:
            decode_photo(data[:length])
        assert caught.value.status == "unreadable"


def pgm(header, pixels):
    return b"P5\n" + header.encode() + b"\n" + pixels


def test_sixteen_bits_are_scaled_by_their_full_range():
    half = np.full((48, 48), 32767, np.uint16)
    assert decode_image(pgm("48 48 65535", half.astype(">u2").tobytes())).pixels.max() == 127
    buffer = io.BytesIO()
    Image.fromarray(half).save(buffer, "PNG")
    assert decode_image(buffer.getvalue()).pixels.max() == 127


@pytest.mark.parametrize(
    "data",
    [
        b"P2 1000 1000 255\n" + b"#\n" * 1000,
        pgm("48 48 254", bytes(2304)),
    ],
    ids=["plain", "another range"],
)
def test_rejects_ppm_that_is_decoded_number_by_number(data):
    with pytest.raises(ImageError, match="this kind of PPM is not supported"):
        decode_image(data)


def test_rejects_a_progressive_jpeg_with_too_many_scans(monkeypatch):
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "JPEG", progressive=True)
    assert decode_image(buffer.getvalue()).width == 64
    monkeypatch.setattr("fer.vision.loading.MAX_SCANNED_PIXELS", 64 * 64)
    with pytest.raises(ImageError, match=r"progressive JPEG has \d+ scans") as refused:
        decode_image(buffer.getvalue())
    assert refused.value.status == "too_large"


def test_odd_exif_does_not_prevent_turning_upright():
    """An altitude below sea level as a signed fraction, which Pillow reads but cannot write."""
    exif = Image.Exif()
    exif[0x112], exif.get_ifd(0x8825)[6] = 6, 12.0
    rational, signed_rational = struct.pack(">HH", 6, 5), struct.pack(">HH", 6, 10)
    signed = exif.tobytes().replace(rational, signed_rational)
    below = signed.replace(struct.pack(">ii", 12, 1), struct.pack(">ii", -12, 1))
    assert signed != exif.tobytes()
    assert below != signed
    upright = np.zeros((60, 40), np.uint8)
    upright[:30] = 255
    sideways = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    photo = decode_photo(encode(sideways, "PNG", exif=below))
    assert (photo.width, photo.height) == (40, 60)
    assert photo.pixels[:30].min() == 255


@pytest.mark.parametrize(("kind", "orientation"), [("PNG", 1), ("PNG", 6), ("TIFF", 6)])
def test_a_large_photograph_is_scaled_in_tiles_as_in_one_step(kind, orientation):
    rng = np.random.default_rng(4)
    noise = Image.fromarray(rng.integers(0, 256, (37, 53, 3), np.uint8)).resize((3303, 2001))
    exif = Image.Exif()
    exif[0x112] = orientation
    fast = {"compress_level": 1} if kind == "PNG" else {}
    photo = decode_photo(encode(noise, kind, exif=exif, **fast))
    in_one_step = np.asarray(noise.resize((2048, 1241), Image.Resampling.BOX))
    if orientation == 6:
        in_one_step = np.rot90(in_one_step, -1)
        assert (photo.width, photo.height) == (2001, 3303)
    np.testing.assert_allclose(photo.pixels, in_one_step, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK", "1"])
def test_a_large_image_decodes_like_a_small_one(mode):
    gray = Image.linear_gradient("L")
    if mode == "I;16":
        face = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    else:
        face = gray.convert("RGB").convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    small = decode_image(encode(face, kind)).pixels
    wide = face.resize((2100, 2100)).crop((-100, 0, 2200, 2100))
    large = decode_image(encode(wide, kind))
    assert (large.width, large.height) == (2300, 2100)
    np.testing.assert_allclose(large.pixels.astype(float), small, atol=8 if mode != "1" else 40)


def test_an_image_of_two_rows():
    photo = decode_photo(encode(Image.new("RGBA", (3_000_000, 2)), "PNG", compress_level=1))
    assert photo.pixels.shape == (1, 2048, 3)
    assert (photo.width, photo.height) == (3_000_000, 2)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_image_of_several_pages_says_that_the_first_is_used(big):
    pages = [Image.new("L", (60, 60), value) for value in (100, 200, 200)]
    several = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:], big_tiff=big)
    one = encode(pages[0], "TIFF", big_tiff=big)
    assert decode_image(several).note == "The TIFF file has more than one page: the first is used."
    assert decode_photo(several).note == decode_image(several).note
    assert decode_photo(several).pixels.max() == 100
    assert decode_image(one).note is None


def test_thumbnails_in_a_tiff_image_are_no_pages():
    pages = [Image.new("L", (60, 60), 100), Image.new("L", (6, 6))]
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode_image(data).note is None


def test_pages_of_a_tiff_image_that_follow_each_other_in_a_circle():
    data = bytearray(encode(Image.new("L", (60, 60), 100), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, start + 2 + 12 * data[start], start)
    image = decode_image(bytes(data))
    assert (image.pixels.max(), image.note) == (100, None)
