"""Training targets: the probabilities that a network learns for each example."""

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
from fer.training.votes import vote_shares

NO_VOTES = (
    "The dataset has no FER+ votes to learn from; ingest FER2013's CSV file with --votes, or "
    "train without votes."
)


@dataclass(frozen=True)
class TargetBuilder:
    """Builds targets from labels, from FER+ votes and from a trained network, the teacher.

    A target is built in four steps:

    1. Start with the label, smoothed.
    2. Replace the share ``votes_weight`` with the label probabilities estimated from the votes.
    3. Replace the share ``teacher_weight`` of the result with the teacher's probabilities, averaged
       over the image and its mirror image (Hinton et al. 2015, arXiv 1503.02531).
    4. Multiply by the weight of the label's class.

    Attributes:
        recipe: The recipe that fixes the shares.
        weights: float32 (C,), weight of each class.
        vote_model: Estimates label probabilities from votes; None if the recipe uses no votes.
        teacher: The trained network; None if the recipe uses no teacher, or one that sees augmented
            images.
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
        """Fit the class weights and the vote model to a training split, and load the teacher.

        Args:
            recipe: The recipe that fixes the shares.
            labels: int (N,), with each of 0 to C - 1 at least once.
            votes: int8 (N, 10), or None if the dataset has no votes.
            num_classes: C.
            device: Device that runs the teacher.

        Raises:
            InputError: The recipe uses votes and the dataset has none, or the teacher is not a
                checkpoint.
        """
        vote_model = None
        if votes is None:
            if recipe.votes_weight or recipe.votes_head_weight:
                raise InputError(NO_VOTES)
        elif recipe.votes_weight:
            vote_model = VoteModel.fit(votes, labels, num_classes)
        teacher = None
        if recipe.teacher and recipe.teacher_weight and recipe.teacher_view == "original":
            teacher = Predictor.load(recipe.teacher, device.type)
        weights = class_weights(torch.tensor(labels), num_classes, recipe.class_balance)
        return cls(recipe, weights, vote_model, teacher)

    def build_votes(self, examples: Examples) -> Tensor | None:
        """Return the share of each column in the votes float32 (N, 10), or None without a head."""
        if not self.recipe.votes_head_weight:
            return None
        assert examples.votes is not None
        return vote_shares(examples.votes)

    def build(self, examples: Examples) -> Tensor:
        """Return the targets float32 (N, C) of N examples; a row sums to its example's weight."""
        labels = torch.tensor(examples.labels, dtype=torch.int64)
        targets = smoothed_targets(labels, len(self.weights), self.recipe.label_smoothing)
        if self.vote_model:
            assert examples.votes is not None
            vote_probs = torch.tensor(self.vote_model.predict_probs(examples.votes))
            targets = targets.lerp(vote_probs, self.recipe.votes_weight)
        if self.teacher:
            teacher_probs = torch.tensor(self.teacher.predict_probs(examples.images, tta=True))
            targets = targets.lerp(teacher_probs, self.recipe.teacher_weight)
        return targets * self.weights[labels].unsqueeze(1)


def taught_targets(targets: Tensor, teacher_probs: Tensor, teacher_weight: float) -> Tensor:
    """Replace a share of each target with the teacher's probabilities.

    Args:
        targets: float32 (b, C); a row sums to its example's weight, which stays.
        teacher_probs: float32 (b, C); rows sum to 1.
        teacher_weight: The share, from 0 to 1.
    """
    return targets.lerp(teacher_probs * targets.sum(dim=1, keepdim=True), teacher_weight)


def smoothed_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Return one-hot labels with a share of the probability spread evenly over the classes.

    Args:
        labels: int64 (N,), 0 to C - 1.
        num_classes: C.
        label_smoothing: The share to spread, in [0, 1) (Szegedy et al. 2015, arXiv 1512.00567,
            section 7).

    Returns:
        float32 (N, C); rows sum to 1.
    """
    even = label_smoothing / num_classes
    return F.one_hot(labels, num_classes).float() * (1 - label_smoothing) + even


def class_weights(labels: Tensor, num_classes: int, balance: float) -> Tensor:
    """Return the weight of each class: its number of examples to the power of ``-balance``.

    Args:
        labels: int64 (N,), 0 to C - 1.
        num_classes: C.
        balance: 0 weights all examples equally, 1 weights all classes equally.

    Returns:
        float32 (C,), scaled so that the mean weight of the examples is 1; 0 for a class without
        examples.
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    weights = counts.clamp_min(1) ** -balance * (counts > 0)
    return weights * (len(labels) / (weights * counts).sum())
