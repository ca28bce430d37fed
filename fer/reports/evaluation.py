"""The report on an evaluation: JSON, plots, and one self-contained HTML page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer.data.dataset import Dataset
from fer.metrics import Scores, score
from fer.models import layers
from fer.models.checkpoint import CheckpointConfig, load_checkpoint
from fer.models.networks import build_network
from fer.reports import score_figures
from fer.reports.architecture import draw_architecture
from fer.reports.costs import Cost, measure_cost
from fer.reports.pages import render_page
from fer.reports.robustness import ConditionScore
from fer.vision.shape import FER2013_SHAPE

PAPER_TABLE_1 = {
    "angry": (40.70, 51.24),
    "disgust": (37.5, 57.14),
    "fear": (28.49, 47.41),
    "happy": (77.71, 86.63),
    "sad": (63.61, 54.92),
    "surprise": (67.87, 76.7),
    "neutral": (48.46, 62.45),
    "overall": (56.31, 65.55),
}
"""Table 1 of the paper (Le, Pham and Hoang, Convolutional Neural Networks for Facial Emotion
Recognition, VNU-HCM University of Science) as printed: recognition accuracy in percent of the
shallow and the deep network."""

NUM_MISTAKES = 16
"""Number of misclassified faces that the report shows for each network."""


NUM_SHOWN = 3
"""Number of faces that the report shows under each condition."""


@dataclass(frozen=True)
class Network:
    """A checkpoint to evaluate: one network or an ensemble.

    Attributes:
        name: Name in the report.
        location: Location of the checkpoint.
        id: Id of the checkpoint.
        models: Its networks by title: the architecture's name and the arguments that differ from
            the defaults.
        cost: What it costs to run.
    """

    name: str
    location: str
    id: str
    models: Mapping[str, layers.Network]
    cost: Cost

    @classmethod
    def load(cls, name: str, location: str) -> "Network":
        """Load a checkpoint, so that the report can draw its networks and name their cost."""
        loaded = load_checkpoint(location)
        networks = [build_network(member) for member in loaded.members]
        titles = list(map(_title, loaded.configs))
        cost = measure_cost(loaded)
        return cls(name, location, loaded.id, dict(zip(titles, networks, strict=True)), cost)


def _title(config: CheckpointConfig) -> str:
    defaults, given = dataclasses.asdict(layers.Layers()), config.architecture["arguments"]
    # Dropout does not change the diagram.
    names = [name for name in defaults if name != "dropout" and name in given]
    others = [f"{name} {given[name]}" for name in names if given[name] != defaults[name]]
    shape = [] if config.shape == FER2013_SHAPE else [str(config.shape)]
    return ", ".join([config.architecture["name"], *shape, *others])


@dataclass(frozen=True)
class GroundTruth:
    """The N examples of a split.

    Attributes:
        labels: int (N,).
        digests: SHA-256 of the pixels of each, N strings.
        is_copy: Whether ``train`` holds the same pixels, bool (N,).
    """

    labels: np.ndarray
    digests: Sequence[str]
    is_copy: np.ndarray

    def rows_without_copies(self) -> np.ndarray:
        """Return the indices of the examples that ``train`` does not hold, or of all if it does."""
        return np.flatnonzero(~self.is_copy | self.is_copy.all())


@dataclass(frozen=True)
class Evaluation:
    """The scores of a network on a split.

    Attributes:
        network: The network.
        scores: Its scores.
        without_copies: Its scores without the images that ``train`` holds too.
        mistakes: The M faces that it misclassified most confidently, uint8 (M, size, size[, 3]).
        captions: Label and prediction of each of these.
        robustness: Its scores on faces that conditions degrade, the clean ones first; empty if they
            were not computed.
    """

    network: Network
    scores: Scores
    without_copies: Scores
    mistakes: np.ndarray
    captions: tuple[str, ...]
    robustness: Sequence[ConditionScore] = ()

    @property
    def name(self) -> str:
        """Name of the network in the report."""
        return self.network.name

    def identity(self) -> dict[str, Any]:
        """Return the network's name, location and id."""
        network = self.network
        return {"name": network.name, "checkpoint": network.location, "id": network.id}

    def headline(self) -> dict[str, Any]:
        """Return the network's identity, its accuracy and its macro-F1."""
        return {
            **self.identity(),
            "accuracy": self.scores.accuracy.value,
            "macro_f1": self.scores.macro_f1,
            "accuracy_without_copies": self.without_copies.accuracy.value,
            "macro_f1_without_copies": self.without_copies.macro_f1,
        }


