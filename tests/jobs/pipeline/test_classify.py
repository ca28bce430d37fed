"""The stage that runs networks: its processes and their devices."""

import os

import pyarrow as pa
import pytest
import ray
import torch

from fer.errors import JobError
from fer.models.checkpoint import read_id
from ray_jobs.pipeline.classify import Classifier, Inference, classify


def test_classifying_processes_keep_the_memory_of_a_batch(cluster, checkpoint):
    # Defined inside the function: Ray would import a module-level class from this file.
    class Reporting:
        batch_size = Classifier.batch_size

        def __init__(self, **_):
            pass

        def __call__(self, images):
            thresholds = [os.environ.get("MALLOC_TRIM_THRESHOLD_")] * len(images)
            return images.append_column("threshold", pa.array(thresholds))

    rows = ray.data.from_items([{"row": row} for row in range(3)])
    classified = classify(rows, Inference((str(checkpoint),)), Reporting).take_all()
    assert [int(row["threshold"]) for row in classified] == [2**28] * 3


def test_rejects_a_gpu_that_torch_cannot_use(checkpoint, monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(JobError, match=r"The node 10\.0\.0\.7 offers a GPU that torch cannot use"):
        Classifier([str(checkpoint)], ["none"])


def test_rejects_a_network_that_was_overwritten_during_the_job(checkpoint):
    actual = read_id(str(checkpoint))
    with pytest.raises(JobError, match=f"was conv2-0 when the job began, but is {actual} now"):
        Classifier([str(checkpoint)], ["conv2-0"])
