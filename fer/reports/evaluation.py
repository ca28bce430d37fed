"""The report of an evaluation: JSON, pictures, and one HTML page that opens from disk."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from fer.data.dataset import Dataset
from fer.metrics import Scores, score
from fer.models.checkpoint import load_checkpoint
from fer.models.layers import Layers
from fer.reports import figures
from fer.reports.architecture import draw_architecture
from fer.reports.pages import render_page

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
Recognition, VNU-HCM University of Science) as printed: recognition accuracy in percent, shallow and
deep network."""

NUM_MISTAKES = 16
"""Faces in the gallery of a network's surest mistakes."""


@dataclass(frozen=True)
class Network:
    """What is evaluated.

    Attributes:
        name: What the report calls it.
        location: Where its checkpoint is.
        id: Its id.
        models: Its networks by their architecture: its name, and what differs from the defaults.
    """

    name: str
    location: str
    id: str
    models: Mapping[str, nn.Module]

    @classmethod
    def load(cls, name: str, location: str) -> "Network":
        """Load a checkpoint for the report to draw."""
        loaded = load_checkpoint(location)
        names = [_title(config.architecture) for config in loaded.configs]
        return cls(name, location, loaded.id, dict(zip(names, loaded.models, strict=True)))


def _title(architecture: Mapping[str, Any]) -> str:
    defaults, given = dataclasses.asdict(Layers()), architecture["arguments"]
    # Dropout leaves the drawing as it is.
    names = [name for name in defaults if name != "dropout" and name in given]
    others = [f"{name} {given[name]}" for name in names if given[name] != defaults[name]]
    return ", ".join([architecture["name"], *others])


@dataclass(frozen=True)
class Truth:
    """The examples that were predicted.

    Attributes:
        labels: int (N,).
        digests: SHA-256 of each, N strings.
    """

    labels: np.ndarray
    digests: Sequence[str]


@dataclass(frozen=True)
class Evaluation:
    """What a network scored on a split.

    Attributes:
        network: What was evaluated.
        scores: What it scored.
        mistakes: Its surest mistakes: faces uint8 (M, 48, 48).
        captions: What each of these is, and what it was taken for.
    """

    network: Network
    scores: Scores
    mistakes: np.ndarray
    captions: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the report calls the network."""
        return self.network.name

    def headline(self) -> dict[str, Any]:
        """Return the name, location and id of the network, its accuracy and macro-F1."""
        return {
            "name": self.name,
            "checkpoint": self.network.location,
            "id": self.network.id,
            "accuracy": self.scores.accuracy.value,
            "macro_f1": self.scores.macro_f1,
        }


@dataclass(frozen=True)
class Circumstances:
    """How the scores came about.

    Attributes:
        dataset: Location of the dataset.
        fingerprint: Digest of its pixels, labels and splits.
        split: The split that was scored.
        tta: Whether each image was averaged with its mirror image.
        fusion: How the members of the ensemble are weighed; None without one.
        weights: Share of each in the decision.
        created: When, in ISO 8601.
    """

    dataset: str
    fingerprint: str
    split: str
    tta: bool
    fusion: str | None
    weights: tuple[float, ...]
    created: str


def evaluate(network: Network, truth: Truth, probs: np.ndarray, data: Dataset) -> Evaluation:
    """Score a network's probabilities float (N, C), and fetch the faces that it mistook."""
    preds, confidence = probs.argmax(axis=1), probs.max(axis=1)
    wrong = np.flatnonzero(preds != truth.labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
    names = data.class_names
    captions = tuple(
        f"{names[truth.labels[row]]}\n→ {names[preds[row]]} {confidence[row]:.0%}" for row in surest
    )
    scores = score(truth.labels, probs, names)
    return Evaluation(
        network, scores, data.read_images([truth.digests[row] for row in surest]), captions
    )


def evaluation_report(
    evaluations: Sequence[Evaluation], circumstances: Circumstances
) -> dict[str, bytes]:
    """Return the report's files by name: ``index.html``, pictures, ``report.json``."""
    pictures = _pictures(evaluations)
    page = _page(evaluations, circumstances, pictures)
    content = {
        "schema_version": 1,
        **dataclasses.asdict(circumstances),
        "checkpoints": [_to_json(evaluation) for evaluation in evaluations],
        "paper_table_1": PAPER_TABLE_1,
    }
    return {
        **{f"pictures/{name}": png for name, png in pictures.items()},
        "index.html": page.encode(),
        "report.json": json.dumps(content, indent=2).encode(),
    }


def _pictures(evaluations: Sequence[Evaluation]) -> dict[str, bytes]:
    scored = {evaluation.name: evaluation.scores for evaluation in evaluations}
    pictures = {"recall.png": figures.recall_by_class(scored)}
    for evaluation in evaluations:
        name, scores = evaluation.name, evaluation.scores
        pictures[f"{name}-confusion.png"] = figures.confusion_matrix(scores, name)
        pictures[f"{name}-calibration.png"] = figures.reliability(scores, name)
        if len(evaluation.captions):
            pictures[f"{name}-mistakes.png"] = figures.mistakes(
                evaluation.mistakes, evaluation.captions
            )
        for title, model in evaluation.network.models.items():
            if (picture := f"{title}-architecture.png") not in pictures:
                pictures[picture] = draw_architecture(model, title)
    return pictures


def _page(
    evaluations: Sequence[Evaluation], circumstances: Circumstances, pictures: dict[str, bytes]
) -> str:
    return render_page(
        "evaluation.html",
        pictures,
        evaluations=evaluations,
        paper=PAPER_TABLE_1,
        architectures=[name for name in pictures if name.endswith("-architecture.png")],
        **dataclasses.asdict(circumstances),
    )


def _to_json(evaluation: Evaluation) -> dict[str, Any]:
    scores = dataclasses.asdict(evaluation.scores)
    confusion = scores.pop("confusion").tolist()
    # The headline's accuracy and macro-F1 give way to those with their intervals.
    return {**evaluation.headline(), **_without_nan(scores), "confusion": confusion}


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Turn what JSON can't say, the recall of a class without examples, into null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value
