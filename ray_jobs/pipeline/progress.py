"""How far long work is: a bar on a terminal, lines in a log."""

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


@contextmanager
def progress(
    doing: str, unit: str, total: float | None = None, begun: int = 0
) -> Iterator[Advance]:
    """Show how far long work is: a bar on a terminal, a line every ten seconds elsewhere.

    Both tell the number done, the rate, what else is said, and the time left if there is a total.

    Args:
        doing: What is being done.
        unit: What is counted.
        total: How many there will be, if that is known.
        begun: How many were done before, at another time.

    Yields:
        A function that takes the number done so far and, by keyword, what else is worth saying.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(doing, unit, total, begun)
        return
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[rate]} {task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    # Work comes in chunks of half a minute and more: over less there is no rate.
    with Progress(*columns, console=console, speed_estimate_period=600) as bars:
        bar = bars.add_task(doing, total=total, completed=begun, unit=unit, rate="", said="")
        start = time.monotonic()

        def advance(done: float, **said: object) -> None:
            rate = _rate(done - begun, time.monotonic() - start)
            bars.update(bar, completed=done, rate=rate, said=_said(said))

        yield advance


def _log_lines(doing: str, unit: str, total: float | None, begun: int) -> Advance:
    start = last = time.monotonic()
    kind: set[str] = set()

    def advance(done: float, **said: object) -> None:
        nonlocal last, kind
        now, is_news = time.monotonic(), bool(said.keys() - kind)
        if now - last < LOG_EVERY_SECONDS and done != total and not is_news:
            return
        last, kind = now, set(said)
        of = f" of {total:,.0f}" if total else ""
        told = [f"{done:,.0f}{of} {unit}", _rate(done - begun, now - start), _said(said)]
        told.append(_left(done, total, begun, now - start))
        print(f"{doing}: {', '.join(filter(None, told))}", file=sys.stderr, flush=True)

    return advance


def _rate(done: float, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _left(done: float, total: float | None, begun: int, seconds: float) -> str:
    """Return how long the rest takes at the rate so far, or nothing where that can't be told."""
    if not total or not begun < done < total:
        return ""
    return f"{timedelta(seconds=round(seconds * (total - done) / (done - begun)))} left"


def _said(said: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


@contextmanager
def progress_from_workers(doing: str, unit: str, total: float, begun: int = 0) -> Iterator[Queue]:
    """Show the progress that workers put into the yielded queue.

    They put pairs: how much is done, or None where one does not know, and what else to say.
    """
    # Where this process is: on another node it could be lost, and the workers with it.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    queue = Queue(actor_options={"num_cpus": 0, "label_selector": here})
    finished = threading.Event()
    with progress(doing, unit, total, begun) as advance:
        thread = threading.Thread(
            target=_relay, args=(queue, advance, begun, finished), daemon=True
        )
        thread.start()
        try:
            yield queue
        finally:
            finished.set()
            thread.join()
            queue.shutdown(force=True)


def _relay(queue: Queue, advance: Advance, begun: int, finished: threading.Event) -> None:
    known = begun
    while not finished.is_set():
        try:
            done, said = queue.get(timeout=0.5)
            known = known if done is None else done
            advance(known, **said)
        except Empty:
            continue
        except RayError:
            return
