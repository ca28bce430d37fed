"""The Parquet schema of labels: one row a face, and at least one row an image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """What turns probabilities into rows of labels.

    Attributes:
        class_names: Name of each probability.
        model: Id of the checkpoint.
        detector: Id of the detector.
        min_confidence: Below it a row is uncertain and names no emotion, in [0, 1].
    """

    class_names: Sequence[str]
    model: str
    detector: str
    min_confidence: float

    def row(self, image: dict[str, Any], probs: Sequence[float] | None) -> dict[str, Any]:
        """Return the row of an image that is one face, or that could not be read.

        Args:
            image: Columns of ``LABEL_SCHEMA`` that are known of the image.
            probs: Probability of each class, C of them; None if it could not be read.
        """
        named = {"model": self.model, "detector": self.detector}
        if probs is None:
            return {**image, **named}
        best = int(np.argmax(probs))
        certain = probs[best] >= self.min_confidence
        return {
            **image,
            **named,
            "face": 0,
            "emotion": self.class_names[best] if certain else None,
            "confidence": probs[best],
            "probabilities": probs,
            "status": "ok" if certain else "uncertain",
        }


@dataclass
class LabelTally:
    """What is counted while labels are written.

    Attributes:
        images: Images that have rows.
        statuses: Rows by status.
        emotions: Rows by emotion.
        ignored: Files that are not images.
        files: The parts that belong to the labels.
    """

    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    files: set[str] = field(default_factory=set)

    def add(self, other: "LabelTally") -> None:
        """Add what was counted elsewhere."""
        self.images += other.images
        self.statuses += other.statuses
        self.emotions += other.emotions
        self.ignored += other.ignored
        self.files |= other.files

    @property
    def faces(self) -> int:
        """Faces that the network was asked about."""
        return self.statuses["ok"] + self.statuses["uncertain"]

    @property
    def failed(self) -> int:
        """Images that could not be used."""
        return sum(self.statuses[status] for status in ("unreadable", "too_large", "missing"))
