"""The stage that runs networks: in which processes, and on what."""

import os

import pyarrow as pa
import pytest
import ray
import torch

from fer.checkpoint import read_id
from fer.errors import JobError
from ray_jobs.classify import Classifier, classify


def test_its_processes_keep_the_memory_of_a_batch(cluster, checkpoint):
    # Within a function, or other processes would look for it in this file.
    class Telling:
        def __init__(self, **_):
            pass

        def __call__(self, images):
            told = [os.environ.get("MALLOC_TRIM_THRESHOLD_")] * len(images)
            return images.append_column("threshold", pa.array(told))

    rows = ray.data.from_items([{"row": row} for row in range(3)])
    told = classify(rows, [str(checkpoint)], classifier=Telling).take_all()
    assert [int(row["threshold"]) for row in told] == [2**28] * 3


def test_a_gpu_that_torch_cannot_use(checkpoint, monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(JobError, match=r"The node 10\.0\.0\.7 offers a GPU that torch can't use"):
        Classifier([str(checkpoint)], ["none"])


def test_a_network_that_was_overwritten_meanwhile(checkpoint):
    found = read_id(str(checkpoint))
    with pytest.raises(JobError, match=f"was conv2-0 when the job began, and is {found} by now"):
        Classifier([str(checkpoint)], ["conv2-0"])
