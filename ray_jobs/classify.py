"""The stage that runs networks on faces, apart from the others since it alone waits for torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from fer.predictor import Predictor

BATCH_SIZE = 512
"""Images that are handed to a network's process at once."""

DECODE_CPUS, CLASSIFY_CPUS = 0.25, 0.75
"""What decoding and classifying reserve: together one CPU, so that each CPU runs one of each."""


class Classifier:
    """A process that keeps networks in memory and adds their probabilities to tables of faces.

    It takes a column ``pixels`` (2,304 bytes, or null) away and adds one column a network,
    ``probs_0`` and so on: float32 lists (C,), null where there were no pixels.
    """

    def __init__(self, checkpoints: Sequence[str], *, tta: bool = False) -> None:
        # There is a process for each CPU: threads of its own would get in the others' way.
        torch.set_num_threads(1)
        self.predictors = [Predictor.load(checkpoint) for checkpoint in checkpoints]
        self.tta = tta

    def __call__(self, faces: pa.Table) -> pa.Table:
        """Classify a table of faces."""
        pixels = faces["pixels"].to_pylist()
        known = np.array([face is not None for face in pixels], bool)
        images = np.frombuffer(b"".join(filter(None, pixels)), np.uint8).reshape(-1, 48, 48)
        rest = faces.drop_columns("pixels")
        for index, predictor in enumerate(self.predictors):
            probs: list[Any] = [None] * len(pixels)
            predicted = predictor.predict_probs(images, tta=self.tta)
            for row, values in zip(np.flatnonzero(known), predicted, strict=True):
                probs[row] = values
            column = pa.array(probs, pa.list_(pa.float32()))
            rest = rest.append_column(f"probs_{index}", column)
        return rest


def classify(
    faces: ray.data.Dataset, checkpoints: Sequence[str], *, tta: bool = False
) -> ray.data.Dataset:
    """Add the probabilities of networks to faces, with one ``Classifier`` a CPU of the cluster."""
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    return faces.map_batches(
        Classifier,
        fn_constructor_kwargs={"checkpoints": list(checkpoints), "tta": tta},
        batch_format="pyarrow",
        batch_size=BATCH_SIZE,
        num_cpus=CLASSIFY_CPUS,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, num_cpus)),
    )
