"""The losses that a network can be trained with."""

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def cross_entropy_sum(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Sum the categorical cross entropy of a softmax over a batch, in nats.

    What the paper (section 4.2) calls "binary cross entropy (softmax)". A sum rather than a mean,
    so that workers with unequal parts of a batch add up to the loss of the whole.

    Args:
        logits: float (B, C).
        labels: int64 (B,), 0 to C - 1.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1)
            (Szegedy et al. 2015, arXiv 1512.00567, section 7).
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
