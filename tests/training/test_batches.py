"""Batches: each worker gets its share of the same ones."""

from dataclasses import replace

import pytest
import torch
from recipes import RECIPE, training_batches

from fer.models.transforms import PREPROCESSING, AugmentationSettings
from fer.training.batches import val_batch_size
from fer.training.recipe import steps_per_epoch


def test_every_worker_gets_its_share_of_the_same_global_batch(examples):
    alone = list(training_batches(examples, RECIPE, epoch=1))
    shared = [list(training_batches(examples, RECIPE, 1, rank, 3)) for rank in range(3)]
    assert len(alone) == steps_per_epoch(len(examples), RECIPE.batch_size) == 3
    for batch, parts in zip(alone, zip(*shared, strict=True), strict=True):
        assert sum(len(part.labels) for part in parts) == batch.global_size == 16
        assert {part.step for part in parts} == {batch.step}
        for rank, part in enumerate(parts):
            assert torch.equal(part.images, batch.images[rank::3])
            assert torch.equal(part.labels, batch.labels[rank::3])
            assert torch.equal(part.augmentation.matrices, batch.augmentation.matrices[rank::3])


def test_order_depends_on_epoch_and_seed(examples):
    def order(epoch, seed=0):
        recipe = replace(RECIPE, seed=seed)
        return [batch.images for batch in training_batches(examples, recipe, epoch)]

    assert all(map(torch.equal, order(1), order(1)))
    assert not all(map(torch.equal, order(1), order(2)))
    assert not all(map(torch.equal, order(1), order(1, seed=1)))


def test_a_split_smaller_than_a_batch_is_one_batch(examples):
    recipe = replace(RECIPE, batch_size=1000)
    (batch,) = training_batches(examples, recipe, 0)
    assert batch.global_size == len(examples)


def test_mixup_mixes_images_and_targets_by_the_same_shares(examples):
    recipe = replace(RECIPE, augmentation=AugmentationSettings(mixup=0.4))
    for batch in training_batches(examples, recipe, 0):
        shares, own = batch.augmentation.partner_shares, batch.targets
        expected = own * (1 - shares[:, None]) + batch.partners.targets * shares[:, None]
        torch.testing.assert_close(batch.mixed_targets(), expected)
        standardize = PREPROCESSING["standardize"]
        still = replace(batch.augmentation, matrices=torch.eye(2, 3).repeat(16, 1, 1))
        view = replace(batch, augmentation=still).view(standardize)
        weights = shares[:, None, None, None]
        mixture = (1 - weights) * standardize(batch.images)
        mixture += weights * standardize(batch.partners.images)
        torch.testing.assert_close(view, mixture, rtol=0, atol=1e-4)
    plain = next(training_batches(examples, RECIPE, 0))
    assert plain.partners is None
    assert plain.mixed_targets() is plain.targets


@pytest.mark.parametrize(("size", "number"), [(24, 256), (48, 256), (96, 64), (224, 11)])
def test_large_images_are_evaluated_in_small_batches(size, number):
    assert val_batch_size(size) == number
