"""The locations in a job's flags: made absolute before the job, checked after a failure."""

import dataclasses
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fer import storage
from fer.errors import InputError
from fer.models.shipped import IMAGENET, SHIPPED
from ray_jobs.cluster import internals
from ray_jobs.config import Location, Locations, OptionalLocation
from ray_jobs.flag_help import without_help

Config = TypeVar("Config")


def location_flags(config: object) -> dict[str, Any]:
    """Return the flags of a configuration that hold locations, except those that are None."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    kinds = (Location, OptionalLocation, Locations)
    values = {
        name: getattr(config, name) for name, hint in hints.items() if without_help(hint) in kinds
    }
    return {name: value for name, value in values.items() if value is not None}


def resolve(config: Config) -> Config:
    """Return a job's configuration with absolute locations.

    Raises:
        InputError: A scheme is unknown, or a location is relative in a submitted job.
    """
    resolved = {
        name: tuple(_resolve(location, name) for location in value)
        if isinstance(value, tuple)
        else _resolve(value, name)
        for name, value in location_flags(config).items()
    }
    return dataclasses.replace(config, **resolved)  # type: ignore[type-var] # configs are dataclasses


def check_outside(output: str, flag: str, folder: str) -> None:
    """Refuse an output inside a folder that the job reads.

    Raises:
        InputError: The output is that folder or lies inside it.
    """
    inner, outer = (storage.strip_access_mode(location) for location in (output, folder))
    if f"{inner}/".startswith(f"{outer}/"):
        raise InputError(
            f"--output {output} lies inside --{flag} {folder} and would be read with it; choose "
            "another --output."
        )


@contextmanager
def explain_refusals(config: object) -> Iterator[None]:
    """Replace an error by its cause if a store now refuses every request.

    The request that fails first, deep in a stage, often does not reveal that credentials have
    expired or that a bucket is gone.

    Raises:
        StoreError: A bucket in the flags can no longer be listed.
    """
    try:
        yield
    except OSError:
        for value in location_flags(config).values():
            for location in value if isinstance(value, tuple) else (value,):
                storage.check_store(location)
        raise


@contextmanager
def refuse_unwritable(output: str) -> Iterator[None]:
    """Turn a failure to write to an output, before a job begins, into a refusal of that output.

    Raises:
        InputError: The output can't be written to.
        StoreError: Its bucket can no longer be listed.
    """
    try:
        yield
    except OSError as error:
        storage.check_store(output)
        raise InputError(
            f"{output} can't be written to: {storage.describe_error(error)}; repair it, or choose "
            "another --output."
        ) from error


def _resolve(location: str, field: str) -> str:
    if location in SHIPPED or (location == IMAGENET and field == "pretrained"):
        return location
    is_relative = not storage.is_uri(location) and not Path(location).is_absolute()
    if is_relative and internals.is_submitted_job():
        raise InputError(
            f"--{field.replace('_', '-')} {location} is a relative path, but Ray deletes the "
            "working folder of a submitted job. Give an absolute path or a URI that all nodes see."
        )
    resolved = storage.resolve(location)
    if field not in ("images", "source") and not storage.is_plain(resolved):
        raise InputError(
            f"--{field.replace('_', '-')} {resolved} has a name that is not valid UTF-8, or looks "
            "like an escape of one; rename it, or choose another location."
        )
    return resolved
