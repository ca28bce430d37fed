"""The README's way to a cluster: ray job submit."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import ray

from fer.data.dataset import open_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def submit(cluster):
    """Submit a job as the README does, and wait for it."""
    address = f"http://{ray.get_runtime_context().worker.node.address_info['webui_url']}"

    def run(*arguments):
        command = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "-m", "ray_jobs"]
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": address},
            check=False,
            capture_output=True,
            text=True,
        )

    return run


def test_a_submitted_job_ends_with_its_result(submit, sources, dataset, tmp_path):
    output = tmp_path / "data"
    done = submit("ingest", "--source", sources / "fer2013.csv", "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert json.loads(line.removeprefix("RESULT "))["examples"] == 280
    fingerprint = open_dataset(str(dataset)).summary["fingerprint"]
    assert open_dataset(str(output)).summary["fingerprint"] == fingerprint


def test_a_submitted_job_that_fails_says_why(submit):
    done = submit("ingest", "--source", "fer2013.csv", "--output", "/tmp/data")
    assert done.returncode == 1
    assert "fer: --source fer2013.csv is relative" in done.stdout + done.stderr
