"""The flags that people's scripts rely on, frozen: a change of one must be made here too."""

import dataclasses
from pathlib import Path

from ray_jobs.jobs import MODULES
from ray_jobs.pipeline.outputs import flag_of

FROZEN = Path(__file__).with_name("flags.txt")


def test_flags_are_those_that_are_frozen():
    flags = [
        f"{job} {flag_of(field.name)} {_default(field)}"
        for config, job in MODULES.items()
        for field in dataclasses.fields(config)
    ]
    assert flags == FROZEN.read_text().splitlines(), (
        "flags.txt lists every job's flags with their defaults; if this change is meant, edit it, "
        "and say so in CHANGELOG.md"
    )


def _default(field):
    return "required" if field.default is dataclasses.MISSING else repr(field.default)
