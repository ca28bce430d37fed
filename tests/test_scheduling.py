"""benchmarks/scheduling.py: what it refuses, what stands in for chunks, and what it reports."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from ray import cloudpickle

from fer.labels.chunks import MAX_IMAGES
from fer.labels.tally import LabelTally
from ray_jobs.labeling import chunks, worklist
from ray_jobs.labeling.write import Written

ROOT = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Let the benchmarks be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def stubs():
    import scheduling

    written = Written(LabelTally(MAX_IMAGES, files={"faces/sample.parquet"}), {}, 0, [])
    return scheduling.Stubs(40, 0.002, written)


@pytest.mark.parametrize(
    ("nodes", "number", "seconds", "sentence"),
    [
        ((0, 4), 10_000, 1.0, "--nodes must be at least 1"),
        ((1, 4), 10_000, 0.0, "--chunk-seconds above 0"),
        ((1, 64), 1000, 1.0, "must be at least 1,280 for 64 nodes, but is 1,000"),
    ],
)
def test_flags_that_give_no_rate_are_refused(nodes, number, seconds, sentence):
    import scheduling

    with pytest.raises(SystemExit, match=sentence):
        scheduling.check_flags(nodes, number, seconds)


def test_nodes_that_do_not_fit_into_memory_are_refused(monkeypatch):
    import fake_nodes

    memory = SimpleNamespace(available=7024 * MIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    fake_nodes.require_memory(31, 200 * MIB)
    with pytest.raises(SystemExit, match=r"32 nodes of 200 MiB do not fit .* at most 31 --nodes\."):
        fake_nodes.require_memory(32, 200 * MIB)


def test_a_node_runs_a_script_in_place_of_its_agent(tmp_path):
    import fake_nodes

    script = tmp_path / "no_agent.sh"
    script.write_text(fake_nodes.NO_AGENT)
    agent = subprocess.Popen(
        ["sh", script, tmp_path], env={**os.environ, "RAY_NODE_ID": "abc"}, start_new_session=True
    )
    try:
        last = tmp_path / "dashboard_agent_listen_port_abc"
        until = time.monotonic() + 30
        while not last.exists() and time.monotonic() < until:
            time.sleep(0.01)
        ports = {file.name: file.read_text() for file in tmp_path.glob("*_port_abc")}
        names = ("metrics_agent", "metrics_export", "dashboard_agent_listen")
        assert ports == {f"{name}_port_abc": "-1\n" for name in names}
        assert agent.poll() is None
    finally:
        os.killpg(agent.pid, 9)
        agent.wait()


def test_a_worklist_of_full_chunks_gives_each_task_one(tmp_path, monkeypatch):
    import scheduling

    monkeypatch.setattr("ray_jobs.cluster.session.num_cpus", lambda: 1)
    scheduling.write_worklist(str(tmp_path), 300)
    listed = worklist.read(str(tmp_path))
    assert len({*listed.files}) == 300
    assert chunks._num_together(listed, 300) == 1


def test_stubs_return_the_chunk_under_its_own_name(stubs):
    opened = pa.table({"chunk": ["0" * 23 + "a"], "table": [None]}, chunks.OPENED_SCHEMA)
    (batch,) = stubs.function()(opened, labeling=None, classifier={})
    (written,) = batch["tally"]
    assert written.tally.files == {f"faces/{'0' * 23}a.parquet"}
    assert written.tally.images == MAX_IMAGES


def test_workers_need_not_import_the_benchmark(stubs):
    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer).__name__)"
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=cloudpickle.dumps(stubs.function()),
        capture_output=True,
        check=False,
    )
    assert loaded.stdout == b"label_chunks\n", loaded.stderr


def test_stubs_take_as_long_as_chunks_on_average(stubs, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    names = [f"{number:024x}" for number in range(40)]
    opened = pa.table({"chunk": names, "table": [None] * 40}, chunks.OPENED_SCHEMA)
    assert len([*stubs.function()(opened, labeling=None, classifier={})]) == 40
    assert np.mean(slept) == pytest.approx(0.002, rel=0.03)
    assert min(slept) >= 0.001
    assert max(slept) <= 0.003


def row(stubs, nodes, times):
    import scheduling

    return scheduling.Row(nodes, stubs, np.array(times), np.zeros(3), 0, 0)


def test_the_rate_leaves_out_the_start_and_the_end(stubs):
    steady = 50 + np.arange(40) / 250
    measured = row(stubs, 1, [0, *steady[:39], 90.0])
    assert measured.rate == pytest.approx(250)
    assert measured.ideal == pytest.approx(500)
    assert measured.wait_seconds == pytest.approx(0.002)


def test_it_says_where_more_nodes_get_no_more_chunks_in_proportion(stubs):
    import scheduling

    rates = {1: 480, 4: 1600, 16: 6000, 64: 20_000}
    rows = [row(stubs, nodes, np.arange(41) / rate) for nodes, rate in rates.items()]
    assert "two numbers of --nodes" in scheduling.describe_bend(rows[:2])
    good = "With 16 nodes, the rate of each stays above 90% of that with 4."
    assert scheduling.describe_bend(rows[:3]) == good
    bent = "With 64 nodes, the rate of each falls below 90% of that with 4."
    assert scheduling.describe_bend(rows) == bent


def test_the_functions_that_it_replaces_exist():
    from ray_jobs import label
    from ray_jobs.labeling import on_cpus

    assert callable(label._check)
    assert callable(label._label_worklist)
    assert {"_label_chunks"} <= {*label._label_worklist.__code__.co_names}
    assert {"_label_chunks"} <= {*on_cpus.label_chunks.__code__.co_names}
