"""What a network is asked to say of each example."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from fer.data.dataset import Examples
from fer.data.ferplus import VoteModel
from fer.errors import InputError
from fer.models.predictor import Predictor
from fer.training.recipe import Recipe

NO_VOTES = (
    "The dataset has no FER+ votes to learn from: ingest FER2013's CSV file with --votes, or do "
    "without them."
)


@dataclass(frozen=True)
class TargetBuilder:
    """What a label, ten people's votes and a trained network ask another network to say.

    The label, smoothed; in the share of ``votes_weight`` what the votes make of it; of that in turn
    in the share of ``teacher_weight`` what the teacher says of the image and its mirror image
    (Hinton et al. 2015, arXiv 1503.02531); and all of it times the weight of the label's class.

    Attributes:
        recipe: Fixes the shares.
        weights: float32 (C,), of each class.
        vote_model: Knows what votes say of labels, where they are asked.
        teacher: Says how probable each class is, where it is asked.
    """

    recipe: Recipe
    weights: Tensor
    vote_model: VoteModel | None
    teacher: Predictor | None

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        labels: np.ndarray,
        votes: np.ndarray | None,
        num_classes: int,
        device: torch.device,
    ) -> "TargetBuilder":
        """Learn from a training split what a recipe asks for.

        Args:
            recipe: Fixes the shares.
            labels: int (N,), each of 0 to C - 1 at least once.
            votes: int8 (N, 10); None if there are none.
            num_classes: C.
            device: Runs the teacher.

        Raises:
            InputError: There are no votes though the recipe wants them, or the teacher is no
                checkpoint.
        """
        vote_model = None
        if recipe.votes_weight:
            if votes is None:
                raise InputError(NO_VOTES)
            vote_model = VoteModel.fit(votes, labels, num_classes)
        is_taught = recipe.teacher and recipe.teacher_weight
        teacher = Predictor.load(str(recipe.teacher), device) if is_taught else None
        weights = class_weights(torch.tensor(labels), num_classes, recipe.class_balance)
        return cls(recipe, weights, vote_model, teacher)

    def build(self, examples: Examples) -> Tensor:
        """Return the targets float32 (N, C) of N examples: a row's sum is its example's weight."""
        known = torch.tensor(examples.labels, dtype=torch.int64)
        targets = smoothed_targets(known, len(self.weights), self.recipe.label_smoothing)
        if self.vote_model:
            assert examples.votes is not None
            said = torch.tensor(self.vote_model.predict_probs(examples.votes))
            targets = targets.lerp(said, self.recipe.votes_weight)
        if self.teacher:
            said = torch.tensor(self.teacher.predict_probs(examples.images, tta=True))
            targets = targets.lerp(said, self.recipe.teacher_weight)
        return targets * self.weights[known].unsqueeze(1)


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
