"""Damaged files: pixels that are whole are used, what was missing is said, nothing is made up."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fer.vision import jpeg, png
from fer.vision.damaged import MAX_MISSING_SHARE
from fer.vision.decode import ImageError, decode_image, decode_photo

MIB = 2**20
ALL_THERE = "The {} file ends early, but all its pixels are there."
FEW_MISSING = "The JPEG file ends early: less than 1 % of its pixels, the last ones, are missing."


def drawn(width=240, height=160, mode="RGB"):
    """A picture of soft colors, none of which is the gray that decoders fill in."""
    coarse = np.random.default_rng(1).integers(0, 90, (height // 16, width // 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or drawn()).save(buffer, kind, **options)
    return buffer.getvalue()


def check_whole(data, kind, image=None, tolerance=0, note=None):
    """Check that a damaged file gives the pixels of an undamaged one."""
    photo = decode_photo(data)
    whole = decode_photo(encode(kind, image)).pixels
    np.testing.assert_allclose(photo.pixels.astype(int), whole, atol=tolerance)
    assert photo.note == note
    assert decode_image(data).note == note


def reason(data):
    """Return why a file is refused, which both ways to decode agree on."""
    with pytest.raises(ImageError) as caught:
        decode_photo(data)
    with pytest.raises(ImageError) as caught_of_face:
        decode_image(data)
    assert caught.value.status == caught_of_face.value.status == "unreadable"
    return str(caught.value)


# Alpha.


def bitmap_with_alpha(pixels, alpha):
    """A BMP file of 32 bits with a header of version 4, which has a mask for alpha."""
    height, width = pixels.shape[:2]
    body = np.dstack([pixels[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    sizes = struct.pack("<iiHHIIiiII", width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    header = struct.pack("<I", 108) + sizes + masks + b"BGRs" + bytes(48)
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + body


@pytest.mark.parametrize("side", [60, 2100], ids=["small", "in tiles"])
def test_a_bitmap_whose_alpha_is_zero_everywhere_is_opaque(side):
    pixels = np.asarray(drawn(64, 64).resize((side, side)))
    opaque = decode_photo(bitmap_with_alpha(pixels, 255))
    unused = decode_photo(bitmap_with_alpha(pixels, 0))
    assert opaque.pixels.mean() < 100
    np.testing.assert_array_equal(unused.pixels, opaque.pixels)
    assert decode_image(bitmap_with_alpha(pixels, 0)).pixels.mean() < 100


def test_a_bitmap_with_one_visible_pixel_is_transparent():
    pixels = np.zeros((60, 60, 3), np.uint8)
    data = bytearray(bitmap_with_alpha(pixels, 0))
    data[-1] = 255
    assert decode_photo(bytes(data)).pixels.mean() > 250


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_without_a_visible_pixel_are_empty(kind):
    image = drawn().convert("RGBA")
    image.putalpha(0)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert decode_photo(encode(kind, image, **options)).pixels.min() == 255


# Metadata.


def chunk(kind, body, damage=0):
    checksum = zlib.crc32(kind + body) ^ damage
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


HEADER_BYTES = 8 + 25
"""A PNG file's signature and its chunk IHDR."""

HUGE = zlib.compress(bytes(3 * MIB))

ANCILLARY = {
    "checksum": chunk(b"pHYs", bytes(9), damage=1),
    "checksum of an unknown kind": chunk(b"xyZz", b"abc", damage=1),
    "too short": chunk(b"pHYs", bytes(3)) + chunk(b"gAMA", b"") + chunk(b"sRGB", b""),
    "compressed text": chunk(b"zTXt", b"key\0\0" + HUGE),
    "international text": chunk(b"iTXt", b"key\0\1\0\0\0" + HUGE),
    "color profile": chunk(b"iCCP", b"name\0\0" + HUGE),
    "compression": chunk(b"zTXt", b"key\0\7abc") + chunk(b"iCCP", b"name\0\7abc"),
    "65 texts": chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(MIB))) * 65,
    "animation": chunk(b"acTL", bytes(2)) + chunk(b"fcTL", bytes(26)),
}


@pytest.mark.parametrize("damaged", ANCILLARY.values(), ids=list(ANCILLARY))
@pytest.mark.parametrize("before_pixels", [True, False])
def test_ancillary_chunks_of_png_cost_no_pixels(damaged, before_pixels):
    data = encode("PNG")
    at = HEADER_BYTES if before_pixels else len(data) - 12
    check_whole(data[:at] + damaged + data[at:], "PNG")


