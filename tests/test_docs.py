"""README and docs: their commands parse, their links lead somewhere, their commits exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.__main__ import main
from ray_jobs.jobs import MODULES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
JOB = re.compile(rf"(?:\bfer|python -m ray_jobs) ((?:{'|'.join(MODULES.values())})\b.*)")


def commands():
    """Every job that a shell block runs, as a pair of page and arguments."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := JOB.search(line):
                    yield page.name, match[1]


@pytest.mark.parametrize(("page", "command"), [*commands()])
def test_commands_parse(page, command, monkeypatch):
    configs = []
    monkeypatch.setattr("ray_jobs.jobs.run", lambda config: configs.append(config) or {})
    assert main(shlex.split(command, comments=True)) == 0
    assert len(configs) == 1


def test_readme_and_docs_run_every_job():
    assert {command.split()[0] for _, command in commands()} == set(MODULES.values())


def test_benchmarks_exist():
    named = {name for page in PAGES for name in re.findall(r"benchmarks/\w+\.py", page.read_text())}
    assert "benchmarks/growth.py" in named
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_name_their_language(page):
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert all(fences[::2]), "a code block without a language"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in set(anchors(target)), link


def test_commits_exist():
    """A number in the docs names its commit, which must be in the history where there is one."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: there is no history to look in")
    history = subprocess.run(
        ["git", "rev-list", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.startswith("true"):
        pytest.skip("this checkout is shallow: it lacks the history to look in")
    cited = {
        commit
        for page in PAGES
        for commit in re.findall(r"\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{7}\b", page.read_text())
    }
    abbreviated = {commit[:7] for commit in history}
    assert cited <= abbreviated


def test_command_line_page_is_made_from_the_flags(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import command_line

    assert command_line.PAGE.read_text() == command_line.page(), (
        "docs/command-line.md differs from the flags: run python scripts/command_line.py"
    )
    sys.modules.pop("command_line")
