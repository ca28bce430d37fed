"""The settings that fix a training run, whatever the number of workers."""

import math
from dataclasses import dataclass

WARM_UP_FRACTION = 0.3
"""Fraction of all steps in which the learning rate rises (Smith & Topin 2017, arXiv 1708.07120)."""


@dataclass(frozen=True)
class Recipe:
    """The settings that fix a training run, whatever the number of workers.

    Attributes:
        num_epochs: Passes over the training split.
        batch_size: Examples per step, over all workers.
        lr: Highest learning rate.
        weight_decay: Factor of the squared weights in the loss.
        loss: A key of ``LOSSES``.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1).
        votes_weight: Share of the target that comes from FER+ votes instead of the label.
        teacher: Location of a checkpoint whose probabilities are learned from, or None.
        teacher_weight: Share of the target that comes from the teacher instead of label and votes.
        class_balance: Exponent of a class's rarity in the weight of its examples: 0 weights all
            examples equally, 1 weights all classes equally.
        ema_decay: Decay per step of the exponential moving average of the weights; 0 disables it.
        preprocessing: A key of ``PREPROCESSING``.
        augment: Whether images are mirrored, rotated, zoomed and shifted at random.
        seed: Seed of the initial weights, the order of the examples and the augmentation.
        bfloat16: Whether convolutions and matrix products compute in bfloat16.
    """

    num_epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    loss: str
    label_smoothing: float
    votes_weight: float
    teacher: str | None
    teacher_weight: float
    class_balance: float
    ema_decay: float
    preprocessing: str
    augment: bool
    seed: int
    bfloat16: bool


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of full global batches, or 1 for a split smaller than a batch."""
    return max(1, num_examples // batch_size)


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Return the seed that all workers share in an epoch, counted from 0."""
    return seed * 1_000_003 + epoch


def seed_of_worker(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of one worker's own random numbers in an epoch, counted from 0."""
    return seed_of_epoch(seed, epoch) * 1009 + rank


def learning_rate(step: int, num_steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly from 1/25 of ``recipe.lr`` to ``recipe.lr``, then falls to 0 along half a
    cosine.
    """
    progress = (step + 1) / num_steps
    if progress < WARM_UP_FRACTION:
        return recipe.lr * (1 + 24 * progress / WARM_UP_FRACTION) / 25
    return (
        recipe.lr
        * (1 + math.cos(math.pi * (progress - WARM_UP_FRACTION) / (1 - WARM_UP_FRACTION)))
        / 2
    )
