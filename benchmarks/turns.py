"""Sides of a comparison that take turns on the same cores, and the median of what each measured."""

import contextlib
import io
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from ray_jobs.cluster import session

Measured = dict[Any, float]
"""Rates or durations, by the name of what was measured."""

Side = Callable[[], Measured]
"""One side of a comparison: a function that measures."""


def take_turns(
    sides: Sequence[Side],
    repeats: int,
    summarize: Callable[[list[float]], float] = statistics.median,
) -> Measured:
    """Run the sides in turn, ``repeats`` times, and return the summary of each side's values."""
    measured = defaultdict(list)
    for _ in range(repeats):
        for side in sides:
            for name, value in side().items():
                measured[name].append(value)
    return {name: summarize(values) for name, values in measured.items()}


def timed(work: Mapping[Any, Callable[[], object]]) -> list[Side]:
    """Return a side for each piece of work, which measures the seconds that the work takes."""
    return [lambda name=name, run=run: {name: seconds(run)} for name, run in work.items()]


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextlib.contextmanager
def working_folder(
    *, with_ray: bool = True, runtime_env: dict[str, Any] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder, with Ray started unless the caller starts it later."""
    with tempfile.TemporaryDirectory() as folder:
        if with_ray:
            session.connect(runtime_env)
        try:
            yield Path(folder)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Leave out what a job writes to standard error."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
