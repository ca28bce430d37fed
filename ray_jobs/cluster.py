"""What every job asks of a cluster: connect, pre-flight check, locations, output, progress."""

import dataclasses
import json
import logging
import os
import sys
import threading
import time
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.data
from ray.data import ExecutionResources
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

from fer import storage
from fer.errors import InputError, JobError
from ray_jobs import autoscaling
from ray_jobs.autoscaling import Bundle
from ray_jobs.config import BUNDLED, Location, Locations

Config = TypeVar("Config")
Advance = Callable[..., None]

LOG_EVERY_SECONDS = 10.0

OBJECT_BYTES_PER_CPU = 128 * 2**20
"""What a pipeline may keep between its stages: a reader that is faster waits. Ray alone would let
it fill half of the object store."""

READERS_OF_GROWING = 16
"""Tasks that read at once on a cluster of which nobody knows how large it will be."""

TRAINING_MEMORY = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    }
}
INFERENCE_MEMORY = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    }
}
"""Runtime environments of processes that run networks: glibc (mallopt(3)) keeps what memory one
batch took for the next. Large pieces would go back to the system after each use, and be cleared,
page by page, when the next batch asks for them: an eighth of the deep network's training step, a
tenth of classifying with it. What a large picture took, inference gives back."""

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def connect(runtime_env: dict[str, Any] | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one inside this process.

    Args:
        runtime_env: What all processes of the job run in, where they are alike.

    Raises:
        InputError: ``RAY_ADDRESS`` is not that of a node.
    """
    if not ray.is_initialized():
        _join(runtime_env)
    # Jobs show their own progress and errors, in the words of what they do.
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Of a cluster that grows nobody knows yet how much it will be.
    if not autoscaling.is_autoscaled():
        memory = OBJECT_BYTES_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            object_store_memory=memory
        )
    # Wrapped by Ray Data, a worker's error would lose its class and its sentence on the way.
    context.raise_original_map_exception = True


def _join(runtime_env: dict[str, Any] | None) -> None:
    # Ray reads these when it starts; a person's own setting goes before ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray ends a worker that has waited for a second: the next chunk would wait for another's start.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    address = os.environ.get("RAY_ADDRESS")
    if address and "://" in address:
        raise InputError(
            f"RAY_ADDRESS is {address}, which takes jobs that are submitted: ray job submit -- "
            "python -m ray_jobs …; unset it to use this machine alone, or give a node's HOST:6379."
        )
    ray.init(
        address=None if address else "local",
        runtime_env=runtime_env,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@contextmanager
def left_afterwards() -> Iterator[None]:
    """Leave a cluster that is joined meanwhile: what Ray has to say stands before what follows."""
    was_joined = ray.is_initialized()
    try:
        yield
    finally:
        if not was_joined:
            ray.shutdown()


def require_room(bundles: Sequence[Bundle], purpose: str) -> None:
    """Refuse what this cluster can never schedule, and wait for what its autoscaler can add.

    Args:
        bundles: ``CPU`` and ``GPU`` of each process; all must be there at the same time, those of
            a process on one node.
        purpose: What needs them, to be read before "need".

    Raises:
        InputError: The cluster has fewer, or not together, and can't have more.
    """
    placed = _num_placed(bundles)
    if autoscaling.is_autoscaled():
        if placed < len(bundles):
            autoscaling.wait_for(bundles, purpose)
        return
    held = ray.cluster_resources()
    for name, needed in sum((Counter(bundle) for bundle in bundles), Counter()).items():
        if needed > held.get(name, 0):
            raise InputError(
                f"{purpose} need {needed:g} {name} in all, but the cluster has "
                f"{held.get(name, 0):g}: ask for fewer workers or add nodes."
            )
    if placed < len(bundles):
        raise InputError(
            f"{purpose} find no room: each must fit on one node, and the nodes have room for "
            f"{placed}; ask for fewer or for smaller ones."
        )


def _num_placed(bundles: Sequence[Bundle]) -> int:
    """Return how many of some bundles the nodes at hand hold together, large ones first."""
    nodes = [Counter(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    placed = 0
    for bundle in sorted(bundles, key=lambda bundle: sorted(bundle.items()), reverse=True):
        for node in nodes:
            if all(node[name] >= number for name, number in bundle.items()):
                node.subtract(bundle)
                placed += 1
                break
    return placed


def num_readers() -> int:
    """Return how many tasks that reserve no CPU may read at once for those that compute."""
    if autoscaling.is_autoscaled():
        return READERS_OF_GROWING
    return max(4, int(ray.cluster_resources().get("CPU", 1)) // 2)


def off_head() -> dict[str, Any]:
    """Return what keeps tasks that reserve no CPU from a head that offers none.

    Ray prefers the node that asks for them, the head of a submitted job: all that a job reads and
    writes would go through it.
    """
    for node in ray.nodes():
        if "node:__internal_head__" in node["Resources"] and not node["Resources"].get("CPU"):
            return {"label_selector": {"ray.io/node-id": f"!{node['NodeID']}"}}
    return {}


def resolve_locations(config: Config) -> Config:
    """Make every location of a job's configuration absolute.

    Raises:
        InputError: A scheme is unknown, or the location is relative in a submitted job.
    """
    resolved = {
        name: tuple(_resolve(location, name) for location in value)
        if isinstance(value, tuple)
        else _resolve(value, name)
        for name, value in _locations(config).items()
    }
    return dataclasses.replace(config, **resolved)  # type: ignore[type-var] # configs are dataclasses


def _locations(config: object) -> dict[str, Any]:
    """Return the flags of a configuration that hold a location or several."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    kinds = (Location, Location | None, Locations)
    values = {name: getattr(config, name) for name, hint in hints.items() if hint in kinds}
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def refusals_told(config: object) -> Iterator[None]:
    """Raise why a store refuses everything by now, which what fails first need not know.

    Raises:
        StoreError: A bucket that the configuration names can't be listed any more.
    """
    try:
        yield
    except OSError:
        for value in _locations(config).values():
            for location in value if isinstance(value, tuple) else (value,):
                storage.check_store(location)
        raise


def _resolve(location: str, field: str) -> str:
    if location == BUNDLED:
        return location
    if _IN_JOB in os.environ and not storage.is_uri(location) and not Path(location).is_absolute():
        raise InputError(
            f"--{field.replace('_', '-')} {location} is relative, and a submitted job's folder is "
            "thrown away: give an absolute path or a URI that every node sees."
        )
    return storage.resolve(location)


JOB = "job.json"
"""The flags of the job that began an output: where it lies, the rest may be ours."""

MADE_FROM = "made_from"

_SECRET = ("mlflow_uri",)
"""Flags that may hold a password."""


def flags_of(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any job's
    """Return a job's flags as they may be written down and passed on."""
    flags = dataclasses.asdict(config)
    kept = {name: value for name, value in flags.items() if name not in _SECRET}
    # As it is read again: a tuple is a list then.
    return dict(json.loads(json.dumps(kept)))


def claim_output(
    config: Any,  # noqa: ANN401 - any job's
    finished: str,
    parts: Collection[str],
    made_from: Mapping[str, str] | None = None,
) -> None:
    """Make a job's output ready to be written, and leave alone what is not ours.

    Args:
        config: The job's, with ``output`` and ``overwrite``.
        finished: The file that is written last: where it is, a result is complete.
        parts: What else a result consists of, left over perhaps by a run that did not finish.
        made_from: What the result is made from, as pairs of what it is and a fingerprint, for when
            the job is resumed.

    Raises:
        InputError: A result is there, or something else, or it can't be written to.
    """
    output = config.output
    if storage.exists(output) and not storage.is_folder(output):
        raise InputError(f"{output} is a file: expected a folder to write to.")
    found = storage.names(output)
    is_begun, is_complete = JOB in found, finished in found
    if is_complete and not config.overwrite:
        raise InputError(f"{output} already holds a result: name another, or --overwrite it.")
    ours = {JOB, finished, *parts} if is_begun else set()
    if others := sorted(found - ours):
        raise InputError(f"{output} holds {others[0]}, which is not ours: name an empty folder.")
    flags = json.dumps({**flags_of(config), MADE_FROM: made_from or {}}, indent=2)
    try:
        # What marks a result as complete goes first and comes last.
        for name in (finished, *sorted(found - {finished, JOB})):
            storage.delete(storage.join(output, name))
        storage.write_bytes(storage.join(output, JOB), flags.encode())
    except OSError as error:
        raise InputError(f"{output} can't be written to: {error}") from error


def claim_or_resume(
    config: Any,  # noqa: ANN401 - any job's that can be resumed
    finished: str,
    parts: Collection[str],
    *,
    begun: str,
    goes_on: bool,
    may_change: Collection[str],
    made_from: Mapping[str, str],
) -> None:
    """Make an output ready to be written, or check that the run in it is the one to go on with.

    Args:
        config: The job's, with ``output`` and ``overwrite``.
        finished: The file that is written last: where it is, a result is complete.
        parts: What else a result consists of.
        begun: The part that tells that a run got somewhere, and should not be thrown away.
        goes_on: Whether the run that the output holds is to be gone on with.
        may_change: Flags that may differ when the run is resumed.
        made_from: What the result is made from, as pairs of what it is and a fingerprint.

    Raises:
        InputError: There is nothing to resume, the run began with or from something else, or the
            output holds a run that nobody asked to resume or to replace.
    """
    if goes_on:
        _check_same_run(config, may_change, made_from)
        return
    if storage.exists(storage.join(config.output, begun)) and not config.overwrite:
        raise InputError(
            f"{config.output} already holds a run: --resume goes on with it, --overwrite replaces "
            "it, or name another folder."
        )
    claim_output(config, finished, parts, made_from)


def _check_same_run(
    config: Any,  # noqa: ANN401
    may_change: Collection[str],
    made_from: Mapping[str, str],
) -> None:
    if not storage.exists(storage.join(config.output, JOB)):
        raise InputError(f"{config.output} holds no run to resume: start one without --resume.")
    flags = json.loads(storage.read_bytes(storage.join(config.output, JOB)))
    changed = [
        f"--{name.replace('_', '-')}"
        for name, value in flags_of(config).items()
        if name not in may_change and value != flags.get(name)
    ]
    if changed:
        raise InputError(
            f"The run in {config.output} began with another {', '.join(changed)}: resume it with "
            "the same, or start anew with --overwrite."
        )
    for what, now in made_from.items():
        if (then := flags.get(MADE_FROM, {}).get(what, now)) != now:
            raise InputError(
                f"The run in {config.output} began with another {what}, {then[:24]} and not "
                f"{now[:24]}: resume it with the same, or start anew with --overwrite."
            )


@contextmanager
def sentences() -> Iterator[None]:
    """Raise a mistake that a worker found as the sentence it is, without a traceback."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            # Ray's own double of an error has its class, and a traceback for its sentence.
            if isinstance(cause, InputError | JobError | OSError) and not isinstance(
                cause, RayError
            ):
                raise cause from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            failures = getattr(current, "worker_failures", {})
            pending += [getattr(current, "cause", None), current.__cause__, *failures.values()]


@contextmanager
def progress(doing: str, unit: str, total: float | None = None) -> Iterator[Advance]:
    """Show how far long work is: a bar on a terminal, a line every ten seconds elsewhere.

    Both tell the number done, the rate, what else is said, and the time left if there is a total.

    Args:
        doing: What is being done.
        unit: What is counted.
        total: How many there will be, if that is known.

    Yields:
        A function that takes the number done so far and, by keyword, what else is worth saying.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(doing, unit, total)
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
        bar = bars.add_task(doing, total=total, unit=unit, rate="", said="")
        start = time.monotonic()

        def advance(done: float, **said: object) -> None:
            rate = _rate(done, time.monotonic() - start)
            bars.update(bar, completed=done, rate=rate, said=_said(said))

        yield advance


def _log_lines(doing: str, unit: str, total: float | None) -> Advance:
    start = last = time.monotonic()

    def advance(done: float, **said: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LOG_EVERY_SECONDS and done != total:
            return
        last = now
        of = f" of {total:,.0f}" if total else ""
        told = [f"{done:,.0f}{of} {unit}", _rate(done, now - start), _said(said)]
        told.append(_left(done, total, now - start))
        print(f"{doing}: {', '.join(filter(None, told))}", file=sys.stderr, flush=True)

    return advance


def _rate(done: float, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _left(done: float, total: float | None, seconds: float) -> str:
    """Return how long the rest takes at the rate so far, or nothing where that can't be told."""
    if not total or not 0 < done < total:
        return ""
    return f"{timedelta(seconds=round(seconds * (total - done) / done))} left"


def _said(said: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


@contextmanager
def progress_from_workers(doing: str, unit: str, total: float) -> Iterator[Queue]:
    """Show the progress that workers put into the yielded queue: pairs of done and said."""
    # Where this process is: on another node it could be lost, and the workers with it.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    queue = Queue(actor_options={"num_cpus": 0, "label_selector": here})
    finished = threading.Event()
    with progress(doing, unit, total) as advance:
        thread = threading.Thread(target=_relay, args=(queue, advance, finished), daemon=True)
        thread.start()
        try:
            yield queue
        finally:
            finished.set()
            thread.join()
            queue.shutdown(force=True)


def _relay(queue: Queue, advance: Advance, finished: threading.Event) -> None:
    while not finished.is_set():
        try:
            done, said = queue.get(timeout=0.5)
            advance(done, **said)
        except Empty:
            continue
        except RayError:
            return
