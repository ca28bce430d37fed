"""Plots of how well networks classify: by class, cost, confidence and condition."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from fer.metrics import Scores
from fer.reports.plotting import COLORS, TEXT_COLOR, style_axes, to_png
from fer.reports.robustness import CLEAN, ConditionScore
from fer.vision.conditions import CONDITIONS, degrade


def plot_confusion_matrix(scores: Scores, title: str) -> bytes:
    """Plot a confusion matrix with counts and shares (the paper's Figures 5 and 6)."""
    confusion = scores.confusion
    names = [class_score.name for class_score in scores.classes]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    axes = figure.subplots()
    matrix = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(confusion.shape):
        share = shares[row, column]
        text = f"{share:.0%}\n{confusion[row, column]:,}"
        color = "white" if share > 0.55 else TEXT_COLOR
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    figure.colorbar(matrix, ax=axes, shrink=0.8, label="share of the true class")
    return to_png(figure)


def plot_recall_by_class(scored: Mapping[str, Scores]) -> bytes:
    """Plot the recall of each class, with 95 % intervals, for several networks."""
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(scored)
    for index, (name, scores) in enumerate(scored.items()):
        recalls = [class_score.recall for class_score in scores.classes]
        values = np.array([recall.value for recall in recalls])
        bounds = [values - [r.low for r in recalls], [r.high for r in recalls] - values]
        # Rounding errors can put a bound on the wrong side of a value of 0 or 1.
        error = np.nan_to_num(np.maximum(bounds, 0))
        positions = np.arange(len(values)) + (index - (len(scored) - 1) / 2) * width
        color = COLORS[index % len(COLORS)]
        axes.bar(positions, values, width * 0.92, color=color, label=name)
        axes.errorbar(positions, values, error, fmt="none", ecolor=TEXT_COLOR, lw=1, capsize=2)
    axes.set_xticks(range(len(values)), [class_score.name for class_score in scores.classes])
    axes.set_ylim(0, 1)
    axes.set_ylabel("recall")
    axes.set_title("Recall by class, with 95 % intervals")
    figure.legend(loc="outside lower center", frameon=False, ncols=3, fontsize=8)
    style_axes(axes, "y")
    return to_png(figure)


def plot_accuracy_by_cost(scored: Mapping[str, Scores], multiply_adds: Mapping[str, int]) -> bytes:
    """Plot the accuracy of several networks, with 95 % intervals, by their multiply-adds.

    Args:
        scored: The scores of each network by name.
        multiply_adds: The multiply-adds of each network for one image, by the same names.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (name, scores) in enumerate(scored.items()):
        accuracy, cost = scores.accuracy, multiply_adds[name] / 1e6
        error = [[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]
        color = COLORS[index % len(COLORS)]
        axes.errorbar(cost, accuracy.value, np.maximum(error, 0), fmt="o", color=color, capsize=3)
        axes.annotate(
            name,
            (cost, accuracy.value),
            (6, 4),
            textcoords="offset points",
            fontsize=8,
            color=color,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.25)
    axes.set(xlabel="million multiply-adds per image", ylabel="accuracy")
    axes.set_title("Accuracy by cost, with 95 % intervals")
    style_axes(axes, "both")
    return to_png(figure)


def plot_reliability(scores: Scores, title: str) -> bytes:
    """Plot accuracy by confidence: a reliability diagram (Guo et al. 2017, arXiv 1706.04599)."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    largest = max(bin_.count for bin_ in scores.bins)
    for bin_ in scores.bins:
        opacity = 0.25 + 0.75 * bin_.count / largest
        axes.bar(
            bin_.low, bin_.accuracy, bin_.high - bin_.low, align="edge", color=COLORS[0],
            alpha=opacity, edgecolor="white",
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], "--", color=TEXT_COLOR, lw=1)
    confidences = [bin_.confidence for bin_ in scores.bins]
    axes.plot(confidences, [bin_.accuracy for bin_ in scores.bins], "o", color=COLORS[1], ms=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    axes.set_title(f"{title}: calibration error {scores.calibration_error:.3f}", fontsize=10)
    style_axes(axes, "both")
    return to_png(figure)


def plot_mistakes(images: np.ndarray, captions: Sequence[str], columns: int = 8) -> bytes:
    """Show misclassified faces uint8 (N, size, size[, 3]), each with a caption of two lines."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(columns * 1.15, rows * 1.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=7, color=TEXT_COLOR)
    return to_png(figure)


def plot_conditions(images: np.ndarray) -> bytes:
    """Show faces uint8 (N, size, size[, 3]) under each of the ``CONDITIONS``, one column a face."""
    # Seeded as images are that have this digest.
    views = [[image, *degrade(image, "0" * 64)] for image in images]
    names = [CLEAN, *(condition.name for condition in CONDITIONS)]
    columns = 9
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(columns * 1.1, rows * (0.3 + 1.0 * len(images))), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, name, *degraded in zip(grid.flat, names, *views, strict=False):
        axes.imshow(np.concatenate(degraded), cmap="gray", vmin=0, vmax=255)
        axes.set_title(name.replace(": ", ":\n"), fontsize=7, color=TEXT_COLOR)
    return to_png(figure)


def plot_robustness(scores: Mapping[str, Sequence[ConditionScore]]) -> bytes:
    """Plot the accuracy of each network under each condition, the clean images first.

    Args:
        scores: The scores under all conditions, by the network's name.
    """
    names = [score.name for score in next(iter(scores.values()))]
    figure = Figure(figsize=(8.5, 0.6 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    for index, (network, conditions) in enumerate(scores.items()):
        color = COLORS[index % len(COLORS)]
        axes.axvline(conditions[0].accuracy, color=color, lw=1, ls="--")
        accuracies = [score.accuracy for score in conditions]
        axes.plot(accuracies, range(len(names)), "o", color=color, ms=5, label=network)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, None), xlabel="accuracy")
    axes.set_title("Faces degraded as in photographs; dashed: as they are", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    style_axes(axes, "both")
    return to_png(figure)
