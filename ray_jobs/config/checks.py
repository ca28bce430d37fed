"""Checks of flags. An error names the flag, what it must be, and what it is.

They take a job's configuration, and the names of its fields.
"""

from typing import Any
from urllib.parse import urlsplit

from fer.errors import InputError


def flag(name: str) -> str:
    """Return the flag of a field, such as ``--num-epochs``."""
    return f"--{name.replace('_', '-')}"


def require(condition: bool, flag: str, expected: str, value: object) -> None:
    """Refuse a value of a flag unless a condition holds; say what was expected."""
    if not condition:
        raise InputError(f"{flag} must be {expected}, but is {str(value).removesuffix('.0')}.")


def require_at_least(config: Any, minimum: int, *names: str) -> None:  # noqa: ANN401 - any job's
    """Refuse fields below a minimum; None counts as not given."""
    for name in names:
        # A flag that defaults to None is checked only where it is given.
        value = getattr(config, name)
        require(value is None or value >= minimum, flag(name), f"at least {minimum}", value)


def require_above_zero(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    """Refuse fields that are not above zero."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, flag(name), "above 0", value)


def require_fraction(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    """Refuse fields outside [0, 1]."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, flag(name), "from 0 to 1", value)


def require_fraction_below_one(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    """Refuse fields outside [0, 1)."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, flag(name), "at least 0 and below 1", value)


def require_poolable(model: str, flag: str, is_chosen: bool) -> None:
    """Refuse a choice about pooling for a network that does not pool."""
    if is_chosen and model.startswith("resnet"):
        raise InputError(
            f"{flag} needs a --model that pools, but {model} downsamples by strides; choose "
            "shallow, deep or a conv network, or leave the flag out."
        )


def require_seed(seed: int, flag: str = "--seed") -> None:
    """Refuse what NumPy does not take as a seed."""
    require(0 <= seed < 2**32, flag, "from 0 to 4294967295", seed)


def require_distinct(flag: str, values: tuple[int, ...]) -> None:
    """Refuse values of which some are the same."""
    listed = " ".join(map(str, values))
    require(len(set(values)) == len(values), flag, "different numbers", listed)


def require_web_address(config: Any, name: str) -> None:  # noqa: ANN401 - any job's
    """Refuse what is not an ``http://`` or ``https://`` URL; None counts as not given."""
    if (url := getattr(config, name)) is not None and not origin_of(url):
        raise InputError(
            f"{flag(name)} must be an http:// or https:// URL with a host, such as "
            "https://example.com/fer, but is none."
        )


def origin_of(url: str) -> str | None:
    """Return the scheme, host and port of a web address: the parts that are never secret.

    None stands for what is no ``http://`` or ``https://`` URL.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    is_web_address = parts.scheme in ("http", "https") and parts.hostname
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}" if is_web_address else None


def require_processors(engine: str, flag: str, uses_gpus: bool) -> None:
    """Refuse the engine ``int8`` where GPUs run the network."""
    if engine == "int8" and uses_gpus:
        raise InputError(
            f"--engine int8 runs on processors alone; leave it out, or leave out {flag}."
        )


def forbid_together(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    """Refuse flags that exclude each other."""
    chosen = [flag(name) for name in names if getattr(config, name)]
    if len(chosen) > 1:
        *others, last = chosen
        raise InputError(f"{', '.join(others)} and {last} cannot be combined; give one of them.")
