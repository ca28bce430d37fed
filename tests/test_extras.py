"""Without the extras every job but theirs works, and theirs say what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = ("mlflow", "onnx", "onnxruntime", "onnxscript", "optuna")


def run_without_extras(code, *arguments):
    """Run some Python in a process that finds none of the extras."""
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in EXTRAS)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {hidden}\n{code}", *arguments],
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
    done = run_without_extras(
        "import importlib\nfor n in sys.argv[1:]: importlib.import_module(n)", *names
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("export", "--output", "OUTPUT"), "fer-on-ray[onnx]")],
)
def test_a_job_names_the_extra_that_it_needs(arguments, extra, tmp_path):
    code = "from ray_jobs.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    output = str(tmp_path / "output")
    done = run_without_extras(code, *(output if word == "OUTPUT" else word for word in arguments))
    assert done.returncode == 2
    assert f"pip install '{extra}'" in done.stderr
    assert "Traceback" not in done.stderr
