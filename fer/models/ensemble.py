"""Ensembles of networks: the members' weights, their combined prediction, their checkpoint."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from fer.models.checkpoint import CONFIG, SCHEMA_VERSION, checkpoint_files, read_id

Fusion = Literal["average", "exponential"]
"""How the members are weighted: equally, or by a power of their accuracy."""

POWERS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
"""Candidate powers of a member's accuracy."""


def fusion_weights(probs: np.ndarray, labels: np.ndarray, fusion: Fusion) -> np.ndarray:
    """Return the weight of each member.

    ``exponential`` follows Kim et al. (2016, doi 10.1007/s12193-015-0209-0), whose weights grow
    exponentially with a member's accuracy on ``val``. Here a weight is the member's accuracy to a
    power. The power is the one of ``POWERS`` that gives the ensemble its highest accuracy on the
    same examples; if several do, the smallest.

    Args:
        probs: float (N, K, C), the probabilities of K members.
        labels: int (N,).
        fusion: How to weight the members.

    Returns:
        float (K,), summing to 1.
    """
    members = range(probs.shape[1])
    accuracies = np.array([top1_accuracy(probs[:, member], labels) for member in members])
    powers = (0,) if fusion == "average" else POWERS
    candidates = [(accuracies / accuracies.max()) ** power for power in powers]
    weights = max(
        candidates, key=lambda candidate: top1_accuracy(combine_probs(probs, candidate), labels)
    )
    normalized: np.ndarray = weights / weights.sum()
    return normalized


def combine_probs(probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average the probabilities of K members by weight.

    Args:
        probs: float (N, K, C).
        weights: float (K,), with any positive sum.

    Returns:
        float32 (N, C).
    """
    combined: np.ndarray = np.einsum("nkc,k->nc", probs, weights / weights.sum())
    return combined.astype(np.float32)


def top1_accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of examples whose most probable class is their label.

    Args:
        probs: float (N, C).
        labels: int (N,).
    """
    return float((probs.argmax(axis=1) == labels).mean())


def ensemble_files(
    checkpoints: Sequence[str], weights: Sequence[float]
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an ensemble's checkpoint by name, its own ``config.json`` last.

    Args:
        checkpoints: Locations of the members. A member may be an ensemble itself.
        weights: Weight of each member.
    """
    ids: list[str] = []
    for number, location in enumerate(checkpoints):
        for name, content in checkpoint_files(location):
            yield f"{number}/{name}", content
        ids.append(read_id(location))
    digest = hashlib.sha256(json.dumps([ids, list(weights)]).encode()).hexdigest()
    config = {
        "schema_version": SCHEMA_VERSION,
        "id": f"ensemble-{digest[:12]}",
        "members": [str(number) for number in range(len(checkpoints))],
        "weights": list(weights),
    }
    yield CONFIG, (json.dumps(config, indent=2) + "\n").encode()
