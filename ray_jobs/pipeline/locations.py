"""The locations that a job's flags name: made absolute, and asked why when they refuse."""

import dataclasses
import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fer import storage
from fer.errors import InputError
from fer.models.shipped import SHIPPED
from ray_jobs.config import Location, Locations

Config = TypeVar("Config")

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def location_flags(config: object) -> dict[str, Any]:
    """Return the flags of a configuration that hold a location or several."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    kinds = (Location, Location | None, Locations)
    values = {name: getattr(config, name) for name, hint in hints.items() if hint in kinds}
    return {name: value for name, value in values.items() if value is not None}


def resolve(config: Config) -> Config:
    """Make every location of a job's configuration absolute.

    Raises:
        InputError: A scheme is unknown, or the location is relative in a submitted job.
    """
    resolved = {
        name: tuple(_resolve(location, name) for location in value)
        if isinstance(value, tuple)
        else _resolve(value, name)
        for name, value in location_flags(config).items()
    }
    return dataclasses.replace(config, **resolved)  # type: ignore[type-var] # configs are dataclasses


@contextmanager
def explain_refusals(config: object) -> Iterator[None]:
    """Raise why a store refuses everything by now, which what fails first need not know.

    Raises:
        StoreError: A bucket that the configuration names can't be listed any more.
    """
    try:
        yield
    except OSError:
        for value in location_flags(config).values():
            for location in value if isinstance(value, tuple) else (value,):
                storage.check_store(location)
        raise


def _resolve(location: str, field: str) -> str:
    if location in SHIPPED:
        return location
    if _IN_JOB in os.environ and not storage.is_uri(location) and not Path(location).is_absolute():
        raise InputError(
            f"--{field.replace('_', '-')} {location} is relative, and a submitted job's folder is "
            "thrown away: give an absolute path or a URI that every node sees."
        )
    return storage.resolve(location)
