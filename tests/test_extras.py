"""Without the extras every module imports; jobs that need one say what to install (their tests)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("mlflow", "optuna")


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
