"""The lock of the hook. The process has one, because the hook changes modules that the whole process shares."""

from __future__ import annotations

import threading

from frameseal._fork import renew_in_child

__all__ = ["hook"]


class HookLock:
    """Holds the lock. Read the attribute for each use, since a forked child has a lock of its own."""

    lock: threading.RLock

    def __init__(self) -> None:
        """Make the lock."""
        renew_in_child(self, lock=threading.RLock)


hook = HookLock()
