"""An epoch of training, and an evaluation."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from recipes import RECIPE, small_network, training_batches
from torch import nn

from fer.models.architectures import build_model
from fer.models.transforms import AugmentationSettings
from fer.training.loop import (
    best_temperature,
    build_average,
    build_optimizer,
    evaluate_epoch,
    train_epoch,
)


def in_parts(examples, batch_size):
    return (examples[start : start + batch_size] for start in range(0, len(examples), batch_size))


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
        network.hidden[1].weight.mul_(1000)
    recipe = replace(RECIPE, gradient_clip=limit)
    gradients = gradients_of_first_step(network, examples, recipe)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert norm == pytest.approx(limit, rel=1e-3) if limit else norm > 50


def test_weight_decay_applies_to_weights_only():
    decayed, kept = groups_by_decay(build_optimizer(build_model("shallow"), RECIPE))
    assert decayed
    assert kept
    assert all(parameter.ndim > 1 for parameter in decayed)
    assert all(parameter.ndim == 1 for parameter in kept)


def groups_by_decay(optimizer):
    """Return the parameters that decay and those that do not."""
    return (
        [
            parameter
            for group in optimizer.param_groups
            if group["weight_decay"] == decay
            for parameter in group["params"]
        ]
        for decay in (5e-4, 0)
    )


def test_all_layers_but_the_last_learn_at_a_fraction_of_the_rate(examples):
    recipe = replace(RECIPE, trunk_lr_factor=0.1)
    network = build_model("resnet4-w32")
    optimizer = build_optimizer(network, recipe)
    batches = training_batches(examples, recipe, 0)
    next(train_epoch(network, batches, optimizer, recipe, 6))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    head = {id(parameter) for parameter in network.output.parameters()}
    assert len(head) == 2
    assert len(rates) == len(list(network.parameters()))
    rate = {rates[key] for key in head}.pop()
    assert [rates[key] for key in rates.keys() - head] == pytest.approx(
        [rate / 10] * (len(rates) - 2)
    )


def test_frozen_layers_stay_as_they_are_while_the_last_one_learns(examples):
    network = build_model("resnet4-w32", dropout=0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.freeze_trunk(True)
    batches = training_batches(examples, RECIPE, 0)
    list(train_epoch(network, batches, build_optimizer(network, RECIPE), RECIPE, 6))
    changed = {
        name for name, tensor in network.state_dict().items() if not tensor.equal(before[name])
    }
    assert changed == {"output.weight", "output.bias"}
    network.freeze_trunk(False)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.train().modules())


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


def test_the_average_follows_the_weights_and_forgets_the_initial_ones(examples):
    recipe = replace(RECIPE, ema_decay=0.9, num_epochs=1)
    network = small_network()
    average, trail = build_average(network, recipe), []
    optimizer = build_optimizer(network, recipe)
    batches = training_batches(examples, recipe, 0)
    for _ in train_epoch(network, batches, optimizer, recipe, 3, average=average):
        trail.append(network.hidden[1].weight.detach().clone())
    first = trail[0].lerp(trail[1], 9 / 11)
    torch.testing.assert_close(average.module.hidden[1].weight, first.lerp(trail[2], 9 / 12))
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
