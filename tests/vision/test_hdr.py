"""Pictures and videos in HDR look as those in standard levels do."""

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from sampled_videos import KINDS, sampled
from videos import make_video

from fer.vision.decode import decode_image, decode_photo
from fer.vision.hdr import HLG, PQ, is_hdr, to_standard
from fer.vision.sampling import Sampling
from fer.vision.shape import ImageShape

WHITE_NITS = 203
"""What a standard picture's white is in an HDR picture (ITU-R BT.2408)."""

GRAYS = np.arange(10, 201, 10, np.uint8)
"""Levels of sRGB below the highlights."""


def coded_in_pq(levels):
    """Return what levels of sRGB are in PQ, 0 to 255 (IEC 61966-2-1, BT.2100)."""
    coded = levels / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    power = (linear * WHITE_NITS / 10_000) ** (2610 / 16384)
    pq = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    return np.round(255 * pq).astype(np.uint8)


def draw_grays():
    """Draw stripes of the grays, uint8 (64, 320, 3)."""
    return np.repeat(np.repeat(GRAYS, 16)[None, :, None], 64, axis=0).repeat(3, axis=2)


def middles(pixels):
    """Return the mean level in the middle of each stripe, (20,)."""
    return pixels[16:48].reshape(32, len(GRAYS), 16, 3)[:, :, 6:10].mean(axis=(0, 2, 3))


def test_grays_in_pq_are_those_they_were_made_from():
    picture = Image.fromarray(coded_in_pq(draw_grays()))
    np.testing.assert_allclose(middles(np.asarray(to_standard(picture, PQ))), GRAYS, atol=6)


def test_hlg_rises_from_black_to_its_reference_white_without_color():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    levels = np.asarray(to_standard(Image.fromarray(ramp), HLG))[0].astype(int)
    assert levels[0].max() <= 2
    # BT.2408 has the reference white at 75 %. FFmpeg cuts off what is brighter, not quite evenly.
    assert np.diff(levels.mean(axis=1)[:192]).min() >= 0
    assert levels[192:].min() >= 240
    assert (levels.max(axis=1) - levels.min(axis=1)).max() <= 4


def test_alpha_stays():
    picture = Image.new("RGBA", (2, 2), (148, 148, 148, 77))
    assert to_standard(picture, PQ).getchannel("A").getextrema() == (77, 77)


@pytest.mark.parametrize("transfer", [None, 0, 1, 2, 13, 14, 17])
def test_others_are_no_hdr(transfer):
    assert not is_hdr(transfer)


def test_frames_of_an_hdr_video():
    video = make_video(num_frames=2, draw=lambda _: coded_in_pq(draw_grays()), **KINDS["HDR"])
    frames, _ = sampled(video, Sampling(fps=25))
    assert len(frames) == 2
    for _, _, photo in frames:
        np.testing.assert_allclose(middles(photo.pixels), GRAYS, atol=8)


def heif(pixels, transfer):
    file, colors = io.BytesIO(), {"color_primaries": 9, "matrix_coefficients": 9}
    image = pillow_heif.from_pillow(Image.fromarray(pixels))
    image.save(file, quality=95, transfer_characteristics=transfer, **colors)
    return file.getvalue()


def test_hdr_photographs():
    data = heif(coded_in_pq(draw_grays()), PQ)
    np.testing.assert_allclose(middles(decode_photo(data).pixels), GRAYS, atol=8)
    square = heif(coded_in_pq(np.full((96, 96, 3), 90, np.uint8)), PQ)
    assert decode_image(square).pixels.mean() == pytest.approx(90, abs=8)
    assert decode_image(square, ImageShape(64, 3)).pixels.mean() == pytest.approx(90, abs=8)


def test_gray_hdr_photographs():
    data = heif(coded_in_pq(np.full((96, 96), 90, np.uint8)), PQ)
    assert Image.open(io.BytesIO(data)).mode == "L"
    assert decode_image(data).pixels.mean() == pytest.approx(90, abs=8)
    assert decode_photo(data).pixels.shape == (96, 96, 3)


def test_other_heif_photographs_keep_their_levels():
    np.testing.assert_allclose(middles(decode_photo(heif(draw_grays(), 13)).pixels), GRAYS, atol=3)
