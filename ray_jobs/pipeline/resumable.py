"""What resumable jobs share: check, reserve, work, report what is complete, or step aside."""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ray_jobs.cluster import session
from ray_jobs.pipeline import leases, locations
from ray_jobs.pipeline.outputs import OutputSpec, Reservation
from ray_jobs.pipeline.progress import say


class Inputs(Protocol):
    """What a job found when it checked its inputs."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """The id or digest of each input, which a resumed run must find unchanged."""


ConfigT = TypeVar("ConfigT")
InputsT = TypeVar("InputsT", bound=Inputs)


def run_resumable(
    config: ConfigT,
    output: OutputSpec,
    check: Callable[[ConfigT], InputsT],
    work: Callable[[ConfigT, InputsT, Reservation], dict[str, Any]],
    report: Callable[[Reservation], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run a job whose unfinished output can be continued.

    With ``--resume`` it continues the run in the output, and with ``--update`` it adds to it. Both
    start one if there is none. So a scheduler can send the same command again and again.

    With ``--update``, a run that finds another job at work on the output leaves it alone: of runs
    that a clock starts, a slow one may overlap the next.

    Nothing is deleted or written before all checks have passed: ``work`` begins the reservation
    once the cluster has room.

    Args:
        config: The job's configuration.
        output: What the job writes.
        check: Checks the inputs and returns what ``work`` needs of them.
        work: Does the job, from joining the cluster to committing the output.
        report: Returns the RESULT line of an output that is complete already; by default what its
            completing file has under ``result``.

    Returns:
        What the RESULT line says, and as ``resumed`` whether an earlier run was continued. If
        another job was at work on the output, only ``output``, and as ``skipped`` who that was.

    Raises:
        InputError: An input or the output is not as the job needs it.
        JobError: The job was asked for correctly and failed.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    inputs = check(config)
    try:
        with output.reserve(config, inputs.fingerprints, started) as reservation:
            result = _complete(config, inputs, reservation, work, report)
    except leases.HeldError as error:
        if not getattr(config, "update", False):
            raise
        say(f"{error.reason}; this run steps aside, and the next update finds what it leaves.")
        return {"output": error.output, "skipped": f"{error.reason}."}
    return {**result, "resumed": reservation.is_resumed}


def _complete(
    config: ConfigT,
    inputs: InputsT,
    reservation: Reservation,
    work: Callable[[ConfigT, InputsT, Reservation], dict[str, Any]],
    report: Callable[[Reservation], dict[str, Any]] | None,
) -> dict[str, Any]:
    """Do what is left of a job, and return its result."""
    if reservation.is_resumed and reservation.is_complete:
        return report(reservation) if report else dict(reservation.read_completed()["result"])
    for flag, is_done in (("resume", reservation.is_resumed), ("update", reservation.is_updated)):
        if getattr(config, flag, False) and not is_done:
            say(f"{reservation.output} holds no run to {flag}; starting a new one.")
    with session.unwrap_errors():
        return work(config, inputs, reservation)
