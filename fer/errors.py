"""Errors that a job reports to the user as one sentence, without a traceback."""


class InputError(Exception):
    """A mistake in the user's input.

    The message is one sentence that says what was expected, what was found and what to do.
    """


class JobError(Exception):
    """A job with valid input that failed. The message is one sentence."""


class StoreError(JobError):
    """An object store that refuses access to a whole bucket, rather than to one of its objects."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop, to quote in another."""
    return _lines(error)[0].strip().rstrip(".")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, without its full stop, to quote in another.

    Messages that quote a traceback end with what happened.
    """
    return _lines(error)[-1].strip().rstrip(".")


def _lines(error: BaseException) -> list[str]:
    """Return the lines of an error's message; its class if the message is empty."""
    return str(error).strip().splitlines() or [type(error).__name__]
