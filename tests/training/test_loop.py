import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fer.data.dataset import Examples
from fer.errors import InputError
from fer.models.architectures import build_model
from fer.models.checkpoint import load_checkpoint
from fer.models.networks import load_networks
from fer.models.predictor import Predictor
from fer.models.transforms import PREPROCESSING, AugmentationSettings
from fer.training.batches import DeviceExamples, InMemoryBatches
from fer.training.loop import (
    best_temperature,
    build_average,
    build_optimizer,
    evaluate_epoch,
    train_epoch,
)
from fer.training.losses import cross_entropy_sum, squared_hinge_sum
from fer.training.recipe import Recipe, image_size, learning_rate, steps_per_epoch
from fer.training.targets import (
    TargetBuilder,
    class_weights,
    smoothed_targets,
    taught_targets,
)
from fer.training.teacher import Teacher

CPU = torch.device("cpu")

RECIPE = Recipe(
    num_epochs=2,
    batch_size=16,
    lr=0.02,
    warmup_fraction=0.3,
    gradient_clip=5.0,
    weight_decay=5e-4,
    loss="cross_entropy",
    label_smoothing=0.1,
    votes_weight=0.0,
    teacher=None,
    teacher_weight=0.5,
    teacher_view="original",
    class_balance=0.0,
    ema_decay=0.0,
    preprocessing="standardize",
    augmentation=AugmentationSettings(),
    initial_size=48,
    seed=0,
    bfloat16=False,
)


@pytest.fixture(scope="module")
def examples(faces):
    images, labels = faces
    split = Examples(images, labels.astype(np.int64))
    return DeviceExamples.from_examples(split, 7, CPU)


def training_batches(examples, recipe, epoch, rank=0, world_size=1):
    return InMemoryBatches(recipe, examples, examples, rank, world_size).train_batches(epoch)


def in_parts(examples, batch_size):
    return (examples[start : start + batch_size] for start in range(0, len(examples), batch_size))


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


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rates = [learning_rate(step, 100, RECIPE) for step in range(100)]
    assert max(rates) == pytest.approx(RECIPE.lr, rel=1e-3)
    assert rates.index(max(rates)) in (28, 29, 30)
    assert rates[0] < RECIPE.lr / 10
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_the_share_of_steps_in_which_the_learning_rate_rises(share):
    recipe = replace(RECIPE, warmup_fraction=share)
    rates = [learning_rate(step, 200, recipe) for step in range(200)]
    assert rates.index(max(rates)) == pytest.approx(200 * share, abs=1)
    assert max(rates) == pytest.approx(recipe.lr, rel=1e-3)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_images_grow_in_equal_shares_of_the_steps():
    recipe = replace(RECIPE, initial_size=32)
    sizes = [image_size(step, 300, recipe) for step in range(300)]
    assert sizes == [32] * 100 + [40] * 100 + [48] * 100
    assert {image_size(step, 300, RECIPE) for step in range(300)} == {48}


def test_a_residual_network_learns_from_images_that_grow(examples):
    recipe = replace(RECIPE, initial_size=32, num_epochs=3)
    model, seen = build_model("resnet4-w32"), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    num_steps = 3 * len(list(training_batches(examples, recipe, 0)))
    for epoch in range(3):
        batches = training_batches(examples, recipe, epoch)
        list(train_epoch(model, batches, build_optimizer(model, recipe), recipe, num_steps))
    assert sorted(set(seen)) == [32, 40, 48]
    assert seen == sorted(seen)


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


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 16), nn.ReLU(), nn.Linear(16, 7))


