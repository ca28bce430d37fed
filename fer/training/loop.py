"""Train for one epoch, or evaluate once, over any iterable of batches."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fer.models.layers import Network
from fer.models.precision import autocast
from fer.models.transforms import PREPROCESSING, resize
from fer.training.batches import Batch, DeviceExamples
from fer.training.losses import LOSSES
from fer.training.recipe import Recipe, image_size, learning_rate
from fer.training.targets import taught_targets
from fer.training.teacher import Teacher
from fer.training.votes import TwoHeaded, network_in, votes_loss_sum

TEMPERATURES = 2.0 ** torch.linspace(-2, 2, 81)
"""Candidate temperatures, from 1/4 to 4 in steps of 3.5 %; the one in the middle is 1."""


def build_optimizer(model: Network | TwoHeaded, recipe: Recipe) -> torch.optim.SGD:
    """Return stochastic gradient descent with a Nesterov momentum of 0.9.

    Weight decay applies to weights only, not to biases or batch normalization. The learning rate of
    a group is multiplied by its ``lr_factor``.
    """
    if isinstance(model, TwoHeaded):
        heads = [*model.network.last_layer.parameters(), *model.votes.parameters()]
    else:
        heads = list(model.last_layer.parameters())
    trunk = [parameter for parameter in model.parameters() if parameter not in set(heads)]
    parts = [(trunk, recipe.trunk_lr_factor), (heads, 1.0)]
    groups = [
        {"params": [p for p in part if (p.ndim > 1) == decays], "lr_factor": factor}
        | {"weight_decay": recipe.weight_decay if decays else 0.0}
        for part, factor in parts
        for decays in (True, False)
    ]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)


class MovingAverage(AveragedModel):
    """An exponential moving average of a network's parameters and buffers.

    Its update does what torch's own does, which in each step waits for the GPU.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards a network's parameters; the first update copies them."""
        num_averaged = self.n_averaged  # on the processor
        decay = min(self._decay, float((1 + num_averaged) / (10 + num_averaged)))
        if num_averaged == 0:
            decay = 0.0
        averaged, counters = _split(self.module)
        current, current_counters = _split(model)
        torch._foreach_lerp_(averaged, current, 1 - decay)
        if counters:
            torch._foreach_copy_(counters, current_counters)
        self.n_averaged += 1


def _split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return a network's parameters and buffers: those of floats, and those that count."""
    tensors = [*model.parameters(), *model.buffers()]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return floats, [tensor for tensor in tensors if not tensor.is_floating_point()]


def build_average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """Return an exponential moving average of a network's weights and statistics.

    After n steps the decay is at most (1 + n) / (10 + n), the warm-up of TensorFlow's
    ``ExponentialMovingAverage``. The average of a short run thus soon forgets the initial weights.

    Returns:
        The average, or None if the recipe's ``ema_decay`` is 0.
    """
    if not recipe.ema_decay:
        return None
    return MovingAverage(model, recipe.ema_decay)


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    num_steps: int,
    world_size: int = 1,
    average: AveragedModel | None = None,
    teacher: Teacher | None = None,
) -> Iterator[Tensor]:
    """Train on each batch and yield its totals.

    Args:
        model: The network, or with a weight of a votes head one with two heads. Under data
            parallelism it averages gradients over the workers.
        batches: One worker's share of the epoch.
        optimizer: Takes one step per batch.
        recipe: The settings of the run.
        num_steps: Number of steps of all epochs together.
        world_size: Number of workers.
        average: Moving average of the weights, updated after each step.
        teacher: Network whose probabilities for each augmented image are learned, or None.

    Yields:
        float64 (3,): the summed loss, the number of correct predictions, the number of examples; on
            the device, which has not computed them yet.
    """
    preprocess = PREPROCESSING[recipe.preprocessing]
    model.train()
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(batch.step, num_steps, recipe) * group["lr_factor"]
        images = batch.view(preprocess)
        images = resize(images, image_size(batch.step, num_steps, recipe, images.shape[-1]))
        targets = batch.mixed_targets()
        if teacher is not None:
            targets = taught_targets(targets, teacher.view_probs(batch.view), recipe.teacher_weight)
        with autocast(images.device, enabled=recipe.bfloat16):
            outputs = model(images.contiguous(memory_format=torch.channels_last))
        logits, vote_logits = outputs if recipe.votes_head_weight else (outputs, None)
        loss = LOSSES[recipe.loss](logits.float(), targets)
        total = loss
        if vote_logits is not None:
            votes_loss = votes_loss_sum(vote_logits, batch.mixed_votes())
            total = loss + recipe.votes_head_weight * votes_loss
        optimizer.zero_grad(set_to_none=True)
        # The workers' gradients are averaged, but their shares of the batch may differ in size.
        # Scaling each worker's sum makes the average the gradient of the global batch's mean loss.
        (total * (world_size / batch.global_size)).backward()  # type: ignore[no-untyped-call]
        if recipe.gradient_clip:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        if average is not None:
            average.update_parameters(network_in(model))
        correct = (logits.argmax(dim=1) == batch.labels).sum()
        num_examples = torch.full_like(correct, len(batch.labels))
        yield torch.stack([loss.detach().double(), correct.double(), num_examples.double()])


@torch.inference_mode()
def evaluate_epoch(
    model: nn.Module, batches: Iterable[DeviceExamples], recipe: Recipe, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Evaluate a network on batches of examples.

    Returns:
        losses: float64 (2, 81), the loss at each of ``TEMPERATURES``, summed over the examples that
            ``train`` does not hold, and over those that it holds too.
        confusion: int64 (2, C, C), the confusion matrices of the same two groups, with the true
            classes in rows.
    """
    preprocess = PREPROCESSING[recipe.preprocessing]
    model.eval()
    losses = torch.zeros(2, len(TEMPERATURES), dtype=torch.float64)
    confusion = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
    for batch in batches:
        images = preprocess(batch.images)
        with autocast(images.device, enabled=recipe.bfloat16):
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        for group, rows in enumerate(_groups(batch)):
            losses[group] += _losses(logits[rows], batch.targets[rows])
            confusion[group] += _confusion(logits[rows], batch.labels[rows], num_classes)
    return losses, confusion


def _groups(batch: DeviceExamples) -> Sequence[slice | Tensor]:
    """Return the rows of the examples that ``train`` does not hold, then those of the others."""
    return (slice(None),) if batch.is_copy is None else (~batch.is_copy, batch.is_copy)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    scaled = logits / TEMPERATURES.to(logits.device).reshape(-1, 1, 1)
    return -(scaled.log_softmax(dim=2) * targets).sum(dim=(1, 2)).cpu()


def _confusion(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    cells = (labels * num_classes + logits.argmax(dim=1)).cpu()
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def best_temperature(losses: Tensor) -> tuple[float, float]:
    """Return the temperature with the smallest of the losses (81,), and the loss at temperature 1.

    This is temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2). It searches
    ``TEMPERATURES`` instead of using gradient descent, because the losses of a search add up over
    the workers.
    """
    return TEMPERATURES[losses.argmin()].item(), losses[len(TEMPERATURES) // 2].item()
