"""The README's way to a cluster: ray job submit."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import yaml

from fer.data.dataset import open_dataset

ROOT = Path(__file__).parents[2]
CRON_JOB = ROOT / "deploy" / "kubernetes" / "overlays" / "standing" / "cron-job.yaml"


def dashboard():
    return f"http://{ray.get_runtime_context().worker.node.address_info['webui_url']}"


@pytest.fixture(scope="module")
def submitted(cluster, sources, tmp_path_factory):
    """What two jobs ended with that were submitted as the README does, one with a mistake."""
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
            env={**os.environ, "RAY_ADDRESS": dashboard()},
            check=False,
            capture_output=True,
            text=True,
        )

    with ThreadPoolExecutor(2) as at_once:
        return output, dict(zip(ingests, at_once.map(run, ingests.values()), strict=True))


@pytest.mark.slow
def test_a_submitted_job_ends_with_its_result(submitted, dataset):
    output, done = submitted[0], submitted[1]["good"]
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert json.loads(line.removeprefix("RESULT "))["examples"] == 280
    fingerprint = open_dataset(str(dataset)).summary["fingerprint"]
    assert open_dataset(str(output)).summary["fingerprint"] == fingerprint


@pytest.mark.slow
def test_a_submitted_job_that_fails_says_why(submitted):
    done = submitted[1]["bad"]
    assert done.returncode == 1
    assert "fer: --source fer2013.csv is a relative path" in done.stdout + done.stderr


# Every night, on Kubernetes: the script of the CronJob, with other locations.


@pytest.fixture
def night(cluster, programs, sources, tmp_path):
    """Run a night under the name of its Kubernetes job; return its exit code and its results."""
    job = yaml.safe_load(CRON_JOB.read_text())["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    labels = tmp_path / "labels"
    script = container["args"][0].replace("s3://bucket/labels", f"{labels} --detector none")
    address = dashboard()

    # As on Kubernetes, a pod that fails is followed by others.
    def run(name, images=sources / "faces.zip", num_pods=1 + job["backoffLimit"]):
        for _ in range(num_pods):
            done = subprocess.run(
                [*container["command"], script.replace("s3://bucket/photos", str(images))],
                env={**os.environ, "RAY_ADDRESS": address, "SUBMISSION_ID": name},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                break
            # What pytest shows if the test fails.
            print(done.stdout[-4000:], done.stderr[-4000:])
        results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        return done.returncode, [json.loads(line.removeprefix("RESULT ")) for line in results]

    return run


@pytest.mark.slow
def test_nights_label_first_all_then_what_is_new_and_try_again_by_name(night):
    code, (first,) = night("fer-nightly-1")
    assert code == 0
    assert first["labeled"] == first["images"] > 0
    # A second pod of the same night follows the job of the first, and submits none.
    assert night("fer-nightly-1") == (0, [first])
    code, (second,) = night("fer-nightly-2")
    assert code == 0
    assert (second["labeled"], second["images"]) == (0, first["images"])


@pytest.mark.slow
def test_a_night_that_fails_ends_its_pod_with_an_error(night, tmp_path):
    assert night("fer-nightly-3", tmp_path / "none.zip", num_pods=1) == (1, [])
