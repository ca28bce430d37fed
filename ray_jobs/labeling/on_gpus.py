"""The stages that label chunks with GPUs: detect on the CPUs, classify on GPUs, write.

A GPU classifies the faces that several CPUs detect, so it has a process of its own.
"""

import ray.data

from ray_jobs.labeling.detect import detect_faces
from ray_jobs.labeling.labeling import Labeling
from ray_jobs.labeling.write import write_chunks
from ray_jobs.pipeline.classify import ChunkClassifier, Inference, classify


def label_chunks(
    opened: ray.data.Dataset, labeling: Labeling, inference: Inference
) -> ray.data.Dataset:
    """Label chunks as one stream through three stages; rows become ``Written``.

    Args:
        opened: The chunks, as ``chunks.open_chunks`` returns them.
        labeling: How chunks become files of labels.
        inference: Which network classifies faces.
    """
    detected = detect_faces(opened, labeling)
    classified = classify(detected, inference, ChunkClassifier)
    return write_chunks(classified, labeling.output, labeling.labeler, labeling.formats)
