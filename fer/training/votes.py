"""A second last layer, which learns the FER+ votes beside the labels and is then dropped.

Votes and labels contradict each other for a third of FER2013's images, so votes in the target teach
another task. Here they only shape what the layers before learn (Caruana 1997, doi
10.1023/A:1007379606734).
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from fer.data.dataset import NUM_VOTES
from fer.models.layers import Network


class TwoHeaded(nn.Module):
    """A network with a second last layer, which sees what its own last layer sees.

    Attributes:
        network: The network.
        votes: The second layer; it computes logits of the ten columns of votes.
    """

    def __init__(self, network: Network) -> None:
        """Add a new layer to a network."""
        super().__init__()
        self.network = network
        self.votes = nn.Linear(network.last_layer.in_features, NUM_VOTES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images float (B, C, S, S) to logits of classes (B, C) and of votes (B, 10)."""
        seen: list[Tensor] = []
        hook = self.network.last_layer.register_forward_pre_hook(
            lambda _layer, inputs: seen.append(inputs[0])
        )
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        return logits, self.votes(seen[0])


def network_in(model: nn.Module) -> nn.Module:
    """Return a network without the second layer and the wrapper of data parallelism around it."""
    inner = getattr(model, "module", model)
    return inner.network if isinstance(inner, TwoHeaded) else inner


def vote_shares(votes: np.ndarray) -> Tensor:
    """Return the share of each column in an image's votes.

    Args:
        votes: int8 (N, 10).

    Returns:
        float32 (N, 10); rows sum to 1, or to 0 for an image without votes.
    """
    counts = torch.tensor(votes, dtype=torch.float32)
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)


def votes_loss_sum(logits: Tensor, shares: Tensor) -> Tensor:
    """Sum the cross entropy of votes over a batch, in nats.

    Args:
        logits: float (B, 10).
        shares: float (B, 10), as ``vote_shares`` returns them.
    """
    return F.cross_entropy(logits.float(), shares, reduction="sum")
