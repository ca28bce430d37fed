"""One epoch, one evaluation, over any iterable of batches."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fer.models.precision import autocast
from fer.models.transforms import PREPROCESSING
from fer.training.batches import Batch, DeviceExamples
from fer.training.losses import LOSSES, cross_entropy_sum
from fer.training.recipe import Recipe, learning_rate

GRADIENT_CLIP = 5.0
"""Largest norm of the gradient of all parameters together."""

TEMPERATURES = 2.0 ** torch.linspace(-2, 2, 81)
"""What the logits are tried to be divided by, a quarter to four in steps of 3.5 %; the middle one
is 1."""


Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return stochastic gradient descent with Nesterov momentum 0.9.

    Weight decay is for weights; biases and batch normalization are left alone.
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

    def follow(averaged: Tensors, current: Tensors, num_averaged: Tensor | int) -> None:
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        decay = min(recipe.ema_decay, float((1 + num_averaged) / (10 + num_averaged)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)


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
    preprocess = PREPROCESSING[recipe.preprocessing]
    model.train()
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(batch.step, num_steps, recipe)
        images = preprocess(batch.images)
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
        seen = correct.new_tensor(len(batch.labels))
        yield torch.stack([loss.detach().double(), correct.double(), seen.double()])


@torch.inference_mode()
def evaluate_epoch(
    model: nn.Module, parts: Iterable[DeviceExamples], recipe: Recipe, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Evaluate on examples, as many at a time as they come.

    Returns:
        The loss at each of ``TEMPERATURES`` summed over the examples, float64 (81,); the confusion
        matrix, int64 (C, C), the truth in rows.
    """
    preprocess = PREPROCESSING[recipe.preprocessing]
    model.eval()
    losses = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for part in parts:
        images = preprocess(part.images)
        with autocast(images.device, enabled=recipe.bfloat16):
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
