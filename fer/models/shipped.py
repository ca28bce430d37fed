"""The checkpoints that the package ships, by name; it does without torch, which flags wait for."""

from pathlib import Path

SHIPPED = {"bundled": Path(__file__).parents[1] / "weights"}
"""Folder of each checkpoint, by the name that stands for its location. The README in a folder is
the network's model card."""
