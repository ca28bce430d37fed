"""Leases: an output belongs to one job at a time, on whatever kind of store it is.

A job claims an output by writing a file there, whose name no other job uses. If it then lists no
other claim, it holds the output. Of two jobs, one writes its claim second, and lists the first
one's. So at most one of them is alone. The store need not offer an exclusive create: it must only
list what was written, as file systems and S3 do. Jobs that see each other's claims withdraw them
and try again after random times.

The holder renews its claim while it works. A claim that stays the same for ``EXPIRES_SECONDS``
belongs to a lost job and is deleted. The job that waits for this measures the time by its own
clock, because the clocks of machines differ. Where the holder ran on the same machine and its
process has ended, the claim is deleted at once.
"""

import json
import os
import random
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from fer import storage
from fer.errors import InputError, JobError, StoreError
from fer.storage import listing
from ray_jobs.pipeline import locations

PREFIX = ".lease-"
"""Prefix of the names of claims. A name that begins with a dot belongs to no job's result."""

RENEW_SECONDS, EXPIRES_SECONDS = 10.0, 60.0
"""How often a claim is renewed, and how long it counts without being renewed."""

POLL_SECONDS = 1.0
"""How often a waiting job looks at the claim of another."""

_ACTIVE: set[str] = set()
"""Names of the claims that jobs of this process have made and not withdrawn."""

MAX_ATTEMPTS = 10
"""How often a job claims an output that others claim at the same moment."""


class HeldError(InputError):
    """Another job holds the output.

    Attributes:
        output: Location of the folder.
        reason: Who writes it, as a sentence without its full stop.
    """

    def __init__(self, output: str, holder: str) -> None:
        self.output, self.reason = output, f"{output} is being written by {holder}"
        super().__init__(
            f"{self.reason}; wait until that job ends, stop it, or choose another --output."
        )


@dataclass(frozen=True)
class Holder:
    """The process that a claim belongs to.

    Attributes:
        job: Name of the job, such as ``label``.
        host: Name of the machine.
        pid: Number of the process.
        process: Tells the process from others that have this number on other machines, or had it
            before; None where the system has no ``/proc``.
        since: When the job began, by the clock of its machine.
        renewals: How often the claim was renewed; 0 until the job knows that it holds the output.
    """

    job: str
    host: str
    pid: int
    process: str | None
    since: str
    renewals: int = 0

    @classmethod
    def this_process(cls, job: str) -> "Holder":
        """Return this process as the holder of a claim that it makes now."""
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return cls(job, socket.gethostname(), os.getpid(), _identify(os.getpid()), since)

    @classmethod
    def from_json(cls, content: bytes) -> "Holder | None":
        """Return the holder that a claim names; None if this version can't read the claim."""
        try:
            return cls(**json.loads(content))
        except (TypeError, ValueError):
            return None

    def to_json(self) -> bytes:
        """Return the content of a claim."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_running(self) -> bool | None:
        """Whether the process runs; None if this can't be found out from here."""
        if self.process is None or _machine() != self.process.rpartition(" ")[0]:
            return None
        return _identify(self.pid) == self.process

    @property
    def is_this_process(self) -> bool:
        """Whether the holder is a job of this process."""
        # The process's id alone does not tell: processes may start at the same moment.
        return self.pid == os.getpid() and self.is_running is True

    def __str__(self) -> str:
        return f"fer {self.job} (process {self.pid} on {self.host}, since {self.since})"


