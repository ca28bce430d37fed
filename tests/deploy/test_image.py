"""The Dockerfile: two images, pinned, that do not run as root, and what each of them can do."""

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

from fer.errors import InputError
from ray_jobs import jobs
from ray_jobs.__main__ import parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HEAVY = ("torch", "onnxscript", "sklearn", "tensorboardX", "optuna", "mlflow")
"""What only the full image has, by the names of the import."""


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
    for path in ("fer/weights/config.json", "ray_jobs/train.py", "pyproject.toml"):
        assert not ignored.match_file(path), path


# Without the extra `train`, as in the slim image.


HIDE = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *others: None if name in {HEAVY} else find(name, *others)
"""


def run_slim(code):
    """Run some Python in a process that finds nothing of what only the full image has."""
    return subprocess.run(
        [sys.executable, "-c", HIDE + code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_heavy_packages_are_in_the_extra_train():
    names = {re.split(r"[\[=<>]", item)[0] for item in PROJECT["dependencies"]}
    extra = {re.split(r"[\[=<>]", item)[0] for item in PROJECT["optional-dependencies"]["train"]}
    heavy = {"torch", "onnxscript", "scikit-learn", "tensorboardX"}
    assert heavy <= extra
    assert not heavy & names


@pytest.mark.parametrize("module", ["label", "serve", "ingest", "plan"])
def test_jobs_of_the_slim_image_import_without_torch(module):
    done = run_slim(f"import ray_jobs.{module}")
    assert done.returncode == 0, done.stderr


def test_faces_are_classified_without_torch():
    done = run_slim(
        "from fer import Predictor\n"
        "from fer.data.synthetic import draw_faces\n"
        "from fer.models import predictor\n"
        # A machine with a GPU, which only torch could use.
        "predictor.NVIDIA_DRIVER = __import__('pathlib').Path('/')\n"
        "print(len(Predictor.load().predict(list(draw_faces(4, seed=0)[0]))))"
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


REFUSED = [
    ("fer train", "train --dataset data --output new"),
    ("fer tune", "tune --dataset data --output new"),
    ("fer evaluate", "evaluate --dataset data --checkpoint bundled --output new"),
    ("fer export", "export --checkpoint bundled --output new"),
    ("fer demo", "demo --output new"),
    ("--use-gpu", "label --images {images} --detector none --output new --use-gpu"),
    ("--gpus-per-replica", "serve --detector none --gpus-per-replica 1"),
    ("--calibrate", "plan --num-images 10 --calibrate"),
]


@pytest.mark.parametrize(("what", "line"), REFUSED, ids=[what for what, _ in REFUSED])
def test_what_needs_torch_says_so_in_one_sentence(what, line, monkeypatch, tmp_path):
    image = tmp_path / "face.png"
    shutil.copy(ROOT / "docs" / "pictures" / "timeline.png", image)
    monkeypatch.setattr("fer.extras.has_torch", lambda: False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refusal:
        jobs.run(parse(shlex.split(line.format(images=image))))
    assert str(refusal.value) == (
        f"{what} needs torch, which is not installed; install it with "
        "pip install 'fer-on-ray[train]', or take the image that has it."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["face.png"]


def test_the_refusal_ends_the_command_with_2():
    done = run_slim(
        "from ray_jobs.__main__ import main\n"
        "sys.exit(main(['train', '--dataset', '/none', '--output', '/none/new']))"
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fer: fer train needs torch, which is not installed;")


def test_a_checkpoint_without_a_graph_says_why_it_needs_torch(monkeypatch):
    from dataclasses import replace

    from fer.models.checkpoint import load_checkpoint
    from fer.models.engine import with_graphs

    checkpoint = load_checkpoint("bundled")
    (member,) = checkpoint.members
    monkeypatch.setattr("fer.extras.has_torch", lambda: False)
    with pytest.raises(InputError, match=r"has no graph\.onnx, and making one needs torch"):
        with_graphs(replace(checkpoint, members=(replace(member, graph=None),)))
