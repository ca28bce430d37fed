"""The README's way to a cluster: ray job submit."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from fer.data.dataset import open_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def submitted(cluster, sources, tmp_path_factory):
    """What two jobs ended with that were submitted as the README does, one with a mistake."""
    address = f"http://{ray.get_runtime_context().worker.node.address_info['webui_url']}"
    output = tmp_path_factory.mktemp("submitted") / "data"
    ingests = {
        "good": ("--source", sources / "fer2013.csv", "--output", output),
        "bad": ("--source", "fer2013.csv", "--output", "/tmp/data"),
    }
    command = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "-m", "ray_jobs"]

    def run(flags):
        return subprocess.run(
            [*command, "ingest", *map(str, flags)],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": address},
            check=False,
            capture_output=True,
            text=True,
        )

    with ThreadPoolExecutor(2) as at_once:
        return output, dict(zip(ingests, at_once.map(run, ingests.values()), strict=True))


def test_a_submitted_job_ends_with_its_result(submitted, dataset):
    output, done = submitted[0], submitted[1]["good"]
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert json.loads(line.removeprefix("RESULT "))["examples"] == 280
    fingerprint = open_dataset(str(dataset)).summary["fingerprint"]
    assert open_dataset(str(output)).summary["fingerprint"] == fingerprint


def test_a_submitted_job_that_fails_says_why(submitted):
    done = submitted[1]["bad"]
    assert done.returncode == 1
    assert "fer: --source fer2013.csv is a relative path" in done.stdout + done.stderr
