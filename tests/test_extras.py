"""Without the extras: jobs that need one say what to install, and the others run."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fer.errors import InputError
from fer.models.checkpoint import load_checkpoint
from fer.models.engine import with_graphs
from ray_jobs import jobs
from ray_jobs.__main__ import parse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = ("mlflow", "optuna")
"""Of the extras ``mlflow`` and ``tune``, by the names of the import."""

TRAIN = ("torch", "onnxscript", "sklearn", "tensorboardX")
"""Of the extra ``train``."""

HIDE = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *others: None if name in {names} else find(name, *others)
"""


def run_without(names, code, *arguments):
    """Run some Python in a process that does not find some packages."""
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(names=names) + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_imports():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("fer", "ray_jobs")
        for path in sorted((ROOT / room).rglob("*.py"))
        # Ray's AWS provider needs boto3's EC2 part on a head node only.
        if path.name not in ("__init__.py", "__main__.py", "spot.py")
    ]
    done = run_without(
        OPTIONAL, "import importlib\nfor n in sys.argv[1:]: importlib.import_module(n)", *names
    )
    assert done.returncode == 0, done.stderr


# Without torch, as in the slim image.


def names_of(requirements):
    return {re.split(r"[\[=<>]", requirement)[0] for requirement in requirements}


def test_what_brings_torch_is_in_the_extra_train():
    brought = {"torch", "onnxscript", "scikit-learn", "tensorboardX"}
    assert brought <= names_of(PROJECT["optional-dependencies"]["train"])
    assert not brought & names_of(PROJECT["dependencies"])


@pytest.mark.parametrize("module", ["label", "serve", "ingest", "plan"])
def test_jobs_of_the_slim_image_import_without_torch(module):
    done = run_without(OPTIONAL + TRAIN, f"import ray_jobs.{module}")
    assert done.returncode == 0, done.stderr


def test_faces_are_classified_without_torch():
    done = run_without(
        OPTIONAL + TRAIN,
        "from fer import Predictor\n"
        "from fer.data.synthetic import draw_faces\n"
        "from fer.models import predictor\n"
        # A machine with a GPU, which only torch could use.
        "predictor.NVIDIA_DRIVER = __import__('pathlib').Path('/')\n"
        "print(len(Predictor.load().predict(list(draw_faces(4, seed=0)[0]))))",
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
    done = run_without(
        OPTIONAL + TRAIN,
        "from ray_jobs.__main__ import main\n"
        "sys.exit(main(['train', '--dataset', '/none', '--output', '/none/new']))",
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fer: fer train needs torch, which is not installed;")


def test_a_checkpoint_without_a_graph_says_why_it_needs_torch(monkeypatch):
    checkpoint = load_checkpoint("bundled")
    (member,) = checkpoint.members
    monkeypatch.setattr("fer.extras.has_torch", lambda: False)
    with pytest.raises(InputError, match=r"has no graph\.onnx, and making one needs torch"):
        with_graphs(replace(checkpoint, members=(replace(member, graph=None),)))
