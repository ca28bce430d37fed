"""Check the prose of Markdown pages with proselint and with the vocabulary of this project.

Code is not prose: fenced blocks, inline code, link targets, addresses and HTML tags are masked
first, so that lines and columns stay the same. proselint is configured in .proselintrc.json; the
vocabulary is scripts/vocabulary.txt.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from proselint.checks import __register__ as proselint_checks
from proselint.config import load_from
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parents[1]
CODE = re.compile(
    r"^ *(?P<fence>```|~~~).*?^ *(?P=fence) *$"  # a fenced block
    r"|`[^`]+`"
    r"|(?<=\]\()[^)]+"  # the target of a link
    r"|<[^<>\n]+>"
    r"|https?://\S+"
    r"|\bmultiply-add(?=s?\b)",  # which proselint takes for an adverb
    re.MULTILINE | re.DOTALL,
)

Finding = tuple[int, int, str]
"""Line and column, counted from 1, and a message."""


def mask_code(text: str) -> str:
    """Replace each character of code by one that belongs to no word, and keep white space.

    Empty lines get one too: words on both sides of a paragraph's end do not belong together.
    """
    masked = CODE.sub(lambda code: re.sub(r"\S", "¤", code[0]), text)
    return re.sub(r"(?<=\n)(?=\n)", "¤", masked)


def read_vocabulary(file: Path) -> list[tuple[re.Pattern[str], str]]:
    """Read lines of `pattern -> advice`, where a pattern is a regular expression of whole words."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    entries = [line.split(" -> ") for line in lines]
    return [
        (re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.IGNORECASE), advice)
        for pattern, advice in entries
    ]


def find_terms(text: str, vocabulary: list[tuple[re.Pattern[str], str]]) -> Iterator[Finding]:
    """Find the terms that the vocabulary advises against."""
    for pattern, advice in vocabulary:
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            column = match.start() - text.rfind("\n", 0, match.start())
            yield line, column, f"vocabulary: {' '.join(match[0].split())!r}: {advice}."


def find_style(text: str) -> Iterator[Finding]:
    """Find what proselint objects to."""
    file = LintFile("page", text)
    for result in file.lint(load_from(ROOT / ".proselintrc.json")):
        check = result.check_result
        yield *result.pos, f"{check.check_path}: {check.message}"


def main() -> int:
    """Check the named pages, and print each finding as `file:line:column: message`."""
    CheckRegistry().register_many(proselint_checks)
    vocabulary = read_vocabulary(ROOT / "scripts" / "vocabulary.txt")
    num_findings = 0
    for page in sys.argv[1:]:
        text = mask_code(Path(page).read_text())
        findings = sorted([*find_terms(text, vocabulary), *find_style(text)])
        num_findings += len(findings)
        for line, column, message in findings:
            print(f"{page}:{line}:{column}: {message}")
    return int(num_findings > 0)


if __name__ == "__main__":
    sys.exit(main())
