"""Degradations are those that cameras and files cause, whatever the number of workers."""

import io
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fer.models.degradations import (
    BLURS,
    WIDTHS,
    Degradations,
    _compress,
    _cover,
    _light,
    blur_filter,
    filter_bank,
    resolution_filter,
)
from fer.models.transforms import Augmentation, AugmentationSettings


@pytest.fixture(scope="module")
def images(faces):
    return torch.tensor(faces[0])


def draw(number, fraction=1.0, seed=0):
    return Degradations.draw(number, torch.Generator().manual_seed(seed), fraction)


def test_a_small_face_is_averaged_and_enlarged_as_crops_are(images):
    face = images[0].numpy().astype(np.float32)
    small = cv2.resize(face, (16, 16), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (48, 48), interpolation=cv2.INTER_LINEAR)
    step = resolution_filter(16, 48)
    np.testing.assert_allclose(step @ face @ step.T, expected, atol=1e-3)


def test_a_blur_is_opencv_s(images):
    face = images[1].numpy().astype(np.float32)
    step = blur_filter(1.5, 48)
    np.testing.assert_allclose(step @ face @ step.T, cv2.GaussianBlur(face, (0, 0), 1.5), atol=1e-3)


@pytest.mark.parametrize("size", [48, 112])
def test_the_bank_holds_what_it_says(size):
    bank = filter_bank(size, torch.device("cpu")).squeeze(1).numpy()
    assert len(bank) == 1 + len(WIDTHS) + len(BLURS)
    np.testing.assert_array_equal(bank[0], np.eye(size))
    np.testing.assert_array_equal(bank[1], resolution_filter(12 * size // 48, size))
    np.testing.assert_array_equal(bank[-1], blur_filter(2.0 * size / 48, size))


@pytest.mark.parametrize("quality", [10, 30, 50, 60, 90])
def test_compression_is_that_of_a_jpeg_file(images, quality):
    for face in images[:8]:
        buffer = io.BytesIO()
        Image.fromarray(face.numpy()).save(buffer, "JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer)).astype(float)
        levels = face.reshape(1, 1, 48, 48).float()
        found = _compress(levels, torch.tensor([quality])).round().clamp(0, 255)[0, 0].numpy()
        # Libraries round the cosines, so a coefficient between two steps may fall to either.
        assert np.abs(found - expected).mean() < 1
        assert (np.abs(found - expected) <= 1).mean() > 0.8


def test_covers_and_light():
    levels = torch.full((2, 1, 48, 48), 100.0)
    covered = _cover(levels, torch.tensor([30, 48]), torch.tensor([7.0, 7.0]))
    assert covered[0, 0, :30].eq(100).all()
    assert covered[0, 0, 30:].eq(7).all()
    assert covered[1].eq(100).all()
    lit = _light(levels, torch.tensor([[0.5, 0.0], [0.0, -0.2]]))
    assert lit[0, 0, :, 0].eq(50).all()
    assert lit[0, 0, :, -1].eq(150).all()
    torch.testing.assert_close(lit[1, 0, 0], torch.full((48,), 120.0))


def test_shares_are_those_that_are_wanted(images):
    drawn = draw(4000, 0.4)
    assert drawn.is_degraded.float().mean() == pytest.approx(0.4, abs=0.03)
    assert (drawn.filters == 0).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (drawn.noise.deviations > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    noise = drawn.noise.levels(48, torch.device("cpu"))
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)), drawn.noise.deviations, rtol=0.1, atol=0)
    assert (drawn.qualities > 0)[drawn.is_degraded].float().mean() == pytest.approx(0.4, abs=0.03)
    assert not drawn.qualities[~drawn.is_degraded].any()
    assert (drawn.cover_tops < 48).float().mean() == pytest.approx(0.15, abs=0.03)


def test_others_are_left_alone(images):
    drawn = draw(len(images), 0.5)
    degraded = drawn.apply(images)
    assert degraded.dtype == torch.uint8
    is_same = (degraded == images).all(dim=(1, 2))
    assert is_same[~drawn.is_degraded].all()
    # A few of the others draw no part, which leaves them as they were.
    assert is_same[drawn.is_degraded].float().mean() < 0.2


def test_an_image_s_degradation_does_not_depend_on_its_worker(images):
    drawn = draw(len(images))
    whole = drawn.apply(images)
    for rank in range(2):
        torch.testing.assert_close(drawn[rank::2].apply(images[rank::2]), whole[rank::2])


def test_augmentation_draws_them_after_all_else():
    settings = AugmentationSettings(erase_fraction=0.5, mixup=0.2)
    degrading = AugmentationSettings(erase_fraction=0.5, mixup=0.2, degrade_fraction=0.5)
    without, with_them = (
        Augmentation.draw(20, torch.Generator().manual_seed(1), each)
        for each in (settings, degrading)
    )
    for name in ("matrices", "boxes", "partners", "partner_shares"):
        torch.testing.assert_close(getattr(without, name), getattr(with_them, name))
    part = with_them[3:5].degradations
    assert [len(getattr(part, field.name)) for field in fields(part)] == [2] * len(fields(part))


@pytest.mark.parametrize("size", [24, 50, 112])
def test_images_of_any_size_and_in_color(size):
    """Blocks of 8 pixels need not fill an image; each channel is degraded as a gray image is."""
    grays = torch.randint(0, 256, (8, size, size), dtype=torch.uint8)
    colors = grays.unsqueeze(3).repeat(1, 1, 1, 3)
    drawn = Degradations.draw(8, torch.Generator().manual_seed(3), 1.0, size)
    degraded = drawn.apply(grays)
    assert degraded.shape == grays.shape
    assert not degraded.equal(grays)
    for channel in drawn.apply(colors).unbind(dim=3):
        torch.testing.assert_close(channel, degraded)
