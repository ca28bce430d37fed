"""How a job joins or starts a cluster: what it prints, and what it says where there is none."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import ray

from fer.data.synthetic import Faces, draw_faces, to_csv
from fer.errors import InputError, JobError
from ray_jobs.cluster import session, stderr


@pytest.fixture
def alone(monkeypatch):
    """A process that has joined no cluster."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return monkeypatch


@pytest.fixture
def mute():
    """The address of a server that accepts connections and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refusal(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError) as caught:
        session.connect()
    return str(caught.value)


def test_an_address_where_no_cluster_is(alone):
    start = time.monotonic()
    assert refusal("127.0.0.1:9", alone) == (
        "No Ray cluster answers at RAY_ADDRESS 127.0.0.1:9 (Connection refused); start the "
        "cluster, correct the address, or unset RAY_ADDRESS to run on this machine alone."
    )
    assert "RAY_ADDRESS no.such.invalid:6379 (" in refusal("no.such.invalid:6379", alone)
    assert time.monotonic() - start < 30


def test_an_address_where_something_else_listens(alone, mute):
    alone.setattr(session, "CONNECT_SECONDS", 1.0)
    assert f"RAY_ADDRESS {mute} (what listens there is not Ray)" in refusal(mute, alone)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "ray://head:10001"])
def test_what_is_no_address(alone, address):
    assert f"such as HOST:6379, but is {address}; correct it" in refusal(address, alone)


def test_auto_where_no_cluster_runs(alone):
    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    # The tests' own cluster may run here.
    alone.setattr(ray, "init", init)
    assert refusal("auto", alone) == (
        "RAY_ADDRESS is auto, but no Ray cluster runs on this machine; start one with ray start "
        "--head, or unset RAY_ADDRESS to start one for this job alone."
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Exception("The current node timed out during startup."), "The current node timed out"),
        (RuntimeError(), "RuntimeError; check"),
        (ValueError("first\nlast line.\n"), ": last line; check"),
    ],
)
def test_a_start_that_fails_is_one_sentence(alone, error, reason):
    def init(**_):
        raise error

    alone.delenv("RAY_ADDRESS", raising=False)
    alone.setattr(ray, "init", init)
    with pytest.raises(JobError) as caught:
        session.connect()
    assert str(caught.value).startswith("Ray did not start on this machine: ")
    assert reason in str(caught.value)


def test_a_cluster_that_can_t_be_joined_is_one_sentence_with_its_reason(alone, mute):
    def init(**_):
        raise ConnectionError(f"Failed to connect to Ray cluster at {mute}") from reason

    reason = RuntimeError("No node info found.")
    alone.setenv("RAY_ADDRESS", mute)
    alone.setattr(session, "_check_address", lambda _: None)
    alone.setattr(ray, "init", init)
    with pytest.raises(JobError) as caught:
        session.connect()
    assert str(caught.value).startswith(
        f"The Ray cluster at {mute} can't be joined: No node info found; check that its nodes run,"
    )


@pytest.mark.parametrize(("address", "is_inherited"), [(None, True), ("127.0.0.1:6379", False)])
def test_processes_of_a_cluster_of_its_own_inherit_the_environment(alone, address, is_inherited):
    """Its first processes serve no tasks that name a runtime environment."""
    (name, value), *_ = session.INFERENCE_MEMORY["env_vars"].items()
    given = []

    def init(runtime_env, **_):
        given.extend((os.environ.get(name), runtime_env))
        raise RuntimeError

    alone.delenv(name, raising=False)
    alone.delenv("RAY_ADDRESS", raising=False)
    if address:
        alone.setenv("RAY_ADDRESS", address)
    alone.setattr(session, "_check_address", lambda _: None)
    alone.setattr(ray, "init", init)
    with pytest.raises(JobError):
        session.connect(session.INFERENCE_MEMORY)
    assert given == ([value, None] if is_inherited else [None, session.INFERENCE_MEMORY])
    assert name not in os.environ


def test_errors_that_follow_the_first_are_not_printed(cluster, caplog, tmp_path):
    """A job has said what went wrong when the tasks beside it fail too."""

    def fail():
        failing.touch()
        raise RuntimeError

    failing = tmp_path / "failing"
    session.connect()
    # Ray prints the error of a task whose result nobody has waited for or got.
    unwanted = ray.remote(num_cpus=0, max_retries=0)(fail).remote()
    until = time.monotonic() + 60
    while not failing.exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    time.sleep(2)
    del unwanted
    time.sleep(1)
    assert caplog.text == ""


def on_its_own():
    """Return the environment of a process that starts a cluster of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**inherited, "RAY_AUTH_MODE": "disabled"}


