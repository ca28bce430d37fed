"""Write docs/command-line.md from the flags in ray_jobs/config/.

    python scripts/command_line.py

A test compares the page with the flags, so that neither changes alone.
"""

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

from ray_jobs import config
from ray_jobs.flag_help import help_texts, without_help
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
    texts = help_texts(job)
    rows = [
        f"| {_flag(name, without_help(hints[name]))} | {_default(field)} | {_escape(texts[name])} |"
        for name, field in job.__dataclass_fields__.items()
    ]
    what = inspect.cleandoc(job.__doc__ or "")
    table = "\n".join(["| flag | default | |", "|---|---|---|", *rows])
    return f"\n## {name}\n\n{what}\n\n{table}\n"


def _flag(name: str, hint: Any) -> str:  # noqa: ANN401
    flag = name.replace("_", "-")
    if hint is bool:
        return f"`--{flag}`, `--no-{flag}`"
    return f"`--{flag} {_value(hint)}`"


def _value(hint: Any) -> str:  # noqa: ANN401
    """Return how a flag's value is written: ``LOCATION``, ``INT``, ``{yunet,none}``."""
    if hint in (config.Location, config.OptionalLocation, config.OptionalUrl):
        return "URL" if hint == config.OptionalUrl else "LOCATION"
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


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "" if field.default in (None, ()) else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(page())
