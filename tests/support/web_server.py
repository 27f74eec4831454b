"""Serves an aiohttp application on loopback, and keeps the work that a stand-in does meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from ssl import SSLContext

from aiohttp import web


@contextlib.asynccontextmanager
async def serving_app(
    app: web.Application, host: str = "127.0.0.1", ssl_context: SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve *app* on a free port. Yields host and port, as they stand in a URL."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0, ssl_context=ssl_context).start()
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Background:
    """Tasks of a stand-in that no request waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
