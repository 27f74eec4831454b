"""`LoopEmitter`: delivers events from any thread to listeners on one event loop, in order."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from contextvars import ContextVar
from typing import Any, Final

from pyee.asyncio import AsyncIOEventEmitter

from frameseal._fork import nothing, renew_in_child
from frameseal._secrecy import Confidential, require

# Capacity for events that are emitted before a loop is bound. The oldest events drop out.
MAX_PENDING_EVENTS: Final = 64

_logger = logging.getLogger("frameseal")
_in_error_listener: ContextVar[bool] = ContextVar("_in_error_listener", default=False)


class LoopEmitter(Confidential, AsyncIOEventEmitter):
    """An emitter whose events may be emitted on any thread.

    Listeners may be functions or coroutine functions. If a listener raises, the exception is logged to the logger
    ``frameseal`` and emitted as ``"error"``. Other listeners are not affected.

    :param loop: the loop on which listeners run. By default it is the running loop, or otherwise the first one bound. A
        forked child keeps events until its own loop is bound.
    """

    _lock: threading.Lock  # pyee's own
    _events_lock: threading.Lock
    _events_loop: asyncio.AbstractEventLoop | None

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Make an emitter without listeners."""
        super().__init__()
        renew_in_child(self, _lock=threading.Lock, _events_lock=threading.Lock, _events_loop=nothing)
        self._pending: deque[tuple[str, Any]] = deque(maxlen=MAX_PENDING_EVENTS)
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return
        self.bind_loop(loop)

    @property
    def events_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop on which listeners run. None before a loop is bound."""
        return self._events_loop

    def bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver events on *loop* from now on, including events that wait. Has no effect while another loop is open.

        :raises TypeError: *loop* is not an event loop.
        """
        require("loop", loop, "call_soon_threadsafe", "an event loop")
        with self._events_lock:
            if self._events_loop is None or self._events_loop.is_closed():
                self._events_loop = loop
                kept = list(self._pending)
                self._pending.clear()
                for event, value in kept:
                    self._schedule(event, value)

    def deliver(self, event: str, value: object) -> None:
        """Call the listeners of *event* on the loop, in the order of these calls. Any thread may call it."""
        with self._events_lock:
            self._schedule(event, value)

    def emit(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Call the listeners of *event*, in the loop's thread only. Exceptions of listeners are logged."""
        if event != "error":
            return super().emit(event, *args, **kwargs)
        error = args[0] if args and isinstance(args[0], BaseException) else None
        _logger.error("a listener of %r raised", self, exc_info=error)
        # Without this guard an error listener that raises would receive its own exception for ever. The variable also
        # reaches coroutine listeners: their done-callbacks run in a copy of this context.
        if not _in_error_listener.get() and self.listeners("error"):
            token = _in_error_listener.set(True)
            try:
                super().emit(event, *args, **kwargs)
            finally:
                _in_error_listener.reset(token)
        return True

    def _schedule(self, event: str, value: object) -> None:
        if self._events_loop is not None:
            try:
                self._events_loop.call_soon_threadsafe(self.emit, event, value)
                return
            except RuntimeError:  # the loop is closed: the call is over, or another loop will be bound
                pass
        self._pending.append((event, value))
