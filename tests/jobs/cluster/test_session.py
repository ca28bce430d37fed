"""Jobs on several nodes that share only a bucket: lost nodes, stopped jobs, autoscaling, tokens."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter

import pyarrow.parquet as pq
import pytest
from nodes import ROOT, Autoscaled, Nodes

from fer import storage
from fer.data.synthetic import draw_faces
from fer.storage import listing

# Each test starts its own cluster, which takes about ten seconds.
pytestmark = pytest.mark.slow

NUM_IMAGES = 400


@pytest.fixture(scope="module")
def bucket(s3, png, save_network, dataset, tmp_path_factory):
    """Images, a network and a dataset, in a bucket that all nodes can reach."""
    images, _ = draw_faces(NUM_IMAGES, seed=6)
    for number, image in enumerate(images):
        s3.put_object(Bucket="open", Key=f"nodes/in/{number:03d}.png", Body=png(image))
    folder = tmp_path_factory.mktemp("network")
    save_network(folder, with_graph=True)
    for place, prefix in ((folder, "nodes/network"), (dataset, "nodes/data")):
        for file in place.rglob("*"):
            if file.is_file():
                key = f"{prefix}/{file.relative_to(place)}"
                s3.put_object(Bucket="open", Key=key, Body=file.read_bytes())
    return "s3://open/nodes"


@pytest.fixture
def label(bucket, request):
    """The arguments of a label job, with an output of its own in the bucket."""
    output = f"s3://open/out/{request.node.name}"
    flags = ["label", "--images", f"{bucket}/in", "--checkpoint", f"{bucket}/network"]
    return [*flags, "--detector", "none", "--engine", "float32", "--output", output]


def num_files(output):
    return len(listing.child_names(f"{output}/faces"))


def wait_for(condition, process=None, seconds=200):
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


def finish(process, seconds=300):
    output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1].removeprefix("RESULT ")), errors


def check_rows(output):
    """Check that every image has exactly one row."""
    store, path = storage.filesystem(f"{output}/faces")
    rows = Counter(pq.read_table(path, filesystem=store, columns=["image"])["image"].to_pylist())
    assert (len(rows), set(rows.values())) == (NUM_IMAGES, {1})


def test_label_survives_a_lost_node_and_uses_a_new_one(label, tmp_path):
    """Nodes share only the bucket, and leave nothing in their own folders."""
    output = label[-1]
    with Nodes(tmp_path) as nodes:
        for name in ("one", "two", "three"):
            nodes.add(name)
        (tmp_path / "driver").mkdir()
        process = nodes.job(*label, cwd=tmp_path / "driver")
        wait_for(lambda: num_files(output) >= 2, process)
        nodes.kill("two")
        nodes.add("four")
        result, _ = finish(process)
    assert (result["images"], result["failed"]) == (NUM_IMAGES, 0)
    check_rows(output)
    assert not [*(tmp_path / "driver").iterdir()]
    assert not [*tmp_path.rglob("*.parquet")]


@pytest.mark.nightly
def test_two_jobs_share_a_cluster(bucket, label, tmp_path):
    """Two train jobs that each need the whole cluster and a label job: all finish."""
    train = ["train", "--dataset", f"{bucket}/data", "--model", "shallow", "--num-epochs", "2"]
    train += ["--no-int8"]
    train += ["--batch-size", "32", "--lr", "0.02", "--num-workers", "2", "--cpus-per-worker", "1"]
    with Nodes(tmp_path) as nodes:
        nodes.add("one")
        nodes.add("two")
        first = nodes.job(*train, "--output", "s3://open/out/first")
        second = nodes.job(*train, "--output", "s3://open/out/second")
        third = nodes.job(*label)
        scores = [finish(process)[0] for process in (first, second)]
        result, _ = finish(third)
    assert scores[0]["val_accuracy"] == pytest.approx(scores[1]["val_accuracy"], abs=0.1)
    assert result["images"] == NUM_IMAGES


def test_a_job_that_ended_with_its_head_is_resumed(label, tmp_path):
    output = label[-1]
    with Nodes(tmp_path) as nodes:
        nodes.add("one")
        process = nodes.job(*label)
        wait_for(lambda: num_files(output) >= 2, process)
        nodes.kill("head")
        nodes.kill("one")
        process.kill()
        process.communicate()
        assert not storage.exists(f"{output}/summary.json")
        done = num_files(output)
        nodes.start_head()
        nodes.add("one")
        result, _ = finish(nodes.job(*label, "--resume"))
    assert done > 0
    assert result["images"] == NUM_IMAGES
    assert result["labeled"] < NUM_IMAGES
    check_rows(output)


# Submitted.


def submit(nodes, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments],
        cwd=ROOT,
        env={**nodes.environment, "RAY_API_SERVER_ADDRESS": nodes.dashboard, **environment},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.nightly
def test_a_stopped_job_is_resumed_under_another_id(label, tmp_path):
    output, submitted = label[-1], ["submit", "--working-dir", ".", "--submission-id"]
    job = ["--", "python", "-m", "ray_jobs", *label]
    with Nodes(tmp_path, has_dashboard=True) as nodes:
        nodes.add("one")
        begun = submit(nodes, *submitted, "label-1", "--no-wait", *job)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        wait_for(lambda: num_files(output) >= 2)
        again = submit(nodes, *submitted, "label-1", "--no-wait", *job)
        assert again.returncode != 0
        assert "label-1 already exists" in again.stdout + again.stderr
        submit(nodes, "stop", "label-1")
        assert "was stopped" in submit(nodes, "status", "label-1").stdout
        assert not storage.exists(f"{output}/summary.json")
        done = submit(nodes, *submitted, "label-2", *job, "--resume")
        assert done.returncode == 0, done.stdout[-3000:]
        logs = submit(nodes, "logs", "label-2").stdout
    (line,) = [line for line in logs.splitlines() if line.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    assert result["images"] == NUM_IMAGES
    assert result["labeled"] < NUM_IMAGES
    check_rows(output)


def test_a_client_without_the_token_is_refused(tmp_path):
    token = "s3cret-of-thirty-two-letters-000"
    credentials = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with Nodes(tmp_path, has_dashboard=True, **credentials) as nodes:
        command = ["submit", "--", "echo", "ran"]
        for stranger in (
            {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""},
            {**credentials, "RAY_AUTH_TOKEN": "wrong" * 8},
        ):
            refused = submit(nodes, *command, **stranger)
            assert refused.returncode != 0
            assert "ran" not in refused.stdout.splitlines()
            joined = join(nodes, **stranger)
            assert joined.returncode != 0
            assert "joined" not in joined.stdout
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{nodes.dashboard}/api/jobs/")
        accepted = submit(nodes, *command)
        assert accepted.returncode == 0, accepted.stdout + accepted.stderr
        assert "ran" in accepted.stdout


def join(nodes, **environment):
    """Join the cluster as a driver."""
    return subprocess.run(
        [sys.executable, "-c", "import ray; ray.init(); print('joined')"],
        env={**nodes.environment, **environment, "RAY_ADDRESS": nodes.address},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Autoscaled, with the node types of cluster.yaml.


@pytest.fixture(scope="module")
def autoscaled(s3_server, tmp_path_factory):
    with Autoscaled(tmp_path_factory.mktemp("autoscaled")) as nodes:
        yield nodes


def num_workers(nodes):
    """Return the number of nodes other than the head."""
    code = (
        "import ray; ray.init(logging_level=50, log_to_driver=False); "
        "print([n['Resources'] for n in ray.nodes() if n['Alive']])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**nodes.environment, "RAY_ADDRESS": nodes.address},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.count("'CPU'")


def test_nodes_are_added_for_a_job_and_removed_after_it(autoscaled, label):
    assert num_workers(autoscaled) == 0
    result, errors = finish(autoscaled.job(*label))
    assert result["images"] == NUM_IMAGES
    assert "Waiting for resources: Tasks and networks need 1 x (1 CPU); " in errors
    assert num_workers(autoscaled) > 0
    wait_for(lambda: num_workers(autoscaled) == 0, seconds=90)
    check_rows(label[-1])


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        (("--num-workers", "9", "--use-gpu"), "9 x (1 CPU, 1 GPU)"),
        (("--num-workers", "1", "--cpus-per-worker", "3"), "1 x (3 CPU)"),
    ],
    ids=["more nodes than allowed", "larger than a node"],
)
def test_impossible_requests_are_refused_at_once(autoscaled, bucket, flags, needed):
    arguments = ("train", "--dataset", f"{bucket}/data", "--output", "s3://open/out/never")
    start = time.monotonic()
    process = autoscaled.job(*arguments, *flags)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors[-2000:]
    (sentence,) = [line for line in errors.splitlines() if line.startswith("fer: ")]
    assert f"worker(s) need {needed} at the same time, but this cluster cannot have" in sentence
    assert time.monotonic() - start < 60
    assert "Traceback" not in errors
