"""A job's output folder: reserved before work begins, committed when the result is complete."""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fer import storage
from fer.errors import InputError
from fer.storage import listing
from ray_jobs import jobs
from ray_jobs.pipeline import leases, locations

JOB = "job.json"
"""The flags of the job that started an output. Where this file exists, the folder is fer's own."""

FINGERPRINTS = "made_from"
"""Key in ``job.json`` of what the result is made from: the id or digest of each input."""

OUTDATED = "outdated"
"""Key in ``job.json`` of what is still to be deleted before a run that has begun can work."""

_SECRET_FLAGS = ("mlflow_uri", "notify")
"""Flags that may hold a password and are never written down."""


@dataclass(frozen=True)
class OutputSpec:
    """What a job leaves in its output folder, declared once by each job.

    Attributes:
        completed_by: The file that is written last. Where it exists, the result is complete.
        contents: Names of everything else that the job writes into the folder.
        started_by: The name that shows that a run made progress worth keeping; None for jobs that
            cannot be resumed and simply start over.
        changeable_flags: Flags that may differ when a run is resumed. All others define the result.
    """

    completed_by: str
    contents: tuple[str, ...]
    started_by: str | None = None
    changeable_flags: frozenset[str] = frozenset()

    def is_complete(self, output: str) -> bool:
        """Tell whether an output holds a complete result."""
        return storage.exists(storage.join(output, self.completed_by))

    @contextmanager
    def reserve(
        self,
        config: Any,  # noqa: ANN401 - any job's
        fingerprints: Mapping[str, str] | None = None,
        started: float | None = None,
    ) -> Iterator["Reservation"]:
        """Hold an output while a job writes it, and leave everything there untouched.

        Args:
            config: The job's configuration, with ``output``, ``overwrite`` and perhaps ``resume``
                and ``update``.
            fingerprints: The id or digest of each input, which a resumed run must find unchanged.
            started: When the job was asked for, by ``time.monotonic``; now by default.

        Raises:
            InputError: The output holds a result, a run, or files that fer did not create; the run
                in it cannot be resumed with these flags and inputs; or another job writes it.
        """
        fingerprints, started = fingerprints or {}, started or time.monotonic()
        reservation = self._check(config, fingerprints, started)
        if reservation.is_resumed and reservation.is_complete:
            # Nothing is to be written, perhaps nothing may be.
            yield reservation
            return
        with leases.hold(config.output, jobs.MODULES[type(config)]):
            # Another job may have written the output since it was checked.
            yield self._check(config, fingerprints, started)

    def _check(
        self,
        config: Any,  # noqa: ANN401
        fingerprints: Mapping[str, str],
        started: float,
    ) -> "Reservation":
        resume, update = getattr(config, "resume", False), getattr(config, "update", False)
        has_run = storage.exists(storage.join(config.output, JOB))
        if has_run and (resume or update):
            job = json.loads(storage.read_bytes(storage.join(config.output, JOB)))
            self._check_same_run(config, fingerprints, job)
            outdated = tuple(job.pop(OUTDATED, ()))
            begun = job if outdated else None
            return Reservation(
                self, config.output, started, outdated, begun, is_resumed=resume, is_updated=update
            )
        if self.started_by and not (config.overwrite or resume or update):
            self._check_not_started(config.output)
        outdated = self._check_replaceable(config)
        _check_inputs_survive(config)
        job = {**flags_of(config), FINGERPRINTS: fingerprints}
        return Reservation(self, config.output, started, outdated, job)

    def _check_not_started(self, output: str) -> None:
        assert self.started_by is not None
        if storage.exists(storage.join(output, self.started_by)):
            raise InputError(
                f"{output} already holds a run; continue it with --resume, replace it with "
                "--overwrite, or choose another --output."
            )

    def _check_replaceable(self, config: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Return the names in the output that a new run replaces, the completing file first."""
        output = config.output
        if storage.exists(output) and not storage.is_folder(output):
            raise InputError(f"{output} is a file; choose a folder as --output.")
        names = listing.child_names(output)
        if self.completed_by in names and not config.overwrite:
            raise InputError(
                f"{output} already holds a result; choose another --output, or replace it with "
                "--overwrite."
            )
        own = {JOB, self.completed_by, *self.contents} if JOB in names else set()
        if foreign := sorted(names - own):
            raise InputError(
                f"{output} contains {foreign[0]}, which fer did not create; choose an empty folder."
            )
        return (self.completed_by, *sorted(names - {self.completed_by, JOB}))

    def _check_same_run(
        self,
        config: Any,  # noqa: ANN401
        fingerprints: Mapping[str, str],
        job: Mapping[str, Any],
    ) -> None:
        """Refuse to resume a run that other flags or other inputs started."""
        hint = "resume it unchanged, or start over with --overwrite."
        if changes := ", ".join(self._changed_flags(config, job)):
            raise InputError(f"The run in {config.output} was started with {changes}; {hint}")
        for name, current in fingerprints.items():
            original = job.get(FINGERPRINTS, {}).get(name, current)
            if original != current:
                raise InputError(
                    f"The run in {config.output} was started with another {name} "
                    f"({original[:24]}, now {current[:24]}); {hint}"
                )

    def _changed_flags(self, config: Any, job: Mapping[str, Any]) -> Iterator[str]:  # noqa: ANN401
        """Yield each flag that differs from the started run's: ``--lr 0.05 (now 0.1)``."""
        # A run that is older than a flag did what the flag's default does.
        original = {**_defaults_of(config), **job}
        for name, value in flags_of(config).items():
            if name not in self.changeable_flags and value != original[name]:
                yield f"{flag_of(name)} {_spell(original[name])} (now {_spell(value)})"


@dataclass(frozen=True)
class Reservation:
    """An output that a job may write to.

    Attributes:
        spec: What the job writes.
        output: Location of the folder.
        started: When the job was asked for, by ``time.monotonic``.
        outdated: Names that are deleted when the job begins, the completing file first.
        job: Content of ``job.json``; None where an earlier run is continued that has begun.
        is_resumed: Whether the job continues the run that the output holds.
        is_updated: Whether the job adds to the labels that the output holds.
    """

    spec: OutputSpec
    output: str
    started: float
    outdated: tuple[str, ...] = ()
    job: Mapping[str, Any] | None = None
    is_resumed: bool = False
    is_updated: bool = False

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the job was asked for."""
        return time.monotonic() - self.started

    @property
    def is_complete(self) -> bool:
        """Whether the output already holds a complete result, which a resumed run only reports."""
        return self.spec.is_complete(self.output)

    def read_completed(self) -> dict[str, Any]:
        """Return the content of the completing file."""
        content = storage.read_bytes(storage.join(self.output, self.spec.completed_by))
        return dict(json.loads(content))

    def begin(self) -> None:
        """Delete what is outdated and write down which job owns the folder.

        What is to be deleted is written down, too: a resumed run must not take what a killed one
        has left for its own.

        Raises:
            InputError: The output cannot be written to.
        """
        if self.job is None:
            return
        completing, others = self.outdated[:1], self.outdated[1:]
        with locations.refuse_unwritable(self.output):
            self._delete(completing)
            if others:
                self._write_job({**self.job, OUTDATED: self.outdated})
                self._delete(others)
            self._write_job(self.job)

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            storage.delete(storage.join(self.output, name))

    def _write_job(self, job: Mapping[str, Any]) -> None:
        content = json.dumps(job, indent=2).encode()
        storage.write_bytes(storage.join(self.output, JOB), content)

    def commit(
        self, completing: Mapping[str, Any], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Write the last files; the completing one, as JSON, only when all others are there.

        Args:
            completing: Content of the file that makes the result complete.
            files: Content of other files by name.
        """
        content = json.dumps(completing, indent=2).encode()
        for name, data in {**(files or {}), self.spec.completed_by: content}.items():
            storage.write_bytes(storage.join(self.output, name), data)


def flag_of(field_name: str) -> str:
    """Return the flag of a configuration's field: ``--num-workers`` for ``num_workers``."""
    return f"--{field_name.replace('_', '-')}"


def flags_of(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any job's
    """Return a job's flags as JSON values, without those that may hold a password."""
    flags = dataclasses.asdict(config)
    public = {name: value for name, value in flags.items() if name not in _SECRET_FLAGS}
    # A tuple becomes a list, as it will be when it is read again.
    return dict(json.loads(json.dumps(public)))


def _spell(value: Any) -> str:  # noqa: ANN401 - any flag's value
    """Return a flag's value as an error shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "unset"
    return "unset" if value is None else str(value)


def _defaults_of(config: Any) -> dict[str, Any]:  # noqa: ANN401
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()
    }


def _check_inputs_survive(config: Any) -> None:  # noqa: ANN401
    """Refuse an input inside the output, whose old content is deleted when the job begins."""
    for name, value in locations.location_flags(config).items():
        for location in value if isinstance(value, tuple) else (value,):
            if name != "output" and f"{location}/".startswith(f"{config.output}/"):
                raise InputError(
                    f"{flag_of(name)} {location} lies inside --output {config.output}, which is "
                    "emptied first; choose another --output."
                )
