"""Number the faces in rows of videos, so that a face keeps its number from frame to frame."""

from collections.abc import Iterable, MutableMapping
from itertools import groupby
from typing import Any

from fer.labels.schema import BOX_FIELDS
from fer.vision.tracking import Tracker


def number_faces(rows: Iterable[dict[str, Any]], trackers: MutableMapping[str, Tracker]) -> None:
    """Fill the column ``track`` of rows of ``LABEL_SCHEMA``; rows without a frame have none.

    Args:
        rows: Rows of videos and photographs, those of a video frame by frame.
        trackers: The tracker of each video by its location, which has seen its earlier frames.
    """
    frames = groupby(rows, lambda row: (row["image"], row["frame"], row["time_seconds"]))
    for (image, frame, seconds), group in frames:
        if frame is None:
            continue
        faces = [row for row in group if row["face"] is not None]
        boxes = [_box(row) for row in faces]
        for row, track in zip(faces, trackers[image].update(seconds, boxes), strict=True):
            row["track"] = track


def _box(row: dict[str, Any]) -> list[float]:
    """Return the box of a face; without a detector that is the whole frame."""
    if row["box"] is None:
        return [0.0, 0.0, row["width"], row["height"]]
    return [row["box"][name] for name in BOX_FIELDS]
