"""A job's output folder: claimed before work begins, gone on with, and never taken from others."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer import storage
from fer.errors import InputError
from fer.storage import listing
from ray_jobs.pipeline import locations

JOB = "job.json"
"""The flags of the job that began an output: where it lies, the rest may be ours."""

MADE_FROM = "made_from"

_SECRET = ("mlflow_uri",)
"""Flags that may hold a password."""


def flags_of(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any job's
    """Return a job's flags as they may be written down and passed on."""
    flags = dataclasses.asdict(config)
    kept = {name: value for name, value in flags.items() if name not in _SECRET}
    # As it is read again: a tuple is a list then.
    return dict(json.loads(json.dumps(kept)))


@dataclass(frozen=True)
class Claim:
    """An output that a job may have, once nothing stands in its way any more.

    Attributes:
        output: Its location.
        outdated: What lies there and goes when it is taken, what marks a result as complete first.
        flags: What is written down of the job that takes it; None where its run is gone on with.
    """

    output: str
    outdated: Sequence[str]
    flags: Mapping[str, Any] | None

    def take(self) -> None:
        """Make the output ready to be written.

        Raises:
            InputError: It can't be written to.
        """
        if self.flags is None:
            return
        try:
            for name in self.outdated:
                storage.delete(storage.join(self.output, name))
            content = json.dumps(self.flags, indent=2).encode()
            storage.write_bytes(storage.join(self.output, JOB), content)
        except OSError as error:
            raise InputError(f"{self.output} can't be written to: {error}") from error


def claim(
    config: Any,  # noqa: ANN401 - any job's
    finished: str,
    parts: Collection[str],
    made_from: Mapping[str, str] | None = None,
) -> Claim:
    """Claim an output, and leave alone what is not ours.

    Args:
        config: The job's, with ``output`` and ``overwrite``.
        finished: The file that is written last: where it is, a result is complete.
        parts: What else a result consists of, left over perhaps by a run that did not finish.
        made_from: What the result is made from, as pairs of what it is and a fingerprint, for when
            the job is resumed.

    Raises:
        InputError: A result is there, or something else, or what the job reads.
    """
    output = config.output
    if storage.exists(output) and not storage.is_folder(output):
        raise InputError(f"{output} is a file: expected a folder to write to.")
    found = listing.names(output)
    is_begun, is_complete = JOB in found, finished in found
    if is_complete and not config.overwrite:
        raise InputError(f"{output} already holds a result: name another, or --overwrite it.")
    ours = {JOB, finished, *parts} if is_begun else set()
    if others := sorted(found - ours):
        raise InputError(f"{output} holds {others[0]}, which is not ours: name an empty folder.")
    _check_apart(config)
    outdated = (finished, *sorted(found - {finished, JOB}))
    return Claim(output, outdated, {**flags_of(config), MADE_FROM: made_from or {}})


def _check_apart(config: Any) -> None:  # noqa: ANN401
    """Refuse to delete what is to be read."""
    for name, value in locations.named(config).items():
        for location in value if isinstance(value, tuple) else (value,):
            if name != "output" and f"{location}/".startswith(f"{config.output}/"):
                raise InputError(
                    f"--{name.replace('_', '-')} {location} lies in the output, which begins "
                    "empty: name another --output."
                )


def claim_or_resume(
    config: Any,  # noqa: ANN401 - any job's that can be resumed
    finished: str,
    parts: Collection[str],
    *,
    begun: str,
    goes_on: bool,
    may_change: Collection[str],
    made_from: Mapping[str, str],
) -> Claim:
    """Claim an output, or check that the run in it is the one to go on with.

    Args:
        config: The job's, with ``output`` and ``overwrite``.
        finished: The file that is written last: where it is, a result is complete.
        parts: What else a result consists of.
        begun: The part that tells that a run got somewhere, and should not be thrown away.
        goes_on: Whether the run that the output holds is to be gone on with.
        may_change: Flags that may differ when the run is resumed.
        made_from: What the result is made from, as pairs of what it is and a fingerprint.

    Raises:
        InputError: There is nothing to resume, the run began with or from something else, or the
            output holds a run that nobody asked to resume or to replace.
    """
    if goes_on:
        _check_same_run(config, may_change, made_from)
        return Claim(config.output, outdated=(), flags=None)
    if storage.exists(storage.join(config.output, begun)) and not config.overwrite:
        raise InputError(
            f"{config.output} already holds a run: --resume goes on with it, --overwrite replaces "
            "it, or name another folder."
        )
    return claim(config, finished, parts, made_from)


def _check_same_run(
    config: Any,  # noqa: ANN401
    may_change: Collection[str],
    made_from: Mapping[str, str],
) -> None:
    if not storage.exists(storage.join(config.output, JOB)):
        raise InputError(f"{config.output} holds no run to resume: start one without --resume.")
    flags = json.loads(storage.read_bytes(storage.join(config.output, JOB)))
    # A run that was begun before there was a flag did what its default does.
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    known = {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()
    } | flags
    changed = [
        f"--{name.replace('_', '-')}"
        for name, value in flags_of(config).items()
        if name not in may_change and value != known[name]
    ]
    if changed:
        raise InputError(
            f"The run in {config.output} began with another {', '.join(changed)}: resume it with "
            "the same, or start anew with --overwrite."
        )
    for what, now in made_from.items():
        if (then := flags.get(MADE_FROM, {}).get(what, now)) != now:
            raise InputError(
                f"The run in {config.output} began with another {what}, {then[:24]} and not "
                f"{now[:24]}: resume it with the same, or start anew with --overwrite."
            )
