"""What ends a process whose decoder hangs, and what does not."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import io, time
from ray_jobs.cluster import watchdog
from ray_jobs.cluster.watchdog import WatchedFile, watched, watching

watchdog.MAX_SECONDS = 0.5

def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def steps(file):
    for _ in range(4):
        STEP
        yield
"""


def run(step, body):
    program = PROGRAM.replace("STEP", step) + body
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    return done.returncode


@pytest.mark.parametrize(
    ("step", "body"),
    [
        ("compute(9)", "list(watched(steps(None)))"),
        # At its end a file yields nothing, however often it is read.
        ("while True: file.read(9)", "list(watched(steps(WatchedFile(io.BytesIO(bytes(99))))))"),
        ("pass", "with watching(): sum(x for x in iter(int, 1))"),
    ],
    ids=["computes", "reads at the end", "one block"],
)
def test_a_process_that_hangs_is_ended(step, body):
    assert run(step, body) == -signal.SIGPROF


@pytest.mark.parametrize(
    ("step", "body"),
    [
        ("compute(0.3)", "list(watched(steps(None)))"),
        ("time.sleep(0.8)", "list(watched(steps(None)))"),
        ("pass", "for _ in watched(steps(None)): compute(0.8)"),
        ("[(compute(0.1), file.read(9)) for _ in range(9)]", "list(watched(steps(file)))"),
        ("pass", "with watching(): pass\ncompute(0.8)"),
    ],
    ids=["each step is short", "waits", "the caller computes", "reads on", "is over"],
)
def test_a_process_that_works_or_waits_is_not(step, body):
    file = "file = WatchedFile(io.BytesIO(bytes(999)))\n"
    assert run(step, file + body) == 0


def test_errors_and_the_end_of_what_is_watched_are_passed_on():
    program = """
def failing():
    yield 1
    raise ValueError("damaged")

try:
    list(watched(failing()))
except ValueError:
    compute(0.8)
"""
    assert run("pass", program) == 0
