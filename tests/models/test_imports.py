import subprocess
import sys

import pytest

IMPORTS = """
import importlib, pkgutil, sys, fer
for module in pkgutil.walk_packages(fer.__path__, "fer."):
    importlib.import_module(module.name)
sys.exit("ray" in sys.modules)
"""
HELP = """
import sys
from ray_jobs.__main__ import main
try:
    main(["--help"])
except SystemExit:
    pass
sys.exit("ray" in sys.modules or "torch" in sys.modules)
"""


def succeeds(code):
    return (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )


def test_fer_never_imports_ray():
    assert succeeds(IMPORTS)


@pytest.mark.parametrize(
    "module",
    [
        *("fer.models.predictor", "fer.labels.files", "fer.serving.app"),
        *("ray_jobs.label", "ray_jobs.labeling.detect", "ray_jobs.labeling.write"),
        *("ray_jobs.pipeline.classify", "ray_jobs.serve", "ray_jobs.evaluate", "ray_jobs.ingest"),
    ],
)
def test_what_runs_on_processors_imports_no_torch(module):
    assert succeeds(f"import sys, {module}; sys.exit('torch' in sys.modules)")


def test_help_imports_neither_ray_nor_torch():
    assert succeeds(HELP)
