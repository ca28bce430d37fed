"""What a network learns for each example, and the losses that compare it with its answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from recipes import CPU, RECIPE, small_network, training_batches

from fer.data.dataset import Examples
from fer.errors import InputError
from fer.models.checkpoint import load_checkpoint
from fer.models.networks import load_networks
from fer.models.predictor import Predictor
from fer.models.transforms import PREPROCESSING, AugmentationSettings
from fer.training.loop import build_optimizer, train_epoch
from fer.training.losses import cross_entropy_sum, squared_hinge_sum
from fer.training.targets import (
    TargetBuilder,
    class_weights,
    smoothed_targets,
    taught_targets,
)
from fer.training.teacher import Teacher


def test_loss_of_uniform_probabilities_is_the_logarithm_of_the_number_of_classes():
    targets = smoothed_targets(torch.tensor([0, 1, 2]), 7, 0.0)
    loss = cross_entropy_sum(torch.zeros(3, 7), targets)
    assert loss.item() == pytest.approx(3 * torch.log(torch.tensor(7.0)).item())


def test_smoothed_targets_agree_with_torch():
    logits, labels = torch.randn(5, 7), torch.tensor([0, 1, 2, 6, 6])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="sum")
    loss = cross_entropy_sum(logits, smoothed_targets(labels, 7, 0.2))
    torch.testing.assert_close(loss, expected)


def test_squared_hinge_is_the_loss_of_support_vector_machines():
    logits, labels = torch.randn(5, 7), torch.tensor([0, 1, 2, 6, 6])
    signs = F.one_hot(labels, 7) * 2 - 1
    expected = (1 - signs * logits).clamp_min(0).square().sum()
    targets = smoothed_targets(labels, 7, 0.0)
    torch.testing.assert_close(squared_hinge_sum(logits, targets), expected)
    torch.testing.assert_close(squared_hinge_sum(logits, 2 * targets), 2 * expected)


def test_class_weights_balance_classes_and_keep_the_scale():
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert class_weights(labels, 3, 0.0).tolist() == [1, 1, 0]
    weights = class_weights(labels, 3, 1.0)
    assert (weights[0] * 90).item() == pytest.approx((weights[1] * 10).item())
    assert weights[labels].mean().item() == pytest.approx(1)


def test_targets_mix_labels_with_votes():
    labels = np.arange(70) % 7
    votes = np.eye(10, dtype=np.int8)[labels] * 10
    recipe = replace(RECIPE, label_smoothing=0.0, votes_weight=0.5)
    examples = Examples(np.zeros((70, 48, 48), np.uint8), labels, votes=votes)
    targets = TargetBuilder.fit(recipe, labels, votes, 7, CPU).build(examples)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(70))
    assert (targets.argmax(dim=1) == torch.tensor(labels)).all()
    # The votes determine these labels, so their half of a target is nearly one-hot too.
    assert 0.8 < targets.max(dim=1).values.min() < 1
    with pytest.raises(InputError, match="has no FER[+] votes to learn from"):
        TargetBuilder.fit(recipe, labels, None, 7, CPU)


def test_targets_mix_labels_with_a_teacher(faces):
    images, labels = faces
    recipe = replace(RECIPE, teacher="bundled", teacher_weight=0.3, class_balance=1.0)
    targets = TargetBuilder.fit(recipe, labels, None, 7, CPU).build(Examples(images, labels))
    known = torch.tensor(labels, dtype=torch.int64)
    teacher_probs = torch.tensor(Predictor.load("bundled").predict_probs(images, tta=True))
    mixed = 0.7 * smoothed_targets(known, 7, 0.1) + 0.3 * teacher_probs
    weights = class_weights(known, 7, 1.0)[known].unsqueeze(1)
    torch.testing.assert_close(targets, mixed * weights)


def test_a_teacher_sees_the_augmented_images_that_the_network_sees(examples):
    augmentation = AugmentationSettings(erase_fraction=0.5, mixup=0.4)
    recipe = replace(RECIPE, teacher="bundled", teacher_view="augmented", teacher_weight=0.3)
    recipe = replace(recipe, augmentation=augmentation)
    builder = TargetBuilder.fit(recipe, examples.labels.numpy(), None, 7, CPU)
    assert builder.teacher is None
    teacher = Teacher("bundled", CPU)
    network, batch = small_network(), next(training_batches(examples, recipe, 0))
    view = batch.view(PREPROCESSING["standardize"])
    (model,), (config,) = load_networks("bundled"), load_checkpoint("bundled").configs
    with torch.no_grad():
        taught = (model(view) / config.temperature).softmax(dim=1)
        targets = 0.7 * batch.mixed_targets() + 0.3 * taught
        expected = cross_entropy_sum(network(view), targets).item()
    batches = training_batches(examples, recipe, 0)
    optimizer = build_optimizer(network, recipe)
    totals = next(train_epoch(network, batches, optimizer, recipe, 6, teacher=teacher))
    assert totals[0].item() == pytest.approx(expected, rel=1e-3)


def test_a_teacher_s_share_keeps_the_weights_of_the_examples():
    targets, probs = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    taught = taught_targets(targets, probs, 0.5)
    torch.testing.assert_close(taught, torch.tensor([[1.5, 0.5], [0.2, 0.3]]))
