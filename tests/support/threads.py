"""Runs works in threads that begin at the same time, and fails if one of them does not end."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# The time after which threads count as deadlocked. It is far more than any test needs on a busy machine.
MAX_SECONDS = 90
# A thread that holds the GIL for ever stops this module too. faulthandler needs no GIL, and ends the process.
LAST_RESORT_SECONDS = MAX_SECONDS + 30


def is_free_threaded() -> bool:
    """Return whether this process runs Python code on several cores at once."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads take the GIL from each other anywhere in their work, and not only after 5 ms."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def at_once(works: Sequence[Callable[[], Any]], max_seconds: float = MAX_SECONDS) -> list[Any]:
    """Return the results of *works*, each run in a thread of its own. All begin behind one barrier.

    Raises the first exception of a work. Raises `TimeoutError` if a work has not ended after *max_seconds*.
    """
    begun = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(place: int, work: Callable[[], Any]) -> None:
        try:
            begun.wait(max_seconds)
            results[place] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
    deadline = time.monotonic() + max_seconds
    faulthandler.dump_traceback_later(LAST_RESORT_SECONDS, exit=True, file=sys.__stderr__)
    try:
        with switching_often():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0, deadline - time.monotonic()))
    finally:
        faulthandler.cancel_dump_traceback_later()
    if errors:
        raise errors[0]
    blocked = sum(thread.is_alive() for thread in threads)
    if blocked:
        raise TimeoutError(f"{blocked} of {len(threads)} threads have not ended after {max_seconds} s: a deadlock?")
    return results


def beside(works: Sequence[Callable[[], Any]], *others: Callable[[], object]) -> list[Any]:
    """Return the results of *works* as `at_once` does, while more threads repeat *others* until all works end."""
    left, stop = iter(range(len(works) - 1)), threading.Event()

    def counted(work: Callable[[], Any]) -> Any:
        try:
            return work()
        finally:
            if next(left, None) is None:
                stop.set()

    def repeated(other: Callable[[], object]) -> None:
        while not stop.is_set():
            other()

    runs = [lambda work=work: counted(work) for work in works]
    return at_once([*runs, *(lambda other=other: repeated(other) for other in others)])[: len(works)]
