"""What a job tells a person who made a mistake: one sentence, never a traceback."""


class InputError(Exception):
    """A mistake in what was asked for.

    The message is one sentence that says what was expected, what was found and what to do.
    """


class JobError(Exception):
    """A job that was asked for rightly and still could not be done, in one sentence."""


class StoreError(JobError):
    """An object store that refuses all that is in a bucket, not one object of it."""