def gradients_of_first_step(network, examples, recipe, rank=0, world_size=1):
    optimizer = build_optimizer(network, recipe)
    batches = training_batches(examples, recipe, 0, rank, world_size)
    next(train_epoch(network, batches, optimizer, recipe, 6, world_size))
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize(
    "augmentation",
    [AugmentationSettings(), AugmentationSettings(erase_fraction=0.5, mixup=0.4)],
    ids=["moved", "erased and mixed"],
)
def test_averaged_gradients_of_three_workers_equal_those_of_one(examples, augmentation):
    """The 3 workers have unequal shares of 16 examples."""
    recipe = replace(RECIPE, gradient_clip=0.0, augmentation=augmentation)
    alone = gradients_of_first_step(small_network(), examples, recipe)
    parts = [
        gradients_of_first_step(small_network(), examples, recipe, rank, 3) for rank in range(3)
    ]
    for expected, *shared in zip(alone, *parts, strict=True):
        torch.testing.assert_close(torch.stack(shared).mean(dim=0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limit", [0.0, 0.5, 5.0])
def test_gradients_are_clipped_unless_the_limit_is_0(examples, limit):
    network = small_network()
    with torch.no_grad():
        network[1].weight.mul_(1000)
    recipe = replace(RECIPE, gradient_clip=limit)
    gradients = gradients_of_first_step(network, examples, recipe)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert norm == pytest.approx(limit, rel=1e-3) if limit else norm > 50


def test_weight_decay_applies_to_weights_only():
    decayed, kept = build_optimizer(build_model("shallow"), RECIPE).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (5e-4, 0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in kept["params"])


def test_training_overfits_a_few_faces(examples):
    recipe = replace(RECIPE, num_epochs=40, augmentation=None)
    network = small_network()
    optimizer = build_optimizer(network, recipe)
    for epoch in range(recipe.num_epochs):
        batches = training_batches(examples, recipe, epoch)
        totals = sum(train_epoch(network, batches, optimizer, recipe, 3 * recipe.num_epochs))
    loss, correct, seen = totals.tolist()
    assert (correct / seen, seen) == (1, 48)
    assert loss / seen < 0.1


def test_evaluation_counts_every_example_and_changes_nothing(examples):
    torch.manual_seed(0)
    network = build_model("shallow")
    before = copy.deepcopy(network.state_dict())
    loss, confusion = evaluate_epoch(network, in_parts(examples, 13), RECIPE, 7)
    at_once, same = evaluate_epoch(network, [examples], RECIPE, 7)
    assert torch.equal(confusion, same)
    torch.testing.assert_close(loss, at_once, rtol=1e-5, atol=0)
    # None of the examples is a copy.
    rows = torch.bincount(examples.labels, minlength=7)
    assert confusion.sum(dim=2).tolist() == [rows.tolist(), [0] * 7]
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def test_copies_of_train_are_evaluated_apart(examples):
    torch.manual_seed(0)
    network = build_model("conv1")
    is_copy = torch.arange(len(examples)) % 3 == 0
    marked = replace(examples, is_copy=is_copy)
    losses, confusion = evaluate_epoch(network, in_parts(marked, 13), RECIPE, 7)
    for group, rows in enumerate((~is_copy, is_copy)):
        expected_losses, expected = evaluate_epoch(network, [examples[rows]], RECIPE, 7)
        assert torch.equal(confusion[group], expected[0])
        torch.testing.assert_close(losses[group], expected_losses[0], rtol=1e-5, atol=0)


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


def test_the_average_follows_the_weights_and_forgets_the_initial_ones(examples):
    recipe = replace(RECIPE, ema_decay=0.9, num_epochs=1)
    network = small_network()
    average, trail = build_average(network, recipe), []
    optimizer = build_optimizer(network, recipe)
    batches = training_batches(examples, recipe, 0)
    for _ in train_epoch(network, batches, optimizer, recipe, 3, average=average):
        trail.append(network[1].weight.detach().clone())
    first = trail[0].lerp(trail[1], 9 / 11)
    torch.testing.assert_close(average.module[1].weight, first.lerp(trail[2], 9 / 12))
    assert build_average(network, RECIPE) is None


def test_best_temperature_corrects_an_overconfident_network(examples):
    class Overconfident(nn.Module):
        """Is right about three in four examples, with a confidence of 97 %."""

        def forward(self, images):
            assert len(images) == len(examples)
            preds = examples.labels.clone()
            preds[::4] = (preds[::4] + 1) % 7
            return F.one_hot(preds, 7).float() * math.log(6 * 0.97 / 0.03)

    losses, confusion = evaluate_epoch(Overconfident(), [examples], RECIPE, 7)
    temperature, loss = best_temperature(losses[0])
    fitting = math.log(6 * 0.97 / 0.03) / math.log(6 * 0.75 / 0.25)
    assert temperature == pytest.approx(fitting, rel=0.02)
    assert confusion[0].trace() == len(examples) * 3 // 4
    assert loss > losses[0].min()
