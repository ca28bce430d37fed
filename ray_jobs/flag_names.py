"""The names on a command line: an unknown job or flag, or a missing one, is refused in a sentence.

tyro would refuse them as well, in a box of up to twenty lines.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from fer.errors import InputError
from ray_jobs import jobs
from ray_jobs.pipeline.outputs import flag_of


def check(arguments: Sequence[str]) -> None:
    """Check the name of the job and those of its flags, unless help is asked for.

    Raises:
        InputError: The job or a flag is unknown, or a flag that the job needs is missing.
    """
    if {"-h", "--help"} & {*arguments}:
        return
    configs = {name: config for config, name in jobs.MODULES.items()}
    job = arguments[0] if arguments else ""
    # What precedes the job is meant for tyro, such as --tyro-print-completion.
    if job.startswith("-"):
        return
    if job not in configs:
        problem = f"has no job {job}" if job else "needs a job"
        raise InputError(f"fer {problem}; choose one of {', '.join(configs)}.")
    given = [_name_of(argument) for argument in arguments[1:] if argument.startswith("--")]
    _check_flags(job, given, dataclasses.fields(configs[job]))


def _name_of(argument: str) -> str:
    """Return the flag in ``--num_workers=4`` as it is documented: ``--num-workers``."""
    return argument.partition("=")[0].replace("_", "-")


def _check_flags(job: str, given: Sequence[str], fields: Sequence[dataclasses.Field[Any]]) -> None:
    switches = [field for field in fields if isinstance(field.default, bool)]
    known = [flag_of(field.name) for field in fields]
    known += [flag_of(f"no_{field.name}") for field in switches]
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            advice = f"give {nearest[0]}, or see" if nearest else "see"
            raise InputError(f"fer {job} has no flag {name}; {advice} fer {job} --help.")
    required = [flag_of(field.name) for field in fields if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in given]:
        raise InputError(f"fer {job} needs {' and '.join(missing)}; see fer {job} --help.")
