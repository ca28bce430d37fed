"""torch, which the extra ``train`` installs: on processors, label and serve do without it."""

from importlib.util import find_spec

from fer.errors import InputError


def has_torch() -> bool:
    """Tell whether torch is installed."""
    return find_spec("torch") is not None


def require_torch(what: str) -> None:
    """Check that torch is installed.

    Args:
        what: What needs it, the subject of the error's sentence.

    Raises:
        InputError: It is not installed.
    """
    if not has_torch():
        raise InputError(
            f"{what} needs torch, which is not installed; install it with "
            "pip install 'fer-on-ray[train]', or take the image that has it."
        )
