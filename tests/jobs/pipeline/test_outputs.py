"""Outputs: refused while another job writes them, begun or continued by --resume."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fer import storage
from fer.errors import InputError
from ray_jobs.config import LabelConfig
from ray_jobs.label import OUTPUT
from ray_jobs.pipeline.leases import HeldError
from ray_jobs.pipeline.resumable import run_resumable

HOLD = """
import sys
from ray_jobs.pipeline import leases
with leases.hold(sys.argv[1], "label"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(output):
    """Let another process hold an output, and yield the number of this process."""
    command = [sys.executable, "-c", HOLD, str(output)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.communicate()


@pytest.fixture
def taken(tmp_path):
    """An output that another process holds, and the number of this process."""
    with held(tmp_path / "taken") as process:
        yield tmp_path / "taken", process


@pytest.mark.parametrize(
    "flags",
    [
        ("ingest", "--source", "{sources}/fer2013.csv"),
        ("train", "--dataset", "{dataset}", "--num-epochs", "1"),
        ("train", "--dataset", "{dataset}", "--num-epochs", "1", "--resume"),
        ("tune", "--dataset", "{dataset}", "--num-epochs", "1"),
        ("evaluate", "--dataset", "{dataset}", "--checkpoint", "{checkpoint}"),
        ("label", "--images", "{sources}/faces.zip", "--detector", "none", "--overwrite"),
        ("export", "--checkpoint", "{checkpoint}"),
    ],
    ids=lambda flags: " ".join(
        word for word in flags if word in {flags[0], "--resume", "--overwrite"}
    ),
)
def test_no_job_writes_an_output_that_another_holds(
    fer, taken, sources, dataset, checkpoint, flags
):
    inputs = {"sources": sources, "dataset": dataset, "checkpoint": checkpoint}
    run = fer(*(flag.format(**inputs) for flag in flags), "--output", taken[0])
    assert run.code == 2
    assert run.sentence.startswith(
        f"{taken[0]} is being written by fer label (process {taken[1]} on "
    )
    assert [name.name[:7] for name in taken[0].iterdir()] == [".lease-"]


def run_label(config, fail=False):
    """Run a label job whose work is only to begin and to commit."""

    inputs = SimpleNamespace(fingerprints={"model": "a"})

    def work(_config, _inputs, reservation):
        reservation.begin()
        if fail:
            raise KeyboardInterrupt
        result = {"images": 1}
        reservation.commit({"result": result})
        return result

    return run_resumable(config, OUTPUT, lambda _: inputs, work)


def test_resume_begins_continues_and_reports(tmp_path, capsys):
    config = LabelConfig(images=str(tmp_path), output=str(tmp_path / "labels"), resume=True)
    with pytest.raises(KeyboardInterrupt):
        run_label(config, fail=True)
    assert capsys.readouterr().err == (
        f"{config.output} holds no run to resume; starting a new one.\n"
    )
    job = json.loads((tmp_path / "labels" / "job.json").read_text())
    assert job["made_from"] == {"model": "a"}
    assert run_label(config) == {"images": 1, "resumed": True}
    assert run_label(config) == {"images": 1, "resumed": True}
    assert capsys.readouterr().err == ""
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"job.json", "summary.json"}


def test_what_began_without_resume_says_so(tmp_path):
    config = LabelConfig(images=str(tmp_path), output=str(tmp_path / "labels"))
    assert run_label(config) == {"images": 1, "resumed": False}


def test_an_update_steps_aside_for_the_one_before(tmp_path, capsys):
    config = LabelConfig(images=str(tmp_path), output=str(tmp_path / "labels"))
    run_label(config)
    update = replace(config, update=True)
    with held(config.output) as process:
        before = {path.name for path in (tmp_path / "labels").iterdir()}
        skipped = run_label(update)
        assert before == {path.name for path in (tmp_path / "labels").iterdir()}
    reason = f"{config.output} is being written by fer label (process {process} on "
    assert skipped.keys() == {"output", "skipped"}
    assert skipped["output"] == config.output
    assert skipped["skipped"].startswith(reason)
    assert skipped["skipped"].endswith(" UTC).")
    told = capsys.readouterr().err
    assert told.startswith(reason)
    assert told.endswith("; this run steps aside, and the next update finds what it leaves.\n")
    assert run_label(update) == {"images": 1, "resumed": False}


@pytest.mark.parametrize("flag", ["overwrite", None])
def test_only_an_update_steps_aside(tmp_path, flag):
    """Whoever awaits a result is told that there is none: --resume too must not end well."""
    config = LabelConfig(images=str(tmp_path), output=str(tmp_path / "labels"))
    flags = {flag: True} if flag else {}
    with held(config.output), pytest.raises(HeldError, match="wait until that job ends"):
        run_label(replace(config, **flags))
    with pytest.raises(KeyboardInterrupt):
        run_label(replace(config, resume=True), fail=True)
    with held(config.output), pytest.raises(HeldError, match="wait until that job ends"):
        run_label(replace(config, resume=True))


def begin(config, monkeypatch, *, num_deleted=None):
    """Begin to replace an output, and return what is left; die after some deletions if asked."""
    deleted = []

    def delete_some(location):
        if ".lease-" not in location:
            if len(deleted) == num_deleted:
                raise KeyboardInterrupt
            deleted.append(location)
        delete(location)

    delete = storage.delete
    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", delete_some)
        run_label(config, fail=True)


@pytest.mark.parametrize("num_deleted", range(1, 5))
@pytest.mark.parametrize("flag", ["resume", "update"])
def test_what_a_killed_overwrite_has_left_is_not_continued(
    tmp_path, monkeypatch, flag, num_deleted
):
    """Labels without some of their files, whose worklist is that of an update."""
    output = tmp_path / "labels"
    config = LabelConfig(images=str(tmp_path), output=str(output))
    run_label(config)
    (output / "faces").mkdir()
    for name in ("faces/a.parquet", "catalog.json", "worklist.json", "report.html"):
        (output / name).write_text("{}")
    overwrite = replace(config, overwrite=True, min_face_size=20.0)
    with pytest.raises(KeyboardInterrupt):
        begin(overwrite, monkeypatch, num_deleted=num_deleted)
    left = {path.name for path in output.iterdir()}
    assert len(left) == 6 - num_deleted
    assert "summary.json" not in left
    with pytest.raises(InputError, match=r"started with --min-face-size 20\.0 \(now 16\.0\)"):
        run_label(replace(config, **{flag: True}))
    again = replace(overwrite, overwrite=False, **{flag: True})
    with pytest.raises(KeyboardInterrupt):
        begin(again, monkeypatch)
    assert {path.name for path in output.iterdir()} == {"job.json"}
    assert "outdated" not in json.loads((output / "job.json").read_text())
    # What the new run writes is kept.
    (output / "worklist.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        begin(again, monkeypatch)
    assert {path.name for path in output.iterdir()} == {"job.json", "worklist.json"}
