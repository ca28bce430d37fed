"""Standard error of a job, without what Ray's core prints there that says nothing to a user."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NOISE = r"logging\.cc:\d+: Set ray log level from environment variable"
"""The line that acknowledges ``RAY_BACKEND_LOG_LEVEL``, which Ray logs before it obeys it."""

RELAY = f"""
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin.buffer:
    if not re.search(rb"{NOISE}", line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""

END_SECONDS = 1.0
"""How long the relay may take to print its last lines."""


@contextmanager
def filtered() -> Iterator[None]:
    """Leave Ray's noise out of what the block writes to file descriptor 2.

    Ray's core writes to the descriptor itself, which ``contextlib.redirect_stderr`` does not reach.
    Another process prints the lines, so that the last ones are not lost where Ray's core aborts
    this process.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    relay = subprocess.Popen(  # noqa: S603 - this Python, with a program of our own
        [sys.executable, "-ISc", RELAY], stdin=subprocess.PIPE, stdout=terminal
    )
    assert relay.stdin is not None
    os.dup2(relay.stdin.fileno(), 2)
    relay.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        # A process that Ray started may still hold its end of the pipe.
        with suppress(subprocess.TimeoutExpired):
            relay.wait(END_SECONDS)
