"""Measures the CPU time of functions in any thread, by part and kind of media."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

clock = time.thread_time_ns  # not wall-clock time: on a busy machine a frame waits for other processes, and for the GIL


class Stopwatch:
    """Times wrapped functions. Do not nest them: reading the clock takes half a microsecond."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._threads: list[dict[tuple[str, str], list[float]]] = []
        self._reading = 0.0  # ns that reading the clock adds to a measurement
        nothing = self.wrap("nothing", lambda: None, lambda: "")
        for _ in range(20_000):
            nothing()
        self._reading = self.spent("nothing", "")

    def wrap(self, part: str, function: Callable[..., Any], kind: Callable[..., str]) -> Callable[..., Any]:
        """Return *function*, timed. *kind* returns the kind of media for its arguments."""

        def timed(*args: Any, **keywords: Any) -> Any:
            start = clock()
            try:
                return function(*args, **keywords)
            finally:
                self.add(part, kind(*args), clock() - start)

        return timed

    def add(self, part: str, kind: str, spent: float) -> None:
        """Add a measurement in ns."""
        local = self._local
        if not hasattr(local, "spent"):
            local.spent = defaultdict(lambda: [0, 0.0])
            self._threads.append(local.spent)
        entry = local.spent[part, kind]
        entry[0] += 1
        entry[1] += spent - self._reading

    def spent(self, part: str, kind: str) -> float:
        """Return ns per call, or 0 if there was no call."""
        entries = [spent[part, kind] for spent in self._threads if (part, kind) in spent]
        return sum(whole for _, whole in entries) / max(1, sum(calls for calls, _ in entries))
