"""Serves an ASGI application on 127.0.0.1 in the test's own loop, and posts to it, as the page of a web client does."""

import asyncio
import contextlib
import json
import urllib.request

import uvicorn


@contextlib.asynccontextmanager
async def served(app):
    """Serve an application, and return its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    serving = asyncio.ensure_future(server.serve())
    try:
        while not server.started:
            assert not serving.done(), "the server has stopped"
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def post(url: str, body: dict) -> dict:
    """Post JSON, and return the JSON of the answer. Raises `urllib.error.HTTPError` for a status that is no success."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def answer() -> dict:
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    return await asyncio.to_thread(answer)
