"""Write docs/command-line.md from the flags in ray_jobs/config.py.

    python scripts/command_line.py

A test compares the page with the flags, so that neither changes alone.
"""

import ast
import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

from ray_jobs import config
from ray_jobs.jobs import MODULES

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"

HEAD = """# Command line

`fer JOB` on one machine and `python -m ray_jobs JOB` on a cluster are the same. `fer JOB --help`
prints what follows. A LOCATION is a local path, an `s3://` URI, or another URI that
`pyarrow.fs.FileSystem.from_uri` opens; a checkpoint can also be the name of a shipped one, such as
`bundled`. Flags that take several values accept them after one flag (`--source a b`) or after
several (`--source a --source b`).

This page is made from the flags by `python scripts/command_line.py`.
"""


def page() -> str:
    """Return the page: a section a job, with a table of its flags."""
    return HEAD + "".join(_section(job, name) for job, name in MODULES.items())


def _section(job: type, name: str) -> str:
    hints = typing.get_type_hints(job, include_extras=True)
    help_texts = _help_texts(job)
    rows = [
        f"| {_flag(field, hints[field.name])} | {_default(field)} | {help_texts[field.name]} |"
        for field in dataclasses.fields(job)
    ]
    what = inspect.cleandoc(job.__doc__ or "")
    table = "\n".join(["| flag | default | |", "|---|---|---|", *rows])
    return f"\n## {name}\n\n{what}\n\n{table}\n"


def _help_texts(job: type) -> dict[str, str]:
    """Return the docstring below each field, as one line."""
    (definition,) = ast.parse(inspect.getsource(job)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for node, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(node.target, ast.Name)
            assert isinstance(following.value, ast.Constant)
            text = " ".join(inspect.cleandoc(following.value.value).split())
            texts[node.target.id] = text.replace("|", "\\|")
    return texts


def _flag(field: dataclasses.Field[Any], hint: Any) -> str:  # noqa: ANN401
    flag = field.name.replace("_", "-")
    if hint is bool:
        return f"`--{flag}`, `--no-{flag}`"
    return f"`--{flag} {_value(hint)}`"


def _value(hint: Any) -> str:  # noqa: ANN401
    """Return how a flag's value is written: ``LOCATION``, ``INT``, ``{yunet,none}``."""
    if hint in (config.Location, config.Location | None):
        return "LOCATION"
    if typing.get_origin(hint) is typing.Annotated:
        return _value(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(typing.get_args(hint)) + "}"
    if typing.get_origin(hint) is tuple:
        return f"{_value(typing.get_args(hint)[0])}…"
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if options:
        return _value(options[0])
    return {int: "INT", float: "FLOAT", str: "TEXT"}[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "" if field.default in (None, ()) else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(page())
