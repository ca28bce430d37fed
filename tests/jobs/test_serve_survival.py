"""What replicas withstand under load: a killed one, other checkpoints, more and less of it."""

import json
import os
import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
import ray
import yaml
from conftest import free_ports
from ray import serve
from ray.util.state import list_actors

from fer.models.checkpoint import read_config

FILE = Path(__file__).parents[2] / "serve.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("serve")
    for seed in (0, 1):
        save_network(folder / str(seed), "conv2", seed=seed, with_graph=True)
    return [str(folder / "0"), str(folder / "1")]


@pytest.fixture(scope="module")
def address(cluster):
    (port,) = free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def dashboard(cluster):
    return f"http://{ray.get_runtime_context().worker.node.address_info['webui_url']}"


@pytest.fixture
def deploy(dashboard, address, tmp_path):
    """Deploy serve.yaml as a person does, with other arguments and another scaling."""

    def run(scaling=None, **arguments):
        written = yaml.safe_load(FILE.read_text())
        # Given when Serve was started, and can't be changed.
        del written["http_options"], written["proxy_location"]
        (application,) = written["applications"]
        application["args"] |= {"detector": "none", "allow_anonymous": True, **arguments}
        if scaling:
            application["deployments"] = [{"name": "fer", "autoscaling_config": scaling}]
        file = tmp_path / "serve.yaml"
        file.write_text(yaml.safe_dump(written))
        command = ["serve", "deploy", str(file), "-a", dashboard]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ})

    return run


@pytest.fixture
def load(address, faces, png):
    """Ask for single crops from several threads, and count what is answered."""

    @contextmanager
    def asking(num_clients=8):
        answers, stopped = Counter(), threading.Event()

        def ask():
            with httpx2.Client(timeout=60) as client:
                while not stopped.is_set():
                    try:
                        response = client.post(f"{address}/v1/predict", content=png(faces[0][0]))
                        model = response.json().get("model") if response.is_success else None
                        answers[response.status_code, model] += 1
                    except httpx2.TransportError as error:
                        answers[type(error).__name__, None] += 1

        threads = [threading.Thread(target=ask) for _ in range(num_clients)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    return asking


def status():
    return serve.status().applications.get("fer")


def running():
    application = status()
    if application is None or "fer" not in application.deployments:
        return 0
    return application.deployments["fer"].replica_states.get("RUNNING", 0)


def wait_until(holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, serve.status()
        time.sleep(0.2)


def replicas(dashboard):
    actors = list_actors(dashboard, filters=[("state", "=", "ALIVE")], detail=True)
    return [actor for actor in actors if actor.class_name.startswith("ServeReplica:fer:")]


def test_a_killed_replica_takes_no_more_with_it_than_it_had_in_hand(
    deploy, dashboard, load, checkpoints
):
    deploy(checkpoint=checkpoints[0], min_replicas=2, max_replicas=2)
    wait_until(lambda: running() == 2)
    with load() as answers:
        wait_until(lambda: answers.total() > 50)
        psutil.Process(replicas(dashboard)[0].pid).kill()
        before = answers.total()
        wait_until(lambda: running() == 2 and answers.total() > before + 200)
    lost = answers.total() - sum(number for (code, _), number in answers.items() if code == 200)
    # Each of the eight clients has one request under way.
    assert lost <= 8, answers


def test_an_update_of_the_checkpoint_fails_no_request_and_a_bad_one_changes_nothing(
    deploy, load, checkpoints
):
    first, second = (read_config(location).id for location in checkpoints)
    deploy(checkpoint=checkpoints[0], max_replicas=1)
    wait_until(lambda: running() == 1 and status().status == "RUNNING")
    with load() as answers:
        wait_until(lambda: answers[200, first] > 50)
        deploy(checkpoint="/none", max_replicas=1)
        wait_until(lambda: status().status == "DEPLOY_FAILED")
        assert "/none" in json.dumps(status().message)
        so_far = answers[200, first]
        wait_until(lambda: answers[200, first] > so_far + 50)
        deploy(checkpoint=checkpoints[1], max_replicas=1)
        wait_until(lambda: answers[200, second] > 50)
    assert set(answers) == {(200, first), (200, second)}


def test_replicas_come_with_the_load_and_go_with_it(deploy, load, checkpoints):
    scaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
        "look_back_period_s": 11,
    }
    deploy(scaling, checkpoint=checkpoints[0], max_replicas=3)
    wait_until(lambda: running() == 1 and status().status == "RUNNING")
    with load(24) as answers:
        wait_until(lambda: running() == 3)
    wait_until(lambda: running() == 1)
    assert {code for code, _ in answers} == {200}