def test_png_is_turned_although_another_chunk_is_damaged():
    exif = Image.Exif()
    exif[0x112] = 6
    data = encode("PNG", exif=exif)
    data = data[:HEADER_BYTES] + ANCILLARY["checksum"] + data[HEADER_BYTES:]
    assert (decode_photo(data).width, decode_photo(data).height) == (160, 240)


def test_png_stays_transparent_although_another_chunk_is_damaged():
    image = Image.new("P", (60, 60), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    data = encode("PNG", image, transparency=1)
    data = data[:HEADER_BYTES] + ANCILLARY["checksum"] + data[HEADER_BYTES:]
    assert decode_photo(data).pixels.min() == 255


def test_a_damaged_chunk_that_pixels_need_is_the_reason():
    data = bytearray(encode("PNG"))
    data[HEADER_BYTES - 1] ^= 1
    assert "the PNG file is damaged (" in reason(bytes(data))
    assert "checksum in b'IHDR'" in reason(bytes(data))


def segment(marker, body):
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


APPLICATION = {
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "short color profile": segment(0xE2, b"ICC_PROFILE\0"),
    "cut resources": segment(0xED, b"Photoshop 3.0\0008BIM\0\0"),
    "pictures in it": segment(0xE2, b"MPF\0" + bytes(9)),
    "EXIF": segment(0xE1, b"Exif\0\0MM\0*" + bytes((255,)) * 20),
    "comment": segment(0xFE, b""),
}


@pytest.mark.parametrize("damaged", APPLICATION.values(), ids=list(APPLICATION))
def test_application_segments_of_jpeg_cost_no_pixels(damaged):
    data = encode("JPEG")
    check_whole(data[:2] + damaged + data[2:], "JPEG")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_colors_are_right_without_the_metadata_of_jpeg(mode):
    image = drawn(mode=mode)
    data = encode("JPEG", image)
    check_whole(data[:2] + APPLICATION["short color profile"] + data[2:], "JPEG", image)


def test_jpeg_is_turned_although_other_metadata_is_damaged():
    exif = Image.Exif()
    exif[0x112] = 6
    data = encode("JPEG", exif=exif)
    photo = decode_photo(data[:2] + APPLICATION["short color profile"] + data[2:])
    assert (photo.width, photo.height) == (160, 240)


@pytest.mark.parametrize("kind", [b"ICCP", b"EXIF", b"XMP "])
@pytest.mark.parametrize("size", [0, 7, 2**20, 2**32 - 1])
def test_metadata_of_webp_costs_no_pixels(kind, size):
    data = encode("WEBP", icc_profile=bytes(500), exif=b"Exif\0\0" + bytes(40), xmp=b"<x>" * 20)
    at = data.index(kind) + 4
    check_whole(data[:at] + struct.pack("<I", size) + data[at + 4 :], "WEBP")


def test_webp_that_is_cut_within_its_metadata_is_used():
    data = encode("WEBP", exif=b"Exif\0\0" + bytes(40), xmp=b"<x>" * 20)
    check_whole(data[:-30], "WEBP")
    check_whole(data[: data.index(b"EXIF") + 9], "WEBP")


@pytest.mark.parametrize(("compression", "big"), [(None, False), ("tiff_lzw", False), (None, True)])
def test_tags_of_tiff_that_pixels_do_not_need_cost_none(compression, big):
    data = encode("TIFF", compression=compression, description="of a face", big_tiff=big)
    tag = struct.pack("<HH", 270, 2)
    assert data.count(tag) == 1
    # A list of lists of tags, beyond the end of the file.
    entry = (
        struct.pack("<HHQQ", 270, 18, 9, 2**40) if big else struct.pack("<HHII", 270, 13, 9, 2**31)
    )
    at = data.index(tag)
    check_whole(data[:at] + entry + data[at + len(entry) :], "TIFF")


# Files that end early.

KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 4},
    "no subsampling": {"subsampling": 0, "optimize": True},
}
each_kind = pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))


