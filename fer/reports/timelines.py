"""Plots of how the faces of a video change."""

import io
from collections.abc import Sequence

import matplotlib.image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from fer.labels.timeline import Line, Timeline, TurnFace
from fer.reports.plotting import TEXT_COLOR, style_axes, to_png

COLORS = ("#c53030", "#6b7f1a", "#805ad5", "#dd9b20", "#2b6cb0", "#d53f8c", "#718096", "#1f2933")
"""Colors of the classes; they repeat where there are more."""

THUMBNAIL_ZOOM = 0.4
"""Scale of the faces above a track."""


def plot_timeline(timeline: Timeline, class_names: Sequence[str]) -> bytes:
    """Plot the probabilities of each track over time, raw and smoothed, with faces at its turns.

    Args:
        timeline: A video with at least one track.
        class_names: Class of each probability.

    Returns:
        A PNG file.
    """
    lines = timeline.lines
    figure = Figure(figsize=(10, 0.6 + 2.7 * len(lines)), layout="constrained")
    rows = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, line in zip(rows, lines, strict=True):
        _plot_line(axes, line, len(class_names))
        _show_faces(axes, timeline.turn_faces(line, class_names))
        axes.set_ylabel(f"face {line.track}", color=TEXT_COLOR)
    rows[-1].set_xlabel("seconds")
    handles = [rows[0].lines[index] for index in range(len(class_names))]
    figure.legend(
        handles, class_names, loc="outside upper center", ncols=len(class_names), frameon=False
    )
    return to_png(figure)


def _plot_line(axes: Axes, line: Line, num_classes: int) -> None:
    smoothed = line.smoothed()
    for index in range(num_classes):
        color = COLORS[index % len(COLORS)]
        axes.plot(line.seconds, smoothed[:, index], color=color, linewidth=1.8)
    for index in range(num_classes):
        color = COLORS[index % len(COLORS)]
        axes.plot(line.seconds, line.probs[:, index], ".", color=color, markersize=2, alpha=0.35)
    axes.set_ylim(0, 1)
    style_axes(axes, "y")


def _show_faces(axes: Axes, faces: Sequence[TurnFace]) -> None:
    """Show faces above the axes, each from its turn on."""
    for face in faces:
        color = COLORS[face.best % len(COLORS)]
        picture = matplotlib.image.imread(io.BytesIO(face.sample.thumbnail), format="jpeg")
        axes.axvline(face.seconds, color=color, linewidth=0.8, linestyle=":")
        axes.add_artist(
            AnnotationBbox(
                OffsetImage(picture, zoom=THUMBNAIL_ZOOM),
                (face.seconds, 1.0),
                xycoords=("data", "axes fraction"),
                box_alignment=(0.0, -0.05),
                frameon=False,
                annotation_clip=False,
            )
        )
