"""Leases: of two jobs that want one output, one gets it, whatever happens to the other."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from fer import storage
from fer.errors import InputError, JobError
from fer.storage import listing
from ray_jobs.pipeline import leases

HOLD = """
import sys
from fer.errors import InputError
from ray_jobs.pipeline import leases
sys.stdin.readline()
try:
    with leases.hold(sys.argv[1], "label"):
        print("held", flush=True)
        sys.stdin.read()
except InputError as error:
    print(error, flush=True)
"""


@pytest.fixture
def contender():
    """Return a function that starts a process which holds an output when it gets a line."""
    started = []

    def start(output):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLD, output], **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def begin(process):
    process.stdin.write("\n")
    process.stdin.flush()


def claims(output):
    names = listing.child_names(output, with_hidden=True)
    return [name for name in names if name.startswith(leases.PREFIX)]


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path):
    """An output on a local disk and one in a bucket."""
    if request.param == "local":
        return str(tmp_path / "runs" / "output")
    request.getfixturevalue("s3_server")
    return f"s3://open/leases/{tmp_path.name}"


def test_of_processes_that_race_exactly_one_gets_the_output(output, contender):
    storage.write_bytes(f"{output}/result", b"of an earlier run")
    processes = [contender(output) for _ in range(4)]
    for process in processes:
        begin(process)
    answers = [process.stdout.readline().strip() for process in processes]
    assert Counter(answer == "held" for answer in answers) == {True: 1, False: 3}
    winner = processes[answers.index("held")]
    for answer in set(answers) - {"held"}:
        assert answer.startswith(f"{output} is being written by fer label (process {winner.pid} on")
        assert answer.endswith("; wait until that job ends, stop it, or choose another --output.")
    winner.communicate()
    assert listing.child_names(output, with_hidden=True) == {"result"}


def test_the_lease_of_a_killed_process_is_taken_over_at_once(output, contender):
    lost = contender(output)
    begin(lost)
    assert lost.stdout.readline() == "held\n"
    lost.kill()
    lost.wait()
    assert len(claims(output)) == 1
    start = time.monotonic()
    with leases.hold(output, "train"):
        assert len(claims(output)) == 1
    assert time.monotonic() - start < leases.POLL_SECONDS + 1
    assert claims(output) == []


def on_another_machine(monkeypatch):
    """Make this process the holder of leases as if on a machine that others can't look into."""
    monkeypatch.setattr(leases, "_machine", lambda: None)


def test_a_lease_on_another_machine_is_respected_while_it_is_renewed(
    output, contender, monkeypatch, capsys
):
    other = contender(output)
    begin(other)
    assert other.stdout.readline() == "held\n"
    on_another_machine(monkeypatch)
    with pytest.raises(InputError, match=rf"written by fer label \(process {other.pid} on "):
        leases.hold(output, "train").__enter__()
    told = capsys.readouterr().err
    assert told.startswith("Waiting up to 60 s to see whether fer label (process ")


def test_a_lease_on_another_machine_expires_when_it_is_not_renewed(output, contender, monkeypatch):
    lost = contender(output)
    begin(lost)
    assert lost.stdout.readline() == "held\n"
    lost.send_signal(signal.SIGSTOP)
    on_another_machine(monkeypatch)
    monkeypatch.setattr(leases, "EXPIRES_SECONDS", 2.0)
    with leases.hold(output, "train"):
        assert len(claims(output)) == 1
    assert claims(output) == []


LOSE = """
import signal, sys, time
from fer.errors import JobError
from ray_jobs.pipeline import leases
# A shell's background job, which may run these tests, ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
leases.RENEW_SECONDS = 0.3
try:
    with leases.hold(sys.argv[1], "label"):
        print("held", flush=True)
        time.sleep(60)
except JobError as error:
    print(error, flush=True)
"""


def test_a_job_that_wakes_up_after_its_lease_was_taken_over_ends(output, monkeypatch):
    command = [sys.executable, "-c", LOSE, output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        on_another_machine(monkeypatch)
        monkeypatch.setattr(leases, "EXPIRES_SECONDS", 1.0)
        with leases.hold(output, "train"):
            process.send_signal(signal.SIGCONT)
            told = process.communicate(timeout=60)[0]
            assert len(claims(output)) == 1
    assert told.startswith(f"This job lost {output}: fer train (process {os.getpid()} on ")
    assert told.rstrip().endswith("took it over, since this job could not renew its lease.")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, JobError])
def test_no_lease_is_left_after_a_failure(output, error):
    def fail():
        with leases.hold(output, "train"):
            assert len(claims(output)) == 1
            raise error

    with pytest.raises(error):
        fail()
    assert claims(output) == []


def test_a_claim_that_could_not_be_withdrawn_does_not_block_the_same_process(tmp_path, monkeypatch):
    output = str(tmp_path)

    def refuse(location):
        raise OSError(location)

    with leases.hold(output, "label"):
        with pytest.raises(InputError, match=r"is being written by fer label \(process "):
            leases.hold(output, "label").__enter__()
        monkeypatch.setattr(storage, "delete", refuse)
    monkeypatch.undo()
    assert len(claims(output)) == 1
    with leases.hold(output, "label"):
        assert len(claims(output)) == 1
    assert claims(output) == []


def test_an_output_that_stays_empty_is_not_left(tmp_path):
    with leases.hold(str(tmp_path / "runs" / "output"), "train"):
        assert (tmp_path / "runs" / "output").is_dir()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    with leases.hold(str(tmp_path / "runs" / "output"), "train"):
        (tmp_path / "runs" / "output" / "job.json").touch()
    assert os.listdir(tmp_path / "runs" / "output") == ["job.json"]


def test_a_lease_that_cannot_be_read_is_another_job_s(tmp_path, monkeypatch):
    (tmp_path / f"{leases.PREFIX}later").write_text('{"version": 2}')
    renewal = threading.Timer(1.5, (tmp_path / f"{leases.PREFIX}later").write_text, ["{}"])
    renewal.start()
    with pytest.raises(InputError, match="is being written by another job; wait until"):
        leases.hold(str(tmp_path), "train").__enter__()
    renewal.join()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "output")
    with pytest.raises(InputError, match=f"{output} can't be written to: "):
        leases.hold(output, "train").__enter__()
