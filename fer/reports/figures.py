"""Plots of datasets, trainings, studies and labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer.metrics import WITHOUT_COPIES
from fer.reports.plotting import COLORS, GRID_COLOR, TEXT_COLOR, style_axes, to_png
from fer.reports.trials import Trial

LINE_STYLES = ("-", "--")
"""Styles that tell two lines of the same color apart."""

_GAP_PIXELS = 4
"""Space between two faces of a grid."""


def plot_class_counts(counts: Mapping[str, Mapping[str, int]]) -> bytes:
    """Plot the number of examples of each class by split (the paper's Figure 2).

    Args:
        counts: Number of examples by split and class name. Empty splits are left out.
    """
    by_split = {split: row for split, row in counts.items() if any(row.values())}
    class_names = list(next(iter(counts.values())))
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(by_split), 1)
    for index, (split, row) in enumerate(by_split.items()):
        positions = np.arange(len(class_names)) + (index - (len(by_split) - 1) / 2) * width
        label = f"{split} ({sum(row.values()):,})"
        bars = axes.bar(
            positions, list(row.values()), width * 0.92, color=COLORS[index], label=label
        )
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2, color=TEXT_COLOR)
    axes.set_xticks(range(len(class_names)), class_names)
    axes.set_ylabel("examples")
    axes.set_title("Examples by class and split")
    axes.legend(frameon=False)
    style_axes(axes, "y")
    return to_png(figure)


def plot_emotion_counts(emotions: Mapping[str, int], statuses: Mapping[str, int]) -> bytes:
    """Plot the number of faces by predicted emotion, and the number of rows by status."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    emotion_axes, status_axes = figure.subplots(1, 2, width_ratios=(2, 1))
    for axes, counts, color, title in (
        (emotion_axes, emotions, COLORS[0], "Faces by apparent expression"),
        (status_axes, statuses, COLORS[5], "Rows by status"),
    ):
        bars = axes.barh(list(counts), list(counts.values()), color=color)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=3, color=TEXT_COLOR)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(title)
        style_axes(axes, "x")
    return to_png(figure)


def plot_confidences(counts: np.ndarray) -> bytes:
    """Plot a histogram of the faces' confidence.

    Args:
        counts: Number of faces in K bins of equal width from 0 to 1, int (K,).
    """
    figure = Figure(figsize=(8.5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(
        np.arange(len(counts)) / len(counts),
        counts,
        0.9 / len(counts),
        align="edge",
        color=COLORS[0],
    )
    axes.set_xlim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_title("Faces by confidence")
    style_axes(axes, "y")
    return to_png(figure)


def plot_sample_grid(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], columns: int
) -> bytes:
    """Show sample images, one row for each class (the paper's Figure 1).

    Args:
        images: uint8 (N, size, size), or (N, size, size, 3) for color.
        labels: int (N,).
        class_names: Name of each label.
        columns: Largest number of samples of a class.
    """
    present = [label for label in range(len(class_names)) if (labels == label).any()]
    side = images.shape[1] + _GAP_PIXELS
    # One mosaic, because one Axes for each face takes five times as long.
    size = (max(len(present), 1) * side, columns * side, *images.shape[3:])
    mosaic = np.full(size, 255, np.uint8)
    for row, label in enumerate(present):
        for column, image in enumerate(images[labels == label][:columns]):
            top, left = row * side + _GAP_PIXELS // 2, column * side + _GAP_PIXELS // 2
            mosaic[top : top + side - _GAP_PIXELS, left : left + side - _GAP_PIXELS] = image
    figure = Figure(figsize=(columns * 0.8 + 1.2, max(len(present), 1) * 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks(
        [(row + 0.5) * side for row in range(len(present))],
        [class_names[label] for label in present],
    )
    axes.tick_params(length=0, labelcolor=TEXT_COLOR)
    axes.spines[:].set_visible(False)
    return to_png(figure)


def plot_training_curves(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot loss, accuracy and macro-F1 by epoch.

    Args:
        history: For each epoch, a mapping with ``epoch``, ``train_loss``, ``val_loss``,
            ``train_accuracy``, ``val_accuracy`` and ``val_macro_f1``, perhaps also with the scores
            on val without copies of ``train``, which are drawn if they differ.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    # The losses differ: training targets are smoothed and weighted, and training images are moved.
    for name, title, axes, color, line in (
        ("train_loss", "train, against its targets", loss, COLORS[0], "--"),
        ("val_loss", "val, cross-entropy with the labels", loss, COLORS[0], "-"),
        ("train_accuracy", "train accuracy", accuracy, COLORS[0], "--"),
        ("val_accuracy", "val accuracy", accuracy, COLORS[0], "-"),
        ("val_macro_f1", "val macro-F1", accuracy, COLORS[1], "-"),
        *_curves_without_copies(history, accuracy),
    ):
        values = [row.get(name, np.nan) for row in history]
        marker = "o" if len(epochs) < 20 else None
        axes.plot(epochs, values, line, color=color, marker=marker, ms=3, label=title)
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy and macro-F1")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
        style_axes(axes, "both")
    return to_png(figure)


def _curves_without_copies(
    history: Sequence[Mapping[str, Any]], axes: Axes
) -> list[tuple[str, str, Axes, str, str]]:
    """Return the curves of the scores without copies of ``train`` that differ from those with."""
    curves = (
        ("val_accuracy", "val accuracy, without copies", COLORS[0]),
        ("val_macro_f1", "val macro-F1, without copies", COLORS[1]),
    )
    return [
        (name + WITHOUT_COPIES, title, axes, color, ":")
        for name, title, color in curves
        if any(row.get(name + WITHOUT_COPIES, row[name]) != row[name] for row in history)
    ]


def plot_study_curves(trials: Sequence[Trial], metric: str) -> bytes:
    """Plot the score of each trial by epoch and by training time."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    ranked = sorted(trials, key=lambda trial: -trial.best(metric)[metric])
    for rank, trial in enumerate(ranked):
        scores = [epoch[metric] for epoch in trial.history]
        epochs = [epoch["epoch"] for epoch in trial.history]
        style, color = divmod(rank, len(COLORS))
        # Trials beyond the distinct lines share the color of the grid and have no legend.
        is_distinct = style < len(LINE_STYLES)
        line = {
            "color": COLORS[color] if is_distinct else GRID_COLOR,
            "linestyle": LINE_STYLES[style] if is_distinct else "-",
            "zorder": 2.9 - rank / 1000,
            "marker": ".",
        }
        by_epoch.plot(epochs, scores, label=trial.title if is_distinct else None, **line)
        by_time.plot(trial.minutes, scores, **line)
    by_epoch.set(xlabel="epoch", ylabel=metric)
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_time.set(xlabel="training time in minutes")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    for axes in (by_epoch, by_time):
        style_axes(axes, "both")
    return to_png(figure)


def plot_importance(shares: Mapping[str, float], metric: str) -> bytes:
    """Plot the share of each parameter in the importance for a score.

    Args:
        shares: Share of each parameter, the largest first; they sum to 1.
        metric: Name of the score.
    """
    figure = Figure(figsize=(7, 0.5 * len(shares) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(shares), list(shares.values()), color=COLORS[0])
    axes.bar_label(bars, fmt="{:.0%}", fontsize=8, padding=3, color=TEXT_COLOR)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"Relative importance for {metric}")
    style_axes(axes, "x")
    return to_png(figure)
