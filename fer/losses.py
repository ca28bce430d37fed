"""What a network is asked to say of each example, and how far it is from saying it."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def smoothed_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Return labels as probabilities, some of which is spread evenly over the classes.

    Args:
        labels: int64 (N,), 0 to C - 1.
        num_classes: C.
        label_smoothing: The share that is spread, in [0, 1) (Szegedy et al. 2015, arXiv
            1512.00567, section 7).

    Returns:
        float32 (N, C); rows sum to 1.
    """
    even = label_smoothing / num_classes
    return F.one_hot(labels, num_classes).float() * (1 - label_smoothing) + even


def class_weights(labels: Tensor, num_classes: int, balance: float) -> Tensor:
    """Return the weight of each class, by the power ``-balance`` of its number of examples.

    Args:
        labels: int64 (N,), 0 to C - 1.
        num_classes: C.
        balance: 0 counts examples alike, 1 counts classes alike.

    Returns:
        float32 (C,), scaled so that the weights of all examples average 1; 0 for an absent class.
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    weights = counts.clamp_min(1) ** -balance * (counts > 0)
    return weights * (len(labels) / (weights * counts).sum())


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the categorical cross entropy of a softmax over a batch, in nats.

    What the paper (section 4.2) calls "binary cross entropy (softmax)". A sum rather than a mean,
    so that workers with unequal parts of a batch add up to the loss of the whole.

    Args:
        logits: float (B, C).
        targets: float (B, C), probabilities; a row's sum is the weight of its example.
    """
    return F.cross_entropy(logits, targets, reduction="sum")


def squared_hinge_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the squared hinge loss of one-against-all support vector machines over a batch.

    The loss of the challenge's winner (Tang 2013, arXiv 1306.0239, equations 5 and 6): each class
    is +1 or -1 and each logit is to be on that side by a margin of 1. Targets that are
    probabilities mix the loss of the one with that of the other.

    Args:
        logits: float (B, C).
        targets: float (B, C), probabilities; a row's sum is the weight of its example.
    """
    weight = targets.sum(dim=1, keepdim=True)
    right = (1 - logits).clamp_min(0) ** 2
    wrong = (1 + logits).clamp_min(0) ** 2
    return (targets * right + (weight - targets) * wrong).sum()


LOSSES = {"cross_entropy": cross_entropy_sum, "squared_hinge": squared_hinge_sum}
