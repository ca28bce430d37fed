"""The settings that fix a training run, whatever the number of workers."""

import math
from dataclasses import dataclass

from fer.models.transforms import AugmentationSettings

SIZE_STEP = 8
"""Pixels by which the side of the training images grows."""


@dataclass(frozen=True)
class Recipe:
    """The settings that fix a training run, whatever the number of workers.

    Attributes:
        num_epochs: Passes over the training split.
        batch_size: Examples per step, over all workers.
        lr: Highest learning rate.
        warmup_fraction: Share of all steps in which the learning rate rises (Smith & Topin 2017,
            arXiv 1708.07120), in [0, 1).
        gradient_clip: Largest norm of the gradient over all parameters; 0 disables clipping.
        weight_decay: Factor of the squared weights in the loss.
        loss: A key of ``LOSSES``.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1).
        votes_weight: Share of the target that comes from FER+ votes instead of the label.
        votes_head_weight: Weight of the loss of a second last layer, which learns the votes; 0 for
            none.
        teacher: Location of a checkpoint whose probabilities are learned from, or None.
        teacher_weight: Share of the target that comes from the teacher instead of label and votes.
        teacher_view: What the teacher sees: ``original`` images and their mirror images, once; or
            the ``augmented`` image that the network sees, in every step (Beyer et al. 2021, arXiv
            2106.05237).
        class_balance: Exponent of a class's rarity in the weight of its examples: 0 weights all
            examples equally, 1 weights all classes equally.
        ema_decay: Decay per step of the exponential moving average of the weights; 0 disables it.
        preprocessing: A key of ``PREPROCESSING``.
        num_frozen_epochs: Number of first epochs in which only the last layer learns.
        trunk_lr_factor: Learning rate of all layers but the last, as a fraction of the last one's.
        augmentation: How strongly images are augmented, or None.
        initial_size: Side in pixels of the images in the first steps, or None if all steps have
            images of their own size.
        seed: Seed of the initial weights, the order of the examples and the augmentation.
        bfloat16: Whether convolutions and matrix products compute in bfloat16.
    """

    num_epochs: int
    batch_size: int
    lr: float
    warmup_fraction: float
    gradient_clip: float
    weight_decay: float
    loss: str
    label_smoothing: float
    votes_weight: float
    votes_head_weight: float
    teacher: str | None
    teacher_weight: float
    teacher_view: str
    class_balance: float
    ema_decay: float
    preprocessing: str
    num_frozen_epochs: int
    trunk_lr_factor: float
    augmentation: AugmentationSettings | None
    initial_size: int | None
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
    progress, warmup = (step + 1) / num_steps, recipe.warmup_fraction
    if progress < warmup:
        return recipe.lr * (1 + 24 * progress / warmup) / 25
    return recipe.lr * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def image_size(step: int, num_steps: int, recipe: Recipe, final_size: int) -> int:
    """Return the side in pixels of the images of a step, counted from 0.

    It grows from ``recipe.initial_size`` to ``final_size`` in steps of 8, and each size lasts
    equally long. Small images cost less, and what a network learns from them it keeps (progressive
    resizing; Tan & Le 2021, arXiv 2104.00298, section 4).
    """
    if recipe.initial_size is None:
        return final_size
    sizes: tuple[int, ...] = (*range(recipe.initial_size, final_size, SIZE_STEP), final_size)
    return sizes[len(sizes) * step // num_steps]
