"""Replicas behind HTTP, on the shared cluster."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import exposition
import httpx2
import numpy as np
import pytest
from conftest import free_ports
from ray import serve

from fer.errors import InputError
from fer.models.predictor import Predictor
from ray_jobs.config import ServeConfig
from ray_jobs.serve import Replica, app, bind, read_token


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("serve") / "conv2"
    save_network(folder, "conv2", with_graph=True)
    return str(folder)


@pytest.fixture(scope="module")
def address(cluster, checkpoint):
    """Where replicas answer that have two requests in hand, and let four wait."""
    (port,) = free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    config = ServeConfig(checkpoint=checkpoint, detector="none", max_batch_size=1)
    serve.run(bind(config, None, "secret", {}), name="fer")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def crops(faces, png):
    return [png(image) for image in faces[0]]


def ask(address, crops, token="secret"):
    files = [("images", (str(number), crop)) for number, crop in enumerate(crops)]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.post(f"{address}/v1/predict", files=files, headers=headers, timeout=60)


def test_a_request_of_several_crops(address, checkpoint, crops):
    answer = ask(address, crops[:5]).json()
    expected = Predictor.load(checkpoint).predict(crops[:5])
    for result, prediction in zip(answer["results"], expected, strict=True):
        (face,) = result["faces"]
        assert face["emotion"] == prediction.emotion
        assert face["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-3)
    assert ask(address, crops[:1], token="guess").status_code == 401
    assert httpx2.get(f"{address}/readyz").json()["status"] == "ready"


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_answered(address, crops):
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda _: ask(address, crops[:32]), range(40)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    answered = max(answer.elapsed for answer in answers if answer.status_code == 200)
    assert min(answer.elapsed for answer in refused) < answered / 2
    assert ask(address, crops[:1]).status_code == 200


@pytest.fixture(scope="module")
def recording(address, checkpoint):
    """A replica that tells what batches its network gets: one process for both tests."""

    class Recording(Replica):
        def record(self, seconds, **settings):
            Replica.__init__(self, {**self.config, **settings}, None, None, {})
            sizes, predict_probs = [], self.service.predictor.predict_probs

            def predict_slowly(batch):
                sizes.append(len(batch))
                time.sleep(seconds)
                return predict_probs(batch)

            self.service.predictor.predict_probs = predict_slowly
            return sizes

        def __init__(self, config):
            self.config = config
            super().__init__(config, None, None, {})

        async def fill(self, crops):
            sizes = self.record(seconds=0, batch_wait_ms=200.0)
            singles = await asyncio.gather(*(self._classify(crops[n : n + 1]) for n in range(16)))
            many = await self._classify(crops[:20])
            return sizes, np.concatenate(singles), many

        async def trickle(self, crops):
            sizes, waiting = self.record(seconds=1.0), []
            for number in range(8):
                waiting.append(asyncio.create_task(self._classify(crops[number : number + 1])))
                await asyncio.sleep(0.05)
            await asyncio.gather(*waiting)
            return sizes

        async def give_up(self, crops):
            self.record(seconds=0)
            self._network_is_free.clear()
            request = asyncio.create_task(self._classify(crops[:3]))
            await asyncio.sleep(0.05)
            before = self._num_waiting
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            self._network_is_free.set()
            return before, self._num_waiting

    config = {"checkpoint": checkpoint, "detector": "none", "max_batch_size": 8}
    replica = serve.deployment(Recording, max_ongoing_requests=8).bind(config)
    yield serve.run(replica, name="recording", route_prefix=None)
    serve.delete("recording")


def test_faces_of_many_requests_fill_the_same_batches(recording, checkpoint, faces):
    sizes, singles, many = recording.fill.remote(faces[0]).result()
    assert sorted(sizes) == [4, 8, 8, 8, 8]
    expected = Predictor.load(checkpoint).predict_probs(faces[0][:20])
    np.testing.assert_allclose(singles, expected[:16], atol=1e-3)
    np.testing.assert_allclose(many, expected, atol=1e-3)


def test_what_comes_while_the_network_works_is_its_next_batch(recording, faces):
    sizes = recording.trickle.remote(faces[0]).result()
    # Serve asks for its health meanwhile.
    assert 7 in sizes


def test_faces_of_a_request_that_is_given_up_wait_no_longer(recording, faces):
    assert recording.give_up.remote(faces[0]).result() == (3, 0)


@pytest.mark.slow
def test_answers_and_batches_are_counted(address, crops):
    time.sleep(exposition.REPORT_EVERY_SECONDS + 2)
    names = ("images_total", "faces_total", "request_seconds_count", "confidence_ratio_count")
    before = {name: exposition.read(f"ray_fer_serve_{name}") or 0 for name in names}
    unreadable = {"status": "unreadable"}
    failed = exposition.read("ray_fer_serve_images_total", **unreadable) or 0
    ask(address, [*crops[:5], b"junk"])
    for name, number in zip(names, (6, 5, 1, 5), strict=True):
        expected = before[name] + number
        assert exposition.wait_for(expected, f"ray_fer_serve_{name}") == expected
    assert exposition.read("ray_fer_serve_images_total", **unreadable) == failed + 1
    assert exposition.read("ray_fer_serve_network_seconds_total") > 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--host", "0.0.0.0"],
            "Other machines can reach the server, but FER_API_TOKEN is not",
        ),
        (["--port", "TAKEN"], "(Address already in use); choose another --port or --host."),
        (["--checkpoint", "/none"], "/none"),
        (["--detector", "yunet", "--detector-weights", "/none"], "--detector-weights /none can't"),
        (
            ["--max-replicas", "0"],
            "--max-replicas must be at least --min-replicas, which is 1, but is 0.",
        ),
        (["--min-replicas", "99", "--max-replicas", "99"], "99 replica(s) need 99 CPU in all"),
    ],
)
def test_what_can_not_be_served(fer, monkeypatch, flags, sentence):
    monkeypatch.delenv("FER_API_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = fer("serve", "--detector", "none", *[flag.replace("TAKEN", port) for flag in flags])
    assert run.code == 2
    assert sentence in run.sentence


def test_serve_that_runs_already_keeps_its_address(fer, address):
    (port,) = free_ports(1)
    run = fer("serve", "--detector", "none", "--port", port)
    assert (run.code, "Ray Serve already runs on this cluster" in run.sentence) == (2, True)


def test_a_token_that_no_request_can_send(monkeypatch):
    monkeypatch.setenv("FER_API_TOKEN", "secret\n")
    assert read_token(ServeConfig(), is_reachable=True) == "secret"
    for token in ("two words", "gehe\u00efm"):
        monkeypatch.setenv("FER_API_TOKEN", token)
        with pytest.raises(InputError, match="FER_API_TOKEN must consist of visible ASCII"):
            read_token(ServeConfig(), is_reachable=False)


def test_what_is_deployed_needs_a_token_or_the_words_that_it_does_not(monkeypatch):
    monkeypatch.delenv("FER_API_TOKEN", raising=False)
    with pytest.raises(InputError, match="allow_anonymous: true"):
        app({"detector": "none"})
    app({"detector": "none", "allow_anonymous": "true"})
    with pytest.raises(InputError, match="args of ray_jobs.serve:app: max_images: Input should be"):
        app({"detector": "none", "max_images": "many"})
    with pytest.raises(InputError, match="args of ray_jobs.serve:app: max_batch is unknown"):
        app({"detector": "none", "max_batch": 3})
    monkeypatch.setenv("FER_API_TOKEN", "secret")
    app({"detector": "none"})


@pytest.mark.slow
def test_fer_serve_answers_until_it_is_stopped(crops, tmp_path):
    (port,) = free_ports(1)
    flags = ["--detector", "none", "--port", str(port)]
    command = [sys.executable, "-m", "ray_jobs", "serve", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while f"Serving at {address}/" not in (tmp_path / "log").read_text():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        request = urllib.request.Request(f"{address}/v1/predict", data=crops[0])
        (result,) = json.load(urllib.request.urlopen(request))["results"]
        assert result["status"] == "ok"
        assert b"<!doctype html>" in urllib.request.urlopen(address).read().lower()
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(60)
    assert code == 0
    # All that it printed on both streams, from its start to its end.
    assert (tmp_path / "log").read_text() == f"Serving at {address}/\n"
