from dataclasses import replace

import pytest
import torch

from fer.models.transforms import (
    Augmentation,
    AugmentationSettings,
    equalize,
    mirror,
    standardize,
)


def test_standardized_images_have_mean_0_and_deviation_1(faces):
    images = standardize(torch.tensor(faces[0]))
    assert (images.shape, images.dtype) == ((60, 1, 48, 48), torch.float32)
    assert images.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    assert images.std(dim=(1, 2, 3), correction=0).sub(1).abs().max() < 1e-4


def test_a_flat_image_becomes_zeros():
    assert not standardize(torch.full((1, 48, 48), 9, dtype=torch.uint8)).any()


def test_standardized_images_do_not_depend_on_brightness(faces):
    images = torch.tensor(faces[0]) // 2
    torch.testing.assert_close(standardize(images), standardize(images + 100), rtol=0, atol=1e-5)


def test_equalized_images_do_not_depend_on_contrast_or_brightness(faces):
    images = torch.tensor(faces[0])
    flatter = (images.float().sqrt() * 8 + 20).to(torch.uint8)
    seen = equalize(images)
    assert (seen.shape, seen.dtype) == ((60, 1, 48, 48), torch.float32)
    assert seen.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    moved = (standardize(images) - standardize(flatter)).abs().mean()
    assert (seen - equalize(flatter)).abs().mean() < 0.3 * moved
    assert not equalize(torch.full((1, 48, 48), 9, dtype=torch.uint8)).any()


def test_equalize_replaces_a_pixel_by_the_share_of_pixels_that_are_not_brighter():
    image = torch.arange(256).repeat(9).reshape(1, 48, 48).to(torch.uint8)
    # Every gray level occurs equally often, so equalizing changes nothing.
    torch.testing.assert_close(equalize(image), standardize(image), rtol=0, atol=1e-5)


def test_identity_augmentation_returns_the_image_or_its_mirror_image(faces):
    images = standardize(torch.tensor(faces[0][:2]))
    still = torch.eye(2, 3).repeat(2, 1, 1)
    torch.testing.assert_close(Augmentation(still).apply(images), images, rtol=0, atol=1e-4)
    still[:, 0, 0] = -1
    torch.testing.assert_close(Augmentation(still).apply(images), mirror(images), rtol=0, atol=1e-4)


def test_a_slice_of_a_batch_is_augmented_like_the_whole(faces):
    images = standardize(torch.tensor(faces[0]))
    settings = AugmentationSettings(erase_fraction=0.5, mixup=1.0)
    moves = Augmentation.draw(len(images), torch.Generator().manual_seed(3), settings)
    partners, part = images[moves.partners], slice(1, None, 2)
    whole = moves.apply(images, partners)
    torch.testing.assert_close(moves[part].apply(images[part], partners[part]), whole[part])


def draw(batch_size, settings, seed=0):
    return Augmentation.draw(batch_size, torch.Generator().manual_seed(seed), settings)


def test_augmentation_stays_within_its_limits():
    matrices = draw(2000, AugmentationSettings()).matrices
    scale = matrices[:, :, :2].square().sum(dim=1).sqrt()
    assert matrices.shape == (2000, 2, 3)
    assert 0.9 <= scale.min() < 0.91
    assert 1.09 < scale.max() <= 1.1 + 1e-6
    assert 0.19 < matrices[:, :, 2].abs().max() <= 0.2
    mirrored = torch.linalg.det(matrices[:, :, :2]) < 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)


STILL = AugmentationSettings(mirror=False, max_rotation=0, max_zoom=0, max_shift=0)


def test_each_part_of_the_augmentation_can_be_turned_off():
    assert torch.equal(draw(50, STILL).matrices, torch.eye(2, 3).repeat(50, 1, 1))
    matrices = draw(2000, replace(STILL, max_rotation=30.0)).matrices
    angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).rad2deg()
    assert 29 < angles.abs().max() <= 30.001
    scale = draw(2000, replace(STILL, max_zoom=0.3)).matrices[:, 0, 0]
    assert 0.7 <= scale.min() < 0.71
    shift = draw(2000, replace(STILL, max_shift=0.25)).matrices[:, :, 2]
    assert 0.49 < shift.abs().max() <= 0.5
    mirrored = draw(2000, replace(STILL, mirror=True)).matrices[:, 0, 0]
    assert sorted(set(mirrored.tolist())) == [-1, 1]


def test_erasing_sets_one_rectangle_to_the_mean():
    ones = torch.ones(2000, 1, 48, 48)
    erased = draw(2000, replace(STILL, erase_fraction=0.5)).apply(ones).squeeze(1) == 0
    heights, widths = erased.any(dim=2).sum(dim=1), erased.any(dim=1).sum(dim=1)
    # A rectangle has as many pixels as its rows times its columns.
    assert torch.equal(erased.sum(dim=(1, 2)), heights * widths)
    is_erased = heights > 0
    assert is_erased.float().mean().item() == pytest.approx(0.5, abs=0.05)
    for sides in (heights[is_erased], widths[is_erased]):
        assert (sides.min(), sides.max()) == (6, 20)
    # Every row and column can be erased, those of the border too.
    assert erased.any(dim=(0, 2)).all()
    assert erased.any(dim=(0, 1)).all()
    assert draw(10, STILL).boxes is None


def test_mixup_draws_shares_from_the_beta_distribution():
    mixed = draw(4000, replace(STILL, mixup=0.2))
    shares = mixed.partner_shares
    assert torch.equal(mixed.partners.sort().values, torch.arange(4000))
    assert (shares.dtype, shares.mean().item()) == (torch.float32, pytest.approx(0.5, abs=0.03))
    # The variance of Beta(a, a) is 1 / (8 a + 4).
    assert shares.var().item() == pytest.approx(1 / 5.6, abs=0.01)
    assert torch.equal(draw(4000, replace(STILL, mixup=0.2)).partner_shares, shares)
    assert not torch.equal(draw(4000, replace(STILL, mixup=0.2), seed=1).partner_shares, shares)