def _machine() -> str | None:
    """Return an id of this start of the machine and of this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _identify(pid: int) -> str | None:
    """Return an id of a running process, or None if there is none of this number."""
    try:
        # What follows the name, which may contain spaces and ")": see proc_pid_stat(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, start_time = fields[0], fields[19]
    return None if state in "ZX" else f"{_machine()} {start_time}"


@contextmanager
def hold(output: str, job: str) -> Iterator[None]:
    """Hold an output while the block runs.

    Args:
        output: Location of the folder. A local one is created, and deleted if it stays empty.
        job: Name of the job, for the message that other jobs print.

    Raises:
        HeldError: Another job holds the output.
        InputError: The output can't be written to.
        JobError: Another job took the output over while this one could not renew its claim.
    """
    claim = _Claim(output, Holder.this_process(job))
    with _deleted_if_empty(output):
        try:
            with locations.refuse_unwritable(output):
                claim.acquire()
            with claim.renewed():
                yield
        finally:
            claim.withdraw()


@contextmanager
def _deleted_if_empty(output: str) -> Iterator[None]:
    folders: list[Path] = []
    if not storage.is_uri(output):
        folders = [path for path in (Path(output), *Path(output).parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in folders:
                folder.rmdir()


@dataclass
class _Claim:
    """This process's claim to an output.

    Attributes:
        output: Location of the folder.
        holder: This process.
        name: Name of the claim's file, once there is one.
        dead: Names of the claims of lost jobs, which this job deleted.
        loss: How this job lost the output, as the end of a sentence; None as long as it holds it.
    """

    output: str
    holder: Holder
    name: str | None = None
    dead: set[str] = field(default_factory=set)
    loss: str | None = None

    def acquire(self) -> None:
        """Claim the output, alone.

        Raises:
            HeldError: Another job holds the output.
        """
        for _ in range(MAX_ATTEMPTS):
            for name in self._others():
                self._outlive(name)
            # A new name, since others may have taken the last one for that of a lost job.
            self.name, self.loss = f"{PREFIX}{uuid.uuid4().hex}", None
            _ACTIVE.add(self.name)
            self._write()
            others = self._others()
            if not others:
                self._renew()
                if self.loss is None:
                    return
            self.withdraw()
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - no secret
        raise self._refusal(None)

    def _outlive(self, name: str) -> None:
        """Wait until another claim is withdrawn, or is known to be dead, and then delete it.

        Raises:
            HeldError: The other job holds the output.
        """
        first = content = self._read(name)
        if first is not None and _is_running(name, first) is None:
            print(
                f"Waiting up to {EXPIRES_SECONDS:.0f} s to see whether {_describe(first)} still "
                f"writes {self.output}",
                file=sys.stderr,
                flush=True,
            )
        deadline = time.monotonic() + EXPIRES_SECONDS
        while content is not None:
            is_running = _is_running(name, content)
            if is_running is False or time.monotonic() > deadline:
                self.dead.add(name)
                self._delete(name)
                return
            if _is_held(content) and (is_running or content != first):
                raise self._refusal(content)
            time.sleep(POLL_SECONDS)
            content = self._read(name)

    def _refusal(self, content: bytes | None) -> HeldError:
        return HeldError(self.output, _describe(content))

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the claim while the block runs.

        Raises:
            JobError: Another job took the output over.
        """
        released = threading.Event()
        renewal = threading.Thread(target=self._keep_renewing, args=(released,), daemon=True)
        renewal.start()
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            if self.loss is None:
                raise
            raise JobError(f"This job lost {self.output}: {self.loss}.") from None
        finally:
            released.set()
            renewal.join()

    def _keep_renewing(self, released: threading.Event) -> None:
        while self.loss is None and not released.wait(RENEW_SECONDS):
            # Whatever fails is tried again: a thread that ended would give the output away.
            with suppress(Exception):
                self._renew()
        # Again, since a signal that comes just before a thread begins to sleep does not wake it.
        while self.loss is not None and not released.is_set():
            _interrupt_main_thread()
            released.wait(RENEW_SECONDS)

    def _renew(self) -> None:
        names = self._list()
        if self.name not in names:
            self.loss = self._explain_loss(names - self.dead)
            return
        # A lost job that wakes up may have written its claim once more.
        for name in names & self.dead:
            self._delete(name)
        self.holder = replace(self.holder, renewals=self.holder.renewals + 1)
        self._write()

    def _explain_loss(self, others: set[str]) -> str:
        if not others:
            return "its lease was deleted"
        taker = _describe(self._read(others.pop()))
        return f"{taker} took it over, since this job could not renew its lease"

    def withdraw(self) -> None:
        """Delete the claim, if there is one. What can't be deleted expires."""
        if self.name is not None:
            self._delete(self.name)
            _ACTIVE.discard(self.name)

    # The claims' files.

    def _others(self) -> set[str]:
        return self._list() - self.dead - {self.name}

    def _list(self) -> set[str]:
        names = listing.child_names(self.output, with_hidden=True)
        return {name for name in names if name.startswith(PREFIX)}

    def _write(self) -> None:
        assert self.name is not None
        storage.write_bytes(storage.join(self.output, self.name), self.holder.to_json())

    def _read(self, name: str) -> bytes | None:
        try:
            return storage.read_bytes(storage.join(self.output, name))
        except FileNotFoundError:
            return None

    def _delete(self, name: str) -> None:
        with suppress(OSError, StoreError):
            storage.delete(storage.join(self.output, name))


def _describe(content: bytes | None) -> str:
    """Return the job that a claim belongs to, as a message names it."""
    return str((content and Holder.from_json(content)) or "another job")


def _is_running(name: str, content: bytes) -> bool | None:
    """Return whether the job of a claim runs; None if this can't be found out from here."""
    holder = Holder.from_json(content)
    if holder is None:
        return None
    if holder.is_this_process:
        # An earlier job of this process may not have been able to withdraw its claim.
        return name in _ACTIVE
    return holder.is_running


def _is_held(content: bytes) -> bool:
    """Return whether the job of a claim holds the output, rather than still finding out."""
    holder = Holder.from_json(content)
    return holder is None or holder.renewals > 0


def _interrupt_main_thread() -> None:
    """Interrupt the main thread, also where a shell made this process ignore SIGINT."""
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    number = signal.SIGTERM if is_ignored else signal.SIGINT
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)
