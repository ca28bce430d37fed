"""The tree: what the layout says is there, imports run one way, private names of Ray stand once."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.jobs import MODULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCES = sorted(
    path.relative_to(ROOT) for room in ("fer", "ray_jobs") for path in (ROOT / room).rglob("*.py")
)
PRIVATE_RAY = re.compile(r"ray\.(_\w+|\w+(\.\w+)*\._\w+|core|autoscaler\.v2)(\.|$)")


def imported_modules(path):
    """Yield every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_layout_in_readme_names_every_package():
    (layout,) = re.findall(r"```text\n(ray_jobs/.*?)```", README, re.DOTALL)
    named, parent = set(), ""
    for line in layout.splitlines():
        if match := re.match(r"( *)([a-z_]+)/", line):
            parent = "" if not match[1] else parent
            named.add(f"{parent}{match[2]}")
            parent = parent or f"{match[2]}/"
    packages = {str(path.parent) for path in SOURCES if path.name == "__init__.py"}
    assert packages <= named
    assert all((ROOT / folder).is_dir() for folder in named)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_every_module_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("job", MODULES.values())
def test_commands_import_no_other_command(job):
    others = {f"ray_jobs.{other}" for other in MODULES.values()} - {f"ray_jobs.{job}"}
    imported = set(imported_modules(Path("ray_jobs") / f"{job}.py"))
    assert not {name for name in imported if name in others}


def test_private_names_of_ray_stand_in_one_module():
    holders = {
        str(path)
        for path in SOURCES
        if any(PRIVATE_RAY.match(name) for name in imported_modules(path))
    }
    assert holders <= {"ray_jobs/cluster/internals.py"}


def test_rooms_import_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run(
        [linter, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_help_imports_neither_ray_nor_torch():
    script = (
        "import sys; from ray_jobs.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'ray', 'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
