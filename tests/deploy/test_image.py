"""The Dockerfile: two images, pinned, that do not run as root."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from manifests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions(name):
    """Return the arguments of each instruction of a kind, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return re.findall(rf"^{name} (.*)", joined, re.MULTILINE)


def test_there_is_a_slim_image_and_a_full_one_on_top_of_it():
    assert instructions("FROM") == ["python:3.11-slim-bookworm AS slim", "slim AS full"]
    slim, full = [line for line in instructions("RUN") if "pip install" in line]
    assert "-c constraints.txt . " in slim
    assert "-c constraints.txt" in full
    assert '".[train,tune,mlflow]"' in full


def test_the_workflow_builds_both_images_and_labels_in_each():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["image"]
    stages = [line.split()[-1] for line in instructions("FROM")]
    assert job["strategy"]["matrix"]["target"] == stages
    build, _, run = [step["run"] for step in job["steps"] if "run" in step]
    assert "--target ${{ matrix.target }}" in build
    assert "--read-only" in run
    assert run.split()[-1] == "/scripts/smoke"


def test_images_do_not_run_as_root():
    assert instructions("USER") == ["10001", "0", "10001"]
    assert any("useradd" in line and "--uid 10001" in line for line in instructions("RUN"))
    assert f"fer-on-ray:{PROJECT['version']}" in DOCKERFILE
    declared = [*instructions("ARG"), *instructions("ENV")]
    assert not [line for line in declared if re.search("KEY|TOKEN|SECRET", line)]


def test_hadolint_finds_nothing():
    beside = str(Path(sys.executable).parent)
    hadolint = shutil.which("hadolint", path=beside) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install -e '.[test]' brings it")
    linted = subprocess.run(
        [hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout


def test_only_the_package_is_copied_into_the_image():
    import pathspec

    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    sources = [word.rstrip("/") for line in instructions("COPY") for word in shlex.split(line)[:-1]]
    assert sorted(sources) == sorted(line[1:] for line in lines if line.startswith("!"))
    for path in (
        ".git/config",
        "tests/conftest.py",
        "fer2013.csv",
        ".env",
        "fer/__pycache__/a.pyc",
    ):
        assert ignored.match_file(path), path
    for path in ("fer/weights/paper-deep/config.json", "ray_jobs/train.py", "pyproject.toml"):
        assert not ignored.match_file(path), path
