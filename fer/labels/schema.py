"""The Parquet schema of labels: one row a face, and at least one row an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 1

STATUSES = ("ok", "uncertain", "no_face", "unreadable", "too_large", "missing")
"""What became of an image: a named emotion, an abstention, or why there is neither."""

FAILED = ("unreadable", "too_large", "missing")

SIDES = ("x", "y", "width", "height")
"""What a box consists of, in pixels of the image."""

LABEL_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("face", pa.int32()),
        ("box", pa.struct([(side, pa.float32()) for side in SIDES])),
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
class Labeler:
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

    def rows(self, image: dict[str, Any], probs: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        """Return the rows of an image: one a face, or one that says why there is none.

        Args:
            image: Columns of ``LABEL_SCHEMA`` that are known of the image, and its ``faces``:
                a dictionary of ``box`` and ``detection_score`` each, or None if the image could not
                be read.
            probs: Probability of each class, C of them, for every face.
        """
        faces = image["faces"]
        known = {name: value for name, value in image.items() if name != "faces"}
        known |= {"model": self.model, "detector": self.detector}
        if faces is None:
            return [known]
        if not faces:
            return [{**known, "status": "no_face"}]
        return [
            {**known, "face": number, **face, **self._named(probs[number])}
            for number, face in enumerate(faces)
        ]

    def _named(self, probs: Sequence[float]) -> dict[str, Any]:
        best = int(np.argmax(probs))
        certain = probs[best] >= self.min_confidence
        return {
            "emotion": self.class_names[best] if certain else None,
            "confidence": probs[best],
            "probabilities": probs,
            "status": "ok" if certain else "uncertain",
        }
