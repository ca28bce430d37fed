"""The Parquet schema of labels: one row for each face, and at least one for each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fer.data.kinds import is_video

SCHEMA_VERSION = 1

STATUSES = ("ok", "uncertain", "no_face", "unreadable", "too_large", "missing")
"""Outcomes of a row: an emotion, an abstention, or the reason why there is neither."""

FAILED_STATUSES = ("unreadable", "too_large", "missing")
"""Statuses of images that could not be used."""

BOX_FIELDS = ("x", "y", "width", "height")
"""Fields of a face's box, in pixels of the upright image."""

LABEL_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("frame", pa.int64()),
        ("time_seconds", pa.float64()),
        ("track", pa.int32()),
        ("face", pa.int32()),
        ("box", pa.struct([(name, pa.float32()) for name in BOX_FIELDS])),
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
        ("engine", pa.string()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)


def is_of_video(row: Mapping[str, Any]) -> bool:
    """Tell whether a row of ``LABEL_SCHEMA`` is about a video, or a frame of an animated image."""
    return row["frame"] is not None or is_video(row["image"])


@dataclass(frozen=True)
class Labeler:
    """Converts the probabilities of an image's faces to rows of labels.

    Attributes:
        class_names: Class of each probability.
        model: Id of the checkpoint.
        detector: Id of the detector.
        min_confidence: Faces with a lower confidence, in [0, 1], are uncertain and get no emotion.
    """

    class_names: Sequence[str]
    model: str
    detector: str
    min_confidence: float

    def rows(self, image: dict[str, Any], probs: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        """Return one row for each face of an image, or one row that says why there is none.

        Args:
            image: The columns of ``LABEL_SCHEMA`` that describe the image, and ``faces``: a list of
                dictionaries with ``box`` and ``detection_score``, or None if the image could not be
                read. Every row gets its ``error``, which may say what an image that was used lacks.
            probs: The C class probabilities of each face.
        """
        faces = image["faces"]
        shared = {name: value for name, value in image.items() if name != "faces"}
        shared |= {"model": self.model, "detector": self.detector}
        if faces is None:
            return [shared]
        if not faces:
            return [{**shared, "status": "no_face"}]
        return [
            {**shared, "face": index, **face, **self._label(probs[index])}
            for index, face in enumerate(faces)
        ]

    def _label(self, probs: Sequence[float]) -> dict[str, Any]:
        best = int(np.argmax(probs))
        is_certain = probs[best] >= self.min_confidence
        return {
            "emotion": self.class_names[best] if is_certain else None,
            "confidence": probs[best],
            "probabilities": probs,
            "status": "ok" if is_certain else "uncertain",
        }
