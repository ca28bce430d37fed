import pytest
import torch

from fer.models.transforms import Augmentation, equalize, mirror, standardize


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
    moves = Augmentation.draw(len(images), torch.Generator().manual_seed(3))
    whole, part = moves.apply(images), slice(1, None, 2)
    torch.testing.assert_close(moves[part].apply(images[part]), whole[part])


def test_augmentation_stays_within_its_limits():
    matrices = Augmentation.draw(2000, torch.Generator().manual_seed(0)).matrices
    scale = matrices[:, :, :2].square().sum(dim=1).sqrt()
    assert matrices.shape == (2000, 2, 3)
    assert 0.9 <= scale.min() < 0.91
    assert 1.09 < scale.max() <= 1.1 + 1e-6
    assert 0.19 < matrices[:, :, 2].abs().max() <= 0.2
    mirrored = torch.linalg.det(matrices[:, :, :2]) < 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
