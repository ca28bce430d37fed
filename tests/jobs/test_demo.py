"""The whole way once on a local cluster: every job runs, and its output keeps its contract."""

import json

import pyarrow.parquet as pq
import pytest

from ray_jobs.__main__ import main

# Five jobs, most of the time their starts and ends.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(cluster, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "demo"
    assert main(["demo", "--output", str(output), "--num-faces", "100", "--num-epochs", "1"]) == 0
    return output


def test_dataset(demo):
    examples = pq.read_table(demo / "dataset" / "examples")
    assert len(examples) == 100
    assert set(examples["split"].to_pylist()) == {"train", "val", "test"}


def test_labels_have_one_row_an_image(demo):
    labels = pq.read_table(demo / "labels" / "faces")
    assert len(labels) == len(set(labels["image"].to_pylist())) == 100
    assert set(labels["status"].to_pylist()) == {"ok"}


def test_report(demo):
    report = json.loads((demo / "report" / "report.json").read_text())
    assert [each["name"] for each in report["checkpoints"]] == ["shallow", "deep", "ensemble"]


def test_an_output_that_exists(demo, fer):
    run = fer("demo", "--output", demo)
    assert (run.code, "already holds a result" in run.sentence) == (2, True)
