"""What the stages of a labeling share."""

from collections.abc import Collection
from dataclasses import dataclass

from fer.labels.schema import Labeler
from ray_jobs.labeling.images import Detection


@dataclass(frozen=True)
class Labeling:
    """How chunks become files of labels.

    Attributes:
        output: Folder of the labels.
        detection: How faces are detected.
        labeler: Turns probabilities into rows of labels.
        formats: Formats to write in addition to Parquet.
    """

    output: str
    detection: Detection
    labeler: Labeler
    formats: Collection[str]
