"""Plots of data, training and scores as PNG bytes; no display, no global state."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from fer.metrics import Scores
    from fer.reports.trials import Trial

DPI = 110
INK, PALE = "#1f2933", "#d9dee3"
COLORS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b83280", "#718096")
"""Told apart by the color-blind, too."""

LINES = ("-", "--")
"""What tells two lines of a color apart."""

_GAP = 4
"""Between two faces, in pixels."""


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def class_counts(counts: Mapping[str, Mapping[str, int]]) -> bytes:
    """Plot the number of examples of each class by split (the paper's Figure 2).

    Args:
        counts: Examples by split and class name; a split without any is left out.
    """
    shown = {split: row for split, row in counts.items() if any(row.values())}
    class_names = list(next(iter(counts.values())))
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(shown), 1)
    for index, (split, row) in enumerate(shown.items()):
        places = np.arange(len(class_names)) + (index - (len(shown) - 1) / 2) * width
        label = f"{split} ({sum(row.values()):,})"
        bars = axes.bar(places, list(row.values()), width * 0.92, color=COLORS[index], label=label)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2, color=INK)
    axes.set_xticks(range(len(class_names)), class_names)
    axes.set_ylabel("examples")
    axes.set_title("Examples by class and split")
    axes.legend(frameon=False)
    _quiet(axes, "y")
    return to_png(figure)


def emotion_counts(emotions: Mapping[str, int], statuses: Mapping[str, int]) -> bytes:
    """Plot how many faces seem to express each emotion, and what became of the images."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    named, became = figure.subplots(1, 2, width_ratios=(2, 1))
    for axes, counts, color, title in (
        (named, emotions, COLORS[0], "Faces by apparent expression"),
        (became, statuses, COLORS[5], "Rows by status"),
    ):
        bars = axes.barh(list(counts), list(counts.values()), color=color)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=3, color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(title)
        _quiet(axes, "x")
    return to_png(figure)


def confidences(counts: np.ndarray) -> bytes:
    """Plot how many faces were named how surely: counts int (K,) of as many steps from 0 to 1."""
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
    _quiet(axes, "y")
    return to_png(figure)


def sample_grid(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], columns: int
) -> bytes:
    """Show samples of each class, a class a row (the paper's Figure 1).

    Args:
        images: uint8 (N, 48, 48).
        labels: int (N,).
        class_names: Name of each label.
        columns: Most samples of a class.
    """
    present = [label for label in range(len(class_names)) if (labels == label).any()]
    side = images.shape[1] + _GAP
    # One picture rather than an axis a face, which takes five times as long.
    mosaic = np.full((max(len(present), 1) * side, columns * side), 255, np.uint8)
    for row, label in enumerate(present):
        for column, image in enumerate(images[labels == label][:columns]):
            top, left = row * side + _GAP // 2, column * side + _GAP // 2
            mosaic[top : top + side - _GAP, left : left + side - _GAP] = image
    figure = Figure(figsize=(columns * 0.8 + 1.2, max(len(present), 1) * 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks(
        [(row + 0.5) * side for row in range(len(present))],
        [class_names[label] for label in present],
    )
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return to_png(figure)


def training_curves(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot loss, accuracy and macro-F1 by epoch.

    Args:
        history: For each epoch ``epoch``, ``train_loss``, ``val_loss``, ``train_accuracy``,
            ``val_accuracy`` and ``val_macro_f1``.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    # The losses are not of the same thing: what is learned is smoothed, weighed and moved.
    for name, title, axes, color, line in (
        ("train_loss", "train, of the targets", loss, COLORS[0], "--"),
        ("val_loss", "val, cross entropy of the labels", loss, COLORS[0], "-"),
        ("train_accuracy", "train accuracy", accuracy, COLORS[0], "--"),
        ("val_accuracy", "val accuracy", accuracy, COLORS[0], "-"),
        ("val_macro_f1", "val macro-F1", accuracy, COLORS[1], "-"),
    ):
        values = [row[name] for row in history]
        marker = "o" if len(epochs) < 20 else None
        axes.plot(epochs, values, line, color=color, marker=marker, ms=3, label=title)
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy and macro-F1")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
        _quiet(axes, "both")
    return to_png(figure)


def study_curves(trials: "Sequence[Trial]", select_by: str) -> bytes:
    """Plot the score of each trial by epoch, and by minutes of training."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    ranked = sorted(trials, key=lambda trial: -trial.best(select_by)[select_by])
    for place, trial in enumerate(ranked):
        scores = [epoch[select_by] for epoch in trial.history]
        epochs = [epoch["epoch"] for epoch in trial.history]
        round_, color = divmod(place, len(COLORS))
        is_named = round_ < len(LINES)
        look = {
            "color": COLORS[color] if is_named else PALE,
            "linestyle": LINES[round_] if is_named else "-",
            "zorder": 2.9 - place / 1000,
            "marker": ".",
        }
        by_epoch.plot(epochs, scores, label=trial.title if is_named else None, **look)
        by_time.plot(trial.minutes, scores, **look)
    by_epoch.set(xlabel="epoch", ylabel=select_by)
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_time.set(xlabel="minutes of training")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    for axes in (by_epoch, by_time):
        _quiet(axes, "both")
    return to_png(figure)


def importance(shares: Mapping[str, float], select_by: str) -> bytes:
    """Plot how much of a score each parameter explains, the most important first."""
    figure = Figure(figsize=(7, 0.5 * len(shares) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(shares), list(shares.values()), color=COLORS[0])
    axes.bar_label(bars, fmt="{:.0%}", fontsize=8, padding=3, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"Share of what explains {select_by}")
    _quiet(axes, "x")
    return to_png(figure)


def confusion_matrix(scores: "Scores", title: str) -> bytes:
    """Show which class was taken for which (the paper's Figures 5 and 6): counts and shares."""
    confusion = scores.confusion
    names = [part.name for part in scores.classes]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(confusion.shape):
        share = shares[row, column]
        text = f"{share:.0%}\n{confusion[row, column]:,}"
        color = "white" if share > 0.55 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    return to_png(figure)


def recall_by_class(scored: "Mapping[str, Scores]") -> bytes:
    """Compare the recall of each class, with 95 % intervals, between networks."""
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(scored)
    for index, (name, scores) in enumerate(scored.items()):
        recalls = [part.recall for part in scores.classes]
        values = np.array([recall.value for recall in recalls])
        bounds = [values - [r.low for r in recalls], [r.high for r in recalls] - values]
        # Rounding puts a bound of 0 or 1 a hair inside the value.
        spread = np.nan_to_num(np.maximum(bounds, 0))
        places = np.arange(len(values)) + (index - (len(scored) - 1) / 2) * width
        color = COLORS[index % len(COLORS)]
        axes.bar(places, values, width * 0.92, color=color, label=name)
        axes.errorbar(places, values, spread, fmt="none", ecolor=INK, lw=1, capsize=2)
    axes.set_xticks(range(len(values)), [part.name for part in scores.classes])
    axes.set_ylim(0, 1)
    axes.set_ylabel("recall")
    axes.set_title("Recall by class, with 95 % intervals")
    figure.legend(loc="outside lower center", frameon=False, ncols=3, fontsize=8)
    _quiet(axes, "y")
    return to_png(figure)


def reliability(scores: "Scores", title: str) -> bytes:
    """Plot how often a network is right against how sure it is (Guo et al. 2017)."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    largest = max(part.count for part in scores.bins)
    for part in scores.bins:
        opacity = 0.25 + 0.75 * part.count / largest
        axes.bar(
            part.low, part.accuracy, part.high - part.low, align="edge", color=COLORS[0],
            alpha=opacity, edgecolor="white",
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], "--", color=INK, lw=1)
    confidences, accuracies = zip(*((p.confidence, p.accuracy) for p in scores.bins), strict=True)
    axes.plot(confidences, accuracies, "o", color=COLORS[1], ms=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    axes.set_title(f"{title}: calibration error {scores.calibration_error:.3f}", fontsize=10)
    _quiet(axes, "both")
    return to_png(figure)


def mistakes(images: np.ndarray, captions: Sequence[str], columns: int = 8) -> bytes:
    """Show faces uint8 (N, 48, 48) that were mistaken, each with a caption of two lines."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(columns * 1.15, rows * 1.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=7, color=INK)
    return to_png(figure)


def _quiet(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=PALE, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
