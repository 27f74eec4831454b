"""The key server of the examples, on loopback in a thread, for workers that fetch the key of an archive."""

import asyncio
import base64
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from support.paths import ROOT

sys.path.insert(0, str(ROOT / "examples"))

from keyserver.app import Limiter, make_app
from keyserver.storage import Storage
from keyserver.tls import development_certificate, server_context
from keyserver.tokens import Tokens


@dataclass
class Served:
    """The key of a meeting."""

    key: bytes
    requests: list[str]
    """The path of each request that the server has answered."""

    def shows_key(self, data: bytes) -> bool:
        """Return True if bytes hold the key: raw, or as base64 or hex digits."""
        digits = self.key.hex().encode()
        return any(each in data for each in (self.key, base64.b64encode(self.key), digits, digits.upper()))


@contextmanager
def key_server(folder: Path) -> Iterator[Served]:
    """Serve the key of one meeting over TLS. Environment variables tell the workers how to fetch it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    certificate = development_certificate(folder)
    storage = Storage(f"sqlite+aiosqlite:///{folder / 'keys.db'}", secrets.token_bytes(32))
    tokens, many, requests = Tokens(secrets.token_bytes(32)), Limiter(burst=1000), []

    @web.middleware
    async def noted(request, handler):
        requests.append(request.path)
        return await handler(request)

    async def start():
        await storage.open()
        app = make_app(storage, tokens, "application", many, many)
        app.middlewares.append(noted)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(*certificate)).start()
        meeting = await storage.create()
        return runner, meeting, await storage.key(meeting)

    runner, meeting, found = run(start())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FRAMESEAL_KEY_URL", f"https://127.0.0.1:{runner.addresses[0][1]}/meetings/{meeting}/key")
            patch.setenv("FRAMESEAL_TOKEN", tokens.make("opener", meeting, found.generation))
            patch.setenv("FRAMESEAL_CA", str(certificate[0]))
            yield Served(found.key, requests)
    finally:
        run(runner.cleanup())
        run(storage.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