def run(*arguments, **environment):
    """Run a job in a process of its own, on a cluster of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ray_jobs", *map(str, arguments)],
        env={**on_its_own(), **environment},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def ten_faces(tmp_path_factory):
    images, labels = draw_faces(10, seed=1)
    file = tmp_path_factory.mktemp("faces") / "fer2013.csv"
    file.write_bytes(to_csv(Faces(images, labels, ["train", "val"] * 5)))
    return file


@pytest.mark.slow
def test_a_job_prints_its_progress_and_nothing_else(ten_faces, tmp_path):
    """Also where its flags are not valid UTF-8, which Ray does not take."""
    folder = os.fsencode(tmp_path / "j") + b"\xe4nner"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    os.link(ten_faces, folder + b"/fer2013.csv")
    done = run("ingest", "--source", os.fsdecode(folder), "--output", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(Ingesting: [^\n]*\n)*", done.stderr)
    assert re.fullmatch(r"RESULT {[^\n]*}\n", done.stdout)
    assert '"examples": 10,' in done.stdout


WITHOUT_TORCH = """
import sys
from ray_jobs.__main__ import main
sys.exit(main() or ("torch" in sys.modules and "the driver has imported torch"))
"""
"""Runs a job that fails if its driver has imported torch."""


@pytest.mark.slow
def test_labeling_on_processors_needs_no_torch(faces, png, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, face in enumerate(faces[0][:3]):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(face))
    flags = ("--images", tmp_path / "photos", "--detector", "none", "--output", tmp_path / "labels")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "label", *map(str, flags)],
        env=on_its_own(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(Labeling: [^\n]*\n)*", done.stderr)
    engines = pq.read_table(tmp_path / "labels" / "faces")["engine"].to_pylist()
    assert engines == ["int8"] * 3


IN_FOREGROUND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ray_jobs.__main__ import main
sys.exit(main())
"""
"""Runs a job that obeys SIGINT, also where the tests are a shell's background job."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_job_with_one_sentence(ten_faces, tmp_path, number):
    output = tmp_path / "data"
    flags = ["ingest", "--source", str(ten_faces), "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", IN_FOREGROUND, *flags],
        env=on_its_own(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # It is written once Ray has started, before the first task.
        while not (output / "job.json").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert re.fullmatch(r"(Ingesting: [^\n]*\n)*fer: interrupted; [^\n]*\n", errors)
    assert not list(output.glob(".lease-*"))
    assert not (output / "summary.json").exists()


def test_a_cluster_that_cannot_start_is_one_sentence(ten_faces, tmp_path):
    # A socket's path has at most 107 bytes.
    folder = tmp_path / ("x" * 100)
    flags = ("--source", ten_faces, "--output", tmp_path / "data")
    done = run("ingest", *flags, RAY_TMPDIR=str(folder))
    assert done.returncode == 1
    assert done.stderr.startswith("fer: Ray did not start on this machine: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_only_ray_s_noise_is_left_out(capfd):
    noise = "[2026-11-27 01:49:59,735 I 1 1] logging.cc:303: Set ray log level from environment"
    with stderr.filtered():
        os.write(2, f"before\n{noise} variable RAY_BACKEND_LOG_LEVEL to 3\nafter".encode())
    os.write(2, b"\nlater\n")
    assert capfd.readouterr().err == "before\nafter\nlater\n"


def test_what_is_printed_just_before_an_abort_is_seen():
    code = (
        "import os\nfrom ray_jobs.cluster import stderr\n"
        "with stderr.filtered():\n    os.write(2, b'the cause')\n    os.abort()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (-6, "the cause")
