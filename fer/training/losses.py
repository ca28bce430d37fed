"""How far a network is from what it is asked to say, summed over a batch."""

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


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
