"""What resumable jobs share: check, reserve, work, or report what is already complete."""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ray_jobs.cluster import session
from ray_jobs.pipeline import locations
from ray_jobs.pipeline.outputs import OutputSpec, Reservation


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
        What the RESULT line says.

    Raises:
        InputError: An input or the output is not as the job needs it.
        JobError: The job was asked for correctly and failed.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    inputs = check(config)
    reservation = output.reserve(config, inputs.fingerprints, started)
    if getattr(config, "resume", False) and reservation.is_complete:
        return report(reservation) if report else dict(reservation.read_completed()["result"])
    with session.unwrap_errors():
        return work(config, inputs, reservation)
