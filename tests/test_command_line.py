"""The command line, and what the README says of it and of the tree."""

import re
import shlex
from pathlib import Path

import pytest

from ray_jobs.__main__ import MODULES, main, spread_repeatable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = README + (ROOT / "docs" / "cluster.md").read_text()


def commands_of_readme():
    """Every job that shell blocks of the README and its pages run, as arguments of ``main``."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGES, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    job = re.compile(rf"(?:\bfer|python -m ray_jobs) ((?:{'|'.join(MODULES.values())})\b.*)")
    found = [job.search(line) for line in lines]
    return [match[1] for match in found if match]


@pytest.mark.parametrize("command", commands_of_readme())
def test_commands_of_the_readme_are_understood(command, monkeypatch):
    started = []
    for config, module in MODULES.items():
        monkeypatch.setattr(f"ray_jobs.{module}.run", lambda config: started.append(config) or {})
    assert main(shlex.split(command, comments=True)) == 0
    assert len(started) == 1


def test_the_readme_runs_every_job():
    assert {command.split()[0] for command in commands_of_readme()} == set(MODULES.values())


def test_the_tree_of_the_readme_is_the_tree():
    tree = re.search(r"```\n(ray_jobs/.*?)```", README, re.DOTALL)[1]
    named = set(re.findall(r"\b[a-z_0-9]+\.py\b", tree))
    there = {path.name for package in ("fer", "ray_jobs") for path in (ROOT / package).glob("*.py")}
    assert named == there - {"__init__.py"}


def test_values_after_one_flag_are_as_those_after_several():
    once = ["evaluate", "--checkpoint", "a", "b", "--split", "val"]
    assert spread_repeatable(once) == [
        *("evaluate", "--checkpoint", "a", "--checkpoint", "b", "--split", "val"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("ingest --source a --output b --max-reject-fraction 2", "between 0 and 1, but is 2.0"),
        ("train --dataset a --output b --num-epochs 0", "--num-epochs must be at least 1"),
        ("train --dataset a --output b --num-workers 3:2", "--num-workers must be N or MIN:MAX"),
        ("train --dataset a --output b --num-workers x", "--num-workers must be N or MIN:MAX"),
        ("train --dataset a --output b --lr -1", "--lr must be above 0, but is -1.0"),
        ("train --dataset a --output b --resume --overwrite", "--resume must be without"),
        ("label --images a --output b --detector none --limit 0", "--limit must be at least 1"),
        (
            "evaluate --dataset a --checkpoint b --output c --fusion exponential",
            "--fusion must be with --committee and --split val, but is exponential",
        ),
        ("demo --num-faces 5", "--num-faces must be at least 100, but is 5"),
        ("ingest --source ftp://a --output b", "ftp:// is not a location that can be opened"),
        ("label --images a --output b --detector none", "a does not exist: expected"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fer: ")
    assert sentence in captured.err


@pytest.mark.parametrize("arguments", ["", "train", "nothing", "train --datset a --output b"])
def test_what_is_not_understood_names_the_flag(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    assert "fer" in capsys.readouterr().err


def test_relative_locations_of_a_submitted_job_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["ingest", "--source", "a.csv", "--output", "/tmp/b"]) == 2
    assert "--source a.csv is relative, and a submitted job's folder" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_an_address_that_takes_submitted_jobs(monkeypatch, capsys, tmp_path, address):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(["demo", "--output", str(tmp_path / "demo"), "--num-faces", "100"]) == 2
    told = capsys.readouterr().err
    assert f"RAY_ADDRESS is {address}, which takes jobs that are submitted" in told
