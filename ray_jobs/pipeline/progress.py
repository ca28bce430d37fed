"""Progress of long work: a bar on a terminal, lines in a log."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[..., None]

LOG_EVERY_SECONDS = 10.0


def say(message: str) -> None:
    """Print a line about the job, where its progress goes."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(
    activity: str, unit: str, total: float | None = None, initial: int = 0
) -> Iterator[Advance]:
    """Show the progress of long work: a bar on a terminal, otherwise a line every ten seconds.

    Both show the number of units done, the rate, further details and, if the total is known, the
    time left.

    Args:
        activity: Name of the work, such as "Labeling".
        unit: What is counted, in the plural.
        total: Number of units in all, if it is known.
        initial: Number of units that an earlier run did. They do not count for the rate.

    Yields:
        A function to call with the number of units done so far and, by keyword, further details.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(activity, unit, total, initial)
        return
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[rate]} {task.fields[details]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    # Chunks take half a minute and more, so a rate needs a long period.
    with Progress(*columns, console=console, speed_estimate_period=600) as bars:
        pace = _Pace(initial)
        bar = bars.add_task(
            activity, total=total, completed=initial, unit=unit, rate="", details=""
        )

        def advance(done: float, **details: object) -> None:
            rate = _rate(pace.rate(done))
            bars.update(bar, completed=done, rate=rate, details=_join(details))

        yield advance


def _log_lines(activity: str, unit: str, total: float | None, initial: int) -> Advance:
    pace, last = _Pace(initial), time.monotonic()
    last_names: set[str] = set()

    def advance(done: float, **details: object) -> None:
        nonlocal last, last_names
        # A detail with a new name, such as a lost worker, is logged at once.
        now, is_new = time.monotonic(), bool(details.keys() - last_names)
        rate = pace.rate(done)
        if now - last < LOG_EVERY_SECONDS and done != total and not is_new:
            return
        last, last_names = now, set(details)
        of_total = f" of {total:,.0f}" if total else ""
        texts = [
            f"{done:,.0f}{of_total} {unit}",
            _rate(rate),
            _join(details),
            _time_left(done, total, rate),
        ]
        say(f"{activity}: {', '.join(filter(None, texts))}")

    return advance


class _Pace:
    """How fast work goes on.

    It is measured from the first units on, once there are more: before them, processes started.
    """

    def __init__(self, initial: float) -> None:
        """Begin to measure, with a number of units that are already done."""
        self._start = (initial, time.monotonic())
        self._first: tuple[float, float] | None = None

    def rate(self, done: float) -> float:
        """Return the units a second, when so many are done."""
        now = time.monotonic()
        if self._first is None and done > self._start[0]:
            self._first = (done, now)
        first = self._first if self._first and done > self._first[0] else self._start
        return (done - first[0]) / max(now - first[1], 1e-9)


def _rate(rate: float) -> str:
    if rate <= 0:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _time_left(done: float, total: float | None, rate: float) -> str:
    """Return the time that the rest takes at a rate, or "" if that is unknown."""
    if not total or done >= total or rate <= 0:
        return ""
    return f"{timedelta(seconds=round((total - done) / rate))} left"


def _join(details: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items())


@contextmanager
def progress_from_workers(
    activity: str, unit: str, total: float, initial: int = 0
) -> Iterator[Queue]:
    """Show the progress that workers put into the yielded queue.

    A worker puts pairs: the number of units done so far, or None if it does not know the number;
    and a mapping of further details. It may also put a line of text, which is printed.
    """
    # The queue lives on this process's node: if it were lost with another node, workers would fail.
    this_node = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    queue = Queue(actor_options={"num_cpus": 0, "label_selector": this_node})
    finished = threading.Event()
    with progress(activity, unit, total, initial) as advance:
        thread = threading.Thread(
            target=_relay, args=(queue, advance, initial, finished), daemon=True
        )
        thread.start()
        try:
            yield queue
        finally:
            finished.set()
            thread.join()
            queue.shutdown(force=True)


def _relay(queue: Queue, advance: Advance, initial: int, finished: threading.Event) -> None:
    last_done = initial
    while True:
        try:
            message = queue.get(timeout=0.5)
        except Empty:
            # Only now, since the last messages come just before the end.
            if finished.is_set():
                return
            continue
        except RayError:
            return
        if isinstance(message, str):
            say(message)
            continue
        done, details = message
        last_done = last_done if done is None else done
        advance(last_done, **details)
