"""One epoch, one evaluation, over any iterable of batches.

A recipe fixes the global batch: the same seed gives the same examples in the same global batches,
moved in the same way, however many workers share them.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fer.dataset import Examples
from fer.losses import LOSSES, class_weights, cross_entropy_sum, smoothed_targets
from fer.transforms import Augmentation, standardize
from fer.votes import label_probs_from_votes

WARM_UP = 0.3
"""Share of the steps in which the learning rate rises (Smith & Topin 2017, arXiv 1708.07120)."""

GRADIENT_CLIP = 5.0
"""Largest norm of the gradient of all parameters together."""

TEMPERATURES = 2.0 ** torch.linspace(-2, 2, 81)
"""What the logits are tried to be divided by, a quarter to four in steps of 3.5 %; the middle one
is 1."""


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
        votes_weight: Share of the target that FER+ votes say.
        class_balance: Power of a class's rarity in the weight of its examples.
        ema_decay: What is kept of the averaged weights at each step; 0 averages nothing.
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
    class_balance: float
    ema_decay: float
    augment: bool
    seed: int
    bfloat16: bool


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch.

    Attributes:
        images: uint8 (b, 48, 48).
        labels: int64 (b,).
        targets: float32 (b, C), what the network is to say.
        augmentation: How each image is moved, or None.
        global_size: Examples of the whole batch.
        step: Number of the batch since the first epoch, from 0.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    augmentation: Augmentation | None
    global_size: int
    step: int


@dataclass(frozen=True)
class ResidentExamples:
    """A split that lies in the memory of the device that trains on it.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: int64 (N,).
        targets: float32 (N, C), what the network is to say; a row's sum is its example's weight.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor

    @classmethod
    def place(
        cls, examples: Examples, num_classes: int, device: torch.device
    ) -> "ResidentExamples":
        """Copy a split to a device, its labels as they are for targets."""
        images, labels = torch.tensor(examples.images), torch.tensor(examples.labels)
        targets = smoothed_targets(labels, num_classes, 0.0)
        return cls(images.to(device), labels.to(device), targets.to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | Tensor) -> "ResidentExamples":
        """Return some of the examples."""
        return ResidentExamples(self.images[part], self.labels[part], self.targets[part])


def training_targets(examples: Examples, num_classes: int, recipe: Recipe) -> Tensor:
    """Return what the network is to say of each example: float32 (N, C).

    The label, smoothed; in the share of ``votes_weight`` what ten people's votes make of it; and
    all of it times the weight of the label's class.
    """
    labels = torch.tensor(examples.labels)
    targets = smoothed_targets(labels, num_classes, recipe.label_smoothing)
    if recipe.votes_weight:
        said = torch.tensor(label_probs_from_votes(examples.votes, examples.labels, num_classes))
        targets = targets.lerp(said, recipe.votes_weight)
    return targets * class_weights(labels, num_classes, recipe.class_balance)[labels].unsqueeze(1)


def steps_per_epoch(num_examples: int, recipe: Recipe) -> int:
    """Return the number of whole global batches; a split smaller than one is a batch of its own."""
    return max(1, num_examples // recipe.batch_size)


def training_batches(
    examples: ResidentExamples, recipe: Recipe, epoch: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Yield one worker's part of each global batch of an epoch, in a new random order.

    The rest that does not fill a global batch is left to other epochs.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(examples), generator=generator)
    num_steps = steps_per_epoch(len(examples), recipe)
    for index in range(num_steps):
        chosen = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
        moves = Augmentation.draw(len(chosen), generator) if recipe.augment else None
        part = slice(rank, None, world_size)
        mine = examples[chosen[part].to(examples.images.device)]
        yield Batch(
            mine.images,
            mine.labels,
            mine.targets,
            moves[part] if moves else None,
            len(chosen),
            epoch * num_steps + index,
        )


def learning_rate(step: int, num_steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: a linear rise from 1/25, then half a cosine to 0."""
    progress = (step + 1) / num_steps
    if progress < WARM_UP:
        return recipe.lr * (1 + 24 * progress / WARM_UP) / 25
    return recipe.lr * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return stochastic gradient descent with Nesterov momentum 0.9.

    Weight decay is for weights; biases and batch normalisation are left alone.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)


def build_average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """Return the exponential moving average of a network's weights and statistics, or None.

    It forgets faster at first, by (1 + n) / (10 + n) after n steps, so that short runs are not held
    back by how they began (the warm-up of TensorFlow's ``ExponentialMovingAverage``).
    """
    if not recipe.ema_decay:
        return None

    def follow(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        decay = min(recipe.ema_decay, float((1 + num_averaged) / (10 + num_averaged)))
        return averaged.lerp(current, 1 - decay)

    return AveragedModel(model, avg_fn=follow, use_buffers=True)


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    num_steps: int,
    world_size: int = 1,
    average: AveragedModel | None = None,
) -> Iterator[Tensor]:
    """Train on each batch and yield its totals: loss summed, right answers, examples (float64).

    Args:
        model: The network; under data parallelism, one that averages gradients over the workers.
        batches: One worker's part of the epoch.
        optimizer: Steps once a batch.
        recipe: What fixes the run.
        num_steps: Steps of all epochs together.
        world_size: Number of workers.
        average: Follows the network's weights, a step at a time.
    """
    model.train()
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(batch.step, num_steps, recipe)
        images = standardize(batch.images)
        if batch.augmentation:
            images = batch.augmentation.apply(images)
        with autocast(images.device, enabled=recipe.bfloat16):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = LOSSES[recipe.loss](logits.float(), batch.targets)
        optimizer.zero_grad(set_to_none=True)
        # Workers' gradients are averaged, so each counts for its share of the global batch.
        (loss * (world_size / batch.global_size)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        correct = (logits.argmax(dim=1) == batch.labels).sum()
        yield torch.stack([loss.detach(), correct, torch.tensor(len(batch.labels))]).double()


@torch.inference_mode()
def evaluate_epoch(
    model: nn.Module,
    examples: ResidentExamples,
    num_classes: int,
    batch_size: int,
    *,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    """Evaluate on all examples.

    Returns:
        The loss at each of ``TEMPERATURES`` summed over the examples, float64 (81,); the confusion
        matrix, int64 (C, C), the truth in rows.
    """
    model.eval()
    losses = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        images = standardize(part.images)
        with autocast(images.device, enabled=bfloat16):
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        losses += torch.stack(
            [cross_entropy_sum(logits / temperature, part.targets) for temperature in TEMPERATURES]
        ).cpu()
        cells = (part.labels * num_classes + logits.argmax(dim=1)).cpu()
        confusion += torch.bincount(cells, minlength=num_classes**2).reshape(confusion.shape)
    return losses, confusion


def best_temperature(losses: Tensor) -> tuple[float, float]:
    """Return the temperature with the least of the losses (81,), and the loss at temperature 1.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2), by a search of
    ``TEMPERATURES`` rather than by descent, since sums over workers are all that it needs.
    """
    return TEMPERATURES[losses.argmin()].item(), losses[len(TEMPERATURES) // 2].item()


def autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    """Return a context in which convolutions and matrix products compute in bfloat16."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