@each_kind
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("tail", [b"", b"\xff", bytes(500)], ids=["cut", "half", "zeros"])
def test_jpeg_without_its_end_marker_is_whole(options, mode, tail):
    image = drawn(mode=mode)
    data = encode("JPEG", image, **options)
    photo = decode_photo(data[:-2] + tail)
    np.testing.assert_array_equal(photo.pixels, decode_photo(data).pixels)
    assert photo.note == decode_image(data[:-2] + tail).note == ALL_THERE.format("JPEG")


def test_jpeg_that_lacks_its_last_block_is_used_with_a_note():
    image = drawn(1200, 800)
    data = encode("JPEG", image, quality=95)
    for missing in (5, 9, 20):
        photo = decode_photo(data[:-missing])
        assert photo.note == FEW_MISSING
        differs = (photo.pixels != decode_photo(data).pixels).any(axis=2)
        assert differs.mean() < MAX_MISSING_SHARE
        # Only in the last row of blocks.
        assert not differs[:-17].any()


@each_kind
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("tail", [b"", bytes(500)], ids=["cut", "zeros"])
def test_jpeg_that_is_cut_in_the_middle_is_refused(options, share, tail):
    data = encode("JPEG", **options)
    start = data.index(b"\xff\xda")
    cut = data[: start + int(share * (len(data) - start))]
    assert "the JPEG file ends early, and " in reason(cut + tail)


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_jpeg_that_is_cut_and_then_ended_is_refused(options, share):
    data = encode("JPEG", **options)
    start = data.index(b"\xff\xda")
    cut = data[: start + int(share * (len(data) - start))].rstrip(b"\xff")
    assert "% of its pixels are missing" in reason(cut + jpeg.END_OF_IMAGE)


def test_progressive_jpeg_that_lacks_scans_is_refused():
    data = encode("JPEG", progressive=True)
    last_scan = data.rindex(b"\xff\xda")
    assert "whole scans of its pixels are missing" in reason(data[:last_scan])


@each_kind
def test_a_whole_jpeg_that_ends_in_the_gray_of_decoders_has_no_note(options):
    gray = Image.new("RGB", (240, 160), (128, 128, 128))
    assert decode_photo(encode("JPEG", gray, **options)).note is None


def test_what_follows_a_whole_jpeg_is_ignored():
    assert decode_photo(encode("JPEG") + bytes(999) + b"trailer").note is None


def test_a_thumbnail_does_not_end_a_jpeg():
    thumbnail = segment(0xE1, b"Exif\0\0" + encode("JPEG", drawn(32, 32)))
    data = encode("JPEG")
    photo = decode_photo(data[:2] + thumbnail + data[2:-2])
    assert photo.note == ALL_THERE.format("JPEG")


@pytest.mark.parametrize("missing", [12, 16, 20], ids=["IEND", "checksum", "Adler-32"])
def test_png_without_its_end_is_whole(missing):
    check_whole(encode("PNG")[:-missing], "PNG", note=ALL_THERE.format("PNG"))


def test_png_that_is_cut_is_refused():
    data = encode("PNG")
    for share in (0.3, 0.9):
        assert "truncated" in reason(data[: int(share * len(data))])


@pytest.mark.parametrize(("interlace", "why"), [(0, "its last rows"), (1, "truncated")])
def test_png_whose_compressed_pixels_end_early_is_refused(interlace, why):
    fields = struct.pack(">IIBBBBB", 100, 60, 8, 2, 0, 0, interlace)
    rows = zlib.compress(bytes(301 * 30))
    data = png.SIGNATURE + chunk(b"IHDR", fields) + chunk(b"IDAT", rows)
    assert why in reason(data + chunk(b"IEND", b""))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 9), (640, 480)])
def test_a_whole_png_that_ends_in_black_is_used(mode, size):
    assert decode_photo(encode("PNG", Image.new(mode, size))).note is None


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_other_files_that_are_cut_are_refused(kind):
    data = encode(kind)
    for share in (0.3, 0.9):
        assert reason(data[: int(share * len(data))])


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0" + bytes(64)], ids=["plain", "with metadata"])
def test_a_webp_image_whose_end_was_never_filled(exif):
    data = encode("WEBP", exif=exif)
    assert decode_photo(data).note is None
    start = data.index(b"VP8 ")
    end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
    unfilled = data[: end - 40] + bytes(40) + data[end:]
    assert "the WebP file ends in zeros, and its last pixels are missing" in reason(unfilled)
    few = data[: end - 4] + bytes(4) + data[end:]
    assert decode_photo(few).note is None
