"""Training on a dataset that is streamed because it does not fit in a worker's memory."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from fer.data.dataset import open_dataset
from fer.training.batches import DeviceExamples

FAST = ("--model", "conv2", "--num-epochs", "3", "--batch-size", "32", "--lr", "0.02", "--no-int8")
STREAMED = ("--memory-limit", "0")


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_each_pass_yields_every_example_once_in_a_new_order(dataset):
    from ray_jobs.training.streaming import train_examples

    data = open_dataset(str(dataset))
    train = data.read_split("train")
    expected = sorted(image.tobytes() for image in train.images)

    def passes(seed):
        examples = train_examples(data, seed)
        return [[bytes(row["image"]) for row in examples.iter_rows()] for _ in range(2)]

    first, second = passes(seed=0)
    assert sorted(first) == sorted(second) == expected
    assert first != second
    # Classes that are adjacent in the files are mixed.
    labels = dict(zip((image.tobytes() for image in train.images), train.labels, strict=True))
    changes = sum(labels[a] != labels[b] for a, b in pairwise(first))
    assert changes > len(first) / 2


@pytest.mark.nightly
@pytest.mark.slow
def test_a_streamed_run_learns_like_one_in_memory(fer, dataset, tmp_path):
    arguments = ("train", "--dataset", dataset, *FAST, "--num-workers", "2")
    streamed = fer(*arguments, *STREAMED, "--output", tmp_path / "streamed")
    resident = fer(*arguments, "--output", tmp_path / "resident")
    assert streamed.result.keys() == resident.result.keys()
    ours, theirs = history(tmp_path / "streamed"), history(tmp_path / "resident")
    assert [epoch["step"] for epoch in ours] == [epoch["step"] for epoch in theirs] == [5, 10, 15]
    assert ours[0].keys() == theirs[0].keys()
    assert ours[-1]["train_loss"] < ours[0]["train_loss"]
    assert ours[-1]["train_loss"] == pytest.approx(theirs[-1]["train_loss"], abs=0.3)
    again = fer(*arguments, "--output", tmp_path / "streamed", "--resume")
    assert again.result["id"] == streamed.result["id"]


def test_workers_share_all_of_val(dataset):
    data = open_dataset(str(dataset))
    val = data.read_split("val")
    parts = [[*data.stream_split("val", 7, rank, 3)] for rank in range(3)]
    assert all(len(part) <= 7 for share in parts for part in share)
    images = np.concatenate([part.images for share in parts for part in share])
    assert sorted(map(bytes, images)) == sorted(map(bytes, val.images))


def test_val_is_told_apart_from_copies_of_train_as_in_memory(dataset_with_copies):
    from ray_jobs.training.streaming import StreamedBatches

    data, recipe, device = open_dataset(str(dataset_with_copies)), None, torch.device("cpu")
    known = data.copies_of_train("val")
    streams = [StreamedBatches(data, recipe, None, None, known, device, rank, 2) for rank in (0, 1)]
    batches = [batch for stream in streams for batch in stream.val_batches()]
    found = {
        bytes(image): is_copy
        for batch in batches
        for image, is_copy in zip(batch.images.numpy(), batch.is_copy.tolist(), strict=True)
    }
    val = data.read_split("val")
    in_memory = DeviceExamples.from_examples(val, 7, device, known)
    expected = zip(map(bytes, val.images), in_memory.is_copy.tolist(), strict=True)
    assert found == dict(expected)
    train = set(map(bytes, data.read_split("train").images))
    assert {image for image, is_copy in found.items() if is_copy} == found.keys() & train
    assert sum(found.values()) == 16


def test_rejects_batches_and_workers_that_streaming_cannot_serve(fer, dataset, tmp_path):
    arguments = ("train", "--dataset", dataset, "--output", tmp_path / "run", *FAST, *STREAMED)
    run = fer(*arguments, "--num-workers", "3")
    assert run.code == 2
    assert run.sentence == (
        "--batch-size 32 is not divisible by 3 workers, which a streamed dataset requires; change "
        "--batch-size or --num-workers, or raise --memory-limit."
    )
    run = fer(*arguments, "--num-workers", "4")
    assert run.code == 2
    assert run.sentence == (
        "4 worker(s) of 1 CPU and 1 CPU for reading need 5 CPU in all, but the cluster has "
        "4; ask for fewer workers or add nodes."
    )
    assert not (tmp_path / "run" / "config.json").exists()
