"""Measures the CPU time of functions in any thread, by part and kind of media."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

clock = time.thread_time_ns  # not wall-clock time: on a busy machine a frame waits for other processes, and for the GIL


class Stopwatch:
    """Times wrapped functions. Do not nest them: reading the clock takes half a microsecond, and more in a cold cache.

    So each measurement is preceded by one of nothing, in the same place, and the difference counts.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._threads: list[dict[tuple[str, str], float]] = []

    def wrap(self, part: str, function: Callable[..., Any], kind: Callable[..., str]) -> Callable[..., Any]:
        """Return *function*, timed. *kind* returns the kind of media for its arguments."""

        def timed(*args: Any, **keywords: Any) -> Any:
            clock()  # the first reading finds its own code cold
            before = clock()
            start = clock()
            try:
                return function(*args, **keywords)
            finally:
                spent = clock() - start - (start - before)
                self.add(part, kind(*args), spent)

        return timed

    def add(self, part: str, kind: str, spent: float) -> None:
        """Add a measurement in ns."""
        local = self._local
        if not hasattr(local, "spent"):
            local.spent = defaultdict(float)
            self._threads.append(local.spent)
        local.spent[part, kind] += spent

    def total(self, part: str, kind: str) -> float:
        """Return the ns of all calls."""
        return sum(spent.get((part, kind), 0.0) for spent in self._threads)
