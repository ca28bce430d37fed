"""The Parquet schema of labels: one row a face, and at least one row an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 1

STATUSES = ("ok", "uncertain", "no_face", "unreadable", "too_large", "missing")
"""What became of an image: a named emotion, an abstention, or why there is neither."""

LABEL_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("face", pa.int32()),
        ("box", pa.struct([(side, pa.float32()) for side in ("x", "y", "width", "height")])),
        ("detection_score", pa.float32()),
        ("emotion", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        ("error", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("detector", pa.string(), nullable=False),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True)
class Labeller:
    """What turns probabilities into labels.

    Attributes:
        class_names: Name of each probability.
        model: Id of the checkpoint.
        detector: Id of the detector.
        min_confidence: Below it a row is uncertain and names no emotion.
    """

    class_names: Sequence[str]
    model: str
    detector: str
    min_confidence: float

    def face_columns(self, probs: np.ndarray) -> dict[str, Any]:
        """Return the columns that follow from the probabilities (N, C) of N faces."""
        best, confidence = probs.argmax(axis=1), probs.max(axis=1)
        certain = confidence >= self.min_confidence
        names = np.asarray(self.class_names, object)[best]
        return {
            "emotion": np.where(certain, names, None),
            "confidence": confidence,
            "probabilities": list(probs),
            "status": np.where(certain, "ok", "uncertain"),
        }


@dataclass
class LabelTally:
    """What is counted while labels are written.

    Attributes:
        images: Images that have rows.
        faces: Rows that have probabilities.
        statuses: Rows by status.
        emotions: Rows by emotion.
        ignored: Files that are not images.
        files: The parts that belong to the labels.
    """

    images: int = 0
    faces: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    files: set[str] = field(default_factory=set)
