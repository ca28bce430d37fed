"""What fixes a training run, on however many workers."""

import math
from dataclasses import dataclass

WARM_UP = 0.3
"""Share of the steps in which the learning rate rises (Smith & Topin 2017, arXiv 1708.07120)."""


@dataclass(frozen=True)
class Recipe:
    """What fixes a training run, on however many workers.

    Attributes:
        num_epochs: Passes over the training split.
        batch_size: Examples a step, all workers together.
        lr: Highest learning rate.
        weight_decay: Factor of the squared weights in the loss.
        loss: A key of ``LOSSES``.
        label_smoothing: Share of the target spread evenly over the classes.
        votes_weight: Share of the target that FER+ votes say in the label's place.
        teacher: Location of a checkpoint whose probabilities are learned from, or None.
        teacher_weight: Share of the target that the teacher says in place of label and votes.
        class_balance: Power of a class's rarity in the weight of its examples.
        ema_decay: What is kept of the averaged weights at each step; 0 averages nothing.
        preprocessing: A key of ``PREPROCESSING``.
        augment: Whether images are mirrored, turned, zoomed and shifted.
        seed: Of the weights, the order and the augmentation.
        bfloat16: Whether the network computes in bfloat16 where that is safe.
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
    """Return the number of whole global batches; a split smaller than one is a batch of its own."""
    return max(1, num_examples // batch_size)


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Return the seed of what all workers draw alike in an epoch, counted from 0."""
    return seed * 1_000_003 + epoch


def seed_of_worker(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of what one worker draws for itself in an epoch."""
    return seed_of_epoch(seed, epoch) * 1009 + rank


def learning_rate(step: int, num_steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: a linear rise from 1/25, then half a cosine to 0."""
    progress = (step + 1) / num_steps
    if progress < WARM_UP:
        return recipe.lr * (1 + 24 * progress / WARM_UP) / 25
    return recipe.lr * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
