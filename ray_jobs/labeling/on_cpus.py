"""The stage that labels chunks on CPUs: one process detects, classifies and writes.

Between stages of their own, chunks would be packed, stored and unpacked, and each CPU would start
several processes. Only a GPU needs that, because several CPUs must detect for it.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ray_jobs.labeling import chunks, write
from ray_jobs.labeling.detect import detect_in_items
from ray_jobs.labeling.labeling import Labeling
from ray_jobs.pipeline import stages
from ray_jobs.pipeline.classify import ChunkClassifier, Inference


def start_process() -> None:
    """Let a process of the cluster start and import this module, while the driver lists images."""
    ray.remote(num_cpus=1)(_do_nothing).remote()


def _do_nothing() -> None:
    pass


def label_chunks(
    opened: ray.data.Dataset, labeling: Labeling, inference: Inference
) -> ray.data.Dataset:
    """Label each chunk; rows become ``Written``.

    Args:
        opened: The chunks, as ``chunks.open_chunks`` returns them.
        labeling: How chunks become files of labels.
        inference: Which network classifies faces.
    """
    classifier = {
        "checkpoints": ray.put(inference.checkpoints),
        "shape": inference.shape,
        "engine": inference.engine,
        "tta": inference.tta,
    }
    return opened.map_batches(
        _label_chunks,
        fn_kwargs={"labeling": labeling, "classifier": classifier},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
    )


def _label_chunks(
    opened: pa.Table, labeling: Labeling, classifier: dict[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    classify = _classifier(**classifier)
    for row in opened.to_pylist():
        items = chunks.items_of(row, labeling.output)
        classified = classify.classify_timed(detect_in_items(items, labeling.detection))
        written = write.write_images(
            row["chunk"], classified, labeling.output, labeling.labeler, labeling.formats
        )
        yield stages.tally_batch(written)


_classifier = lru_cache(maxsize=1)(ChunkClassifier)
"""The network of this process, which it keeps for the next chunks."""
