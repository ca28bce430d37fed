"""Errors that a job reports to the user as one sentence, without a traceback."""


class InputError(Exception):
    """A mistake in the user's input.

    The message is one sentence that says what was expected, what was found and what to do.
    """


class JobError(Exception):
    """A job with valid input that failed. The message is one sentence."""


class StoreError(JobError):
    """An object store that refuses access to a whole bucket, rather than to one of its objects."""