@dataclass(frozen=True)
class EvaluationContext:
    """The data and the settings behind an evaluation's scores.

    Attributes:
        dataset: Location of the dataset.
        fingerprint: Digest of its pixels, labels and splits.
        split: The split that was scored.
        copies_of_train: Number of its examples that ``train`` holds too.
        tta: Whether the prediction was averaged over each image and its mirror image.
        fusion: How the members of the ensemble are weighted; None without an ensemble.
        weights: Weight of each member.
        created: Time of the evaluation in ISO 8601.
    """

    dataset: str
    fingerprint: str
    split: str
    copies_of_train: int
    tta: bool
    fusion: str | None
    weights: tuple[float, ...]
    created: str


def evaluate(network: Network, truth: GroundTruth, probs: np.ndarray, data: Dataset) -> Evaluation:
    """Score a network and read the faces that it misclassified most confidently.

    Args:
        network: The network.
        truth: The N examples.
        probs: Its probabilities, float (N, C).
        data: The dataset, which holds the faces.
    """
    preds, confidence = probs.argmax(axis=1), probs.max(axis=1)
    wrong = np.flatnonzero(preds != truth.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
    names = data.class_names
    captions = tuple(
        f"{names[truth.labels[row]]}\n→ {names[preds[row]]} {confidence[row]:.0%}" for row in worst
    )
    rest = truth.rows_without_copies()
    return Evaluation(
        network,
        score(truth.labels, probs, names),
        score(truth.labels[rest], probs[rest], names),
        data.read_images([truth.digests[row] for row in worst]),
        captions,
    )


def evaluation_report(
    evaluations: Sequence[Evaluation], context: EvaluationContext, faces: np.ndarray
) -> dict[str, bytes]:
    """Return the files of the report by name: the page, ``report.json`` and the plots.

    Args:
        evaluations: The networks' scores.
        context: The data and the settings behind them.
        faces: uint8 (M, size, size[, 3]), faces of the split to show under the conditions.
    """
    pictures = _pictures(evaluations, faces)
    page = _page(evaluations, context, pictures)
    content = {
        "schema_version": 1,
        **dataclasses.asdict(context),
        "checkpoints": [_to_json(evaluation) for evaluation in evaluations],
        "paper_table_1": PAPER_TABLE_1,
    }
    return {
        **{f"pictures/{name}": png for name, png in pictures.items()},
        "index.html": page.encode(),
        "report.json": json.dumps(content, indent=2).encode(),
    }


def _pictures(evaluations: Sequence[Evaluation], faces: np.ndarray) -> dict[str, bytes]:
    scored = {evaluation.name: evaluation.scores for evaluation in evaluations}
    pictures = {"recall.png": score_figures.plot_recall_by_class(scored)}
    if len(evaluations) > 1:
        costs = {item.name: item.network.cost.multiply_adds for item in evaluations}
        pictures["cost.png"] = score_figures.plot_accuracy_by_cost(scored, costs)
    tested = {item.name: item.robustness for item in evaluations if item.robustness}
    if tested:
        pictures["robustness.png"] = score_figures.plot_robustness(tested)
        pictures["conditions.png"] = score_figures.plot_conditions(faces)
    for evaluation in evaluations:
        name, scores = evaluation.name, evaluation.scores
        pictures[f"{name}-confusion.png"] = score_figures.plot_confusion_matrix(scores, name)
        pictures[f"{name}-calibration.png"] = score_figures.plot_reliability(scores, name)
        if len(evaluation.captions):
            pictures[f"{name}-mistakes.png"] = score_figures.plot_mistakes(
                evaluation.mistakes, evaluation.captions
            )
        for title, model in evaluation.network.models.items():
            if (picture := f"{title}-architecture.png") not in pictures:
                pictures[picture] = draw_architecture(model, title)
    return pictures


def _page(
    evaluations: Sequence[Evaluation], context: EvaluationContext, pictures: dict[str, bytes]
) -> str:
    return render_page(
        "evaluation.html",
        pictures,
        evaluations=evaluations,
        paper=PAPER_TABLE_1,
        architectures=[name for name in pictures if name.endswith("-architecture.png")],
        **dataclasses.asdict(context),
    )


def _to_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **evaluation.identity(),
        **dataclasses.asdict(evaluation.network.cost),
        **_scores_to_json(evaluation.scores),
        "without_copies": _scores_to_json(evaluation.without_copies),
        "robustness": [dataclasses.asdict(score) for score in evaluation.robustness],
    }


def _scores_to_json(scores: Scores) -> dict[str, Any]:
    content: dict[str, Any] = _without_nan(dataclasses.asdict(scores))
    return {**content, "confusion": scores.confusion.tolist()}


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Replace nan by None; JSON cannot hold nan, the recall of a class without examples."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
