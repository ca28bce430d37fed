"""Several networks that decide together: their weights, their decision, their checkpoint."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from fer.models.checkpoint import CONFIG, SCHEMA_VERSION, checkpoint_files, read_id

Fusion = Literal["average", "exponential"]
"""How members are weighted: alike, or by a power of what each scored."""

POWERS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


def fusion_weights(probs: np.ndarray, labels: np.ndarray, fusion: Fusion) -> np.ndarray:
    """Return the weight of each member.

    After the fusion of Kim et al. (2016, doi 10.1007/s12193-015-0209-0), whose weights grow
    exponentially with a member's accuracy on ``val``: here it is its accuracy to a power, the
    smallest of ``POWERS`` that serves the ensemble best on the same examples.

    Args:
        probs: float (N, K, C) of K members.
        labels: int (N,).
        fusion: How to weigh them.

    Returns:
        float (K,), summing to 1.
    """
    scores = np.array([top1_accuracy(probs[:, member], labels) for member in range(probs.shape[1])])
    powers = (0,) if fusion == "average" else POWERS
    candidates = [(scores / scores.max()) ** power for power in powers]
    weights = max(candidates, key=lambda each: top1_accuracy(combine_probs(probs, each), labels))
    shares: np.ndarray = weights / weights.sum()
    return shares


def combine_probs(probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average members' probabilities float (N, K, C) by weight (K,) to those of all, (N, C)."""
    fused: np.ndarray = np.einsum("nkc,k->nc", probs, weights / weights.sum())
    return fused.astype(np.float32)


def top1_accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of examples whose most probable class, of float (N, C), is their label."""
    return float((probs.argmax(axis=1) == labels).mean())


def ensemble_files(
    checkpoints: Sequence[str], weights: Sequence[float]
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an ensemble's checkpoint by name, its own ``config.json`` last.

    Args:
        checkpoints: Locations of the members, ensembles among them by what they consist of.
        weights: Share of each in the decision.
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
