"""Closes connections of aiortc and forwarders: in a bounded time, and never by half."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

CLOSE_TIMEOUT: Final = 5.0  # seconds: closing an aiortc connection that is still connecting may never return


async def close_fully(closing: Coroutine[Any, Any, None]) -> None:
    """Wait until something is closed, for at most 5 s. The wait goes on if the caller is cancelled meanwhile.

    A connection whose closing was cancelled would stay half closed, and go on receiving.

    :raises asyncio.CancelledError: the caller was cancelled. Everything is closed, or the time is over.
    """
    task = asyncio.ensure_future(asyncio.wait_for(closing, CLOSE_TIMEOUT))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    with suppress(TimeoutError):
        task.result()
    if cancelled is not None:
        raise cancelled
