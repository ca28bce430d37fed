"""Work that a signal does not cut in two: Ray cancels a task with SIGINT and keeps its process."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_uninterrupted(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function to its end, whatever signals arrive, and return its result.

    Signals interrupt only the main thread, so another thread calls the function. The exception of a
    signal is raised once the function is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*args, **kwargs)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *args, **kwargs).result()
