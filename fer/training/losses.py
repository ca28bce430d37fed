"""Loss functions, summed over a batch."""

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the categorical cross entropy of a softmax over a batch, in nats.

    The paper (section 4.2) calls this loss "binary cross entropy (softmax)". It is a sum rather
    than a mean so that the losses of workers with unequal shares of a batch add up.

    Args:
        logits: float (B, C).
        targets: float (B, C), probabilities; a row sums to the weight of its example.
    """
    return F.cross_entropy(logits, targets, reduction="sum")


def squared_hinge_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the squared hinge loss of one-vs-all support vector machines over a batch.

    The winner of the FER2013 challenge used this loss (Tang 2013, arXiv 1306.0239, equations 5 and
    6). Each class has the sign +1 if it is the label and -1 otherwise, and its logit must have that
    sign with a margin of 1. A target between 0 and 1 mixes the losses of both signs.

    Args:
        logits: float (B, C).
        targets: float (B, C), probabilities; a row sums to the weight of its example.
    """
    weight = targets.sum(dim=1, keepdim=True)
    if_positive = (1 - logits).clamp_min(0) ** 2
    if_negative = (1 + logits).clamp_min(0) ** 2
    return (targets * if_positive + (weight - targets) * if_negative).sum()


LOSSES = {"cross_entropy": cross_entropy_sum, "squared_hinge": squared_hinge_sum}
"""Loss functions by the name that ``--loss`` takes."""
