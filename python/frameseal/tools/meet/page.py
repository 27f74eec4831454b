"""Serves the page and its signalling over HTTP. No key ever reaches it.

The key is in the fragment of the URL, which browsers do not send (RFC 9110, section 4.2.3). Everybody who reaches the
server may join the room, but without the key they see and hear nothing.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Collection
from importlib import resources
from itertools import count
from typing import Any, Final

from aiohttp import web

from frameseal.tools.meet.browser_member import BrowserMember
from frameseal.tools.meet.limits import MAX_WAITING, MAX_WAITING_OF_ADDRESS
from frameseal.tools.meet.room import Room
from frameseal.tools.meet.worker import Worker

REPORT_INTERVAL: Final = 0.4  # seconds between two reports of the SFU's view
KEYFRAME_TURNS: Final = 4  # reports between two keyframe requests, while the SFU's decoder has returned no picture
MAX_MESSAGE_BYTES: Final = 64 * 1024
HEARTBEAT: Final = 20.0  # seconds between two pings of a web socket

_HEADERS: Final = {
    # The page holds the key. So it runs neither inline scripts nor scripts from other origins.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def application(room: Room, worker: Worker, facts: dict[str, Any], hosts: Collection[str]) -> web.Application:
    """Make the web application.

    :param facts: the JSON object at ``/facts``: the codec, and whether the SFU's view is available.
    :param hosts: the host names and addresses that a request may name. Any other host may be DNS rebinding.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        if request.url.host not in hosts:
            raise web.HTTPForbidden(text="frameseal meet is not served under this host name")
        return await handler(request)

    async def headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    async def socket(request: web.Request) -> web.WebSocketResponse:
        # Browsers let any page open a web socket to any host, but send the origin of the page.
        if any(origin not in _origins(request) for origin in request.headers.getall("Origin", [])):
            raise web.HTTPForbidden(text="this page is from another origin")
        address = request.remote or ""
        waiting = [browser.address for browser in browsers if not browser.joined]
        if len(waiting) >= MAX_WAITING or waiting.count(address) >= MAX_WAITING_OF_ADDRESS:
            raise web.HTTPTooManyRequests(
                text="too many clients have connected without joining: try again in some seconds"
            )
        response = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE_BYTES)

        def abort() -> None:
            if request.transport is not None:
                request.transport.abort()

        browser = BrowserMember(response, room, f"guest-{secrets.token_hex(3)}", address, abort)
        browsers.add(browser)
        try:
            await response.prepare(request)
            await browser.serve()
        finally:
            browsers.discard(browser)
        return response

    async def reporting(_: web.Application) -> Any:
        task = asyncio.create_task(_report(room, browsers))
        yield
        task.cancel()

    browsers: set[BrowserMember] = set()
    app = web.Application(middlewares=[guarded])
    app.on_response_prepare.append(headers)
    app.cleanup_ctx.append(reporting)
    for path, body, content_type in _files(worker):
        app.router.add_get(path, _serve(body, content_type))
    app.router.add_get("/facts", _serve(json.dumps(facts).encode(), "application/json"))
    app.router.add_get("/signalling", socket)
    return app


def _origins(request: web.Request) -> set[str]:
    """Return the spellings of this server's origin that a browser may send (RFC 6454, section 6.1)."""
    secure = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
    scheme, default = ("https", ":443") if secure else ("http", ":80")
    origin = f"{scheme}://{request.host.lower()}"
    return {origin, origin.removesuffix(default)}


def _files(worker: Worker) -> list[tuple[str, bytes, str]]:
    static = resources.files("frameseal.tools.meet") / "static"
    files = [
        ("/vendor/e2ee.worker.mjs", worker.script, "text/javascript"),
        ("/vendor/LICENSE", worker.licence, "text/plain"),
    ]
    for file in static.iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        files.append((path, file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]))
    return files


def _serve(body: bytes, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return serve


async def _report(room: Room, browsers: Collection[BrowserMember]) -> None:
    """Send the SFU's view to the browsers that watch it, at intervals."""
    for turn in count():
        await asyncio.sleep(REPORT_INTERVAL)
        watching = [browser for browser in browsers if browser.watching]
        for publisher, sfu_view in list(room.sfu_views.items()):
            # A decoder starts with a keyframe, and accepts only some keyframes that are ciphertext.
            if watching and not sfu_view.pictures and turn % KEYFRAME_TURNS == 0:
                await room.request_keyframe(publisher)
            sfu_view.watched = bool(watching)
            if watching:
                report = await asyncio.to_thread(sfu_view.report)
                for browser in watching:
                    browser.notify({"type": "sfu", "participant": publisher, **report})
