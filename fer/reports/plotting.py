"""The look of all plots, and their PNG files, made without a display or global state."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 110

TEXT_COLOR, GRID_COLOR = "#1f2933", "#d9dee3"

COLORS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b83280", "#718096")
"""Colors that color-blind readers can tell apart."""


def to_png(figure: Figure) -> bytes:
    """Render a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def style_axes(axes: Axes, grid: str) -> None:
    """Remove the frame at the top and right, and draw grid lines for ``x``, ``y`` or ``both``."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID_COLOR, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
