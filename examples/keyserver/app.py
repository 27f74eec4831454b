"""The HTTP interface. Every request is limited, authorised, answered and audited, in this order."""

import hmac
import math
import time
from base64 import b64encode
from collections import OrderedDict
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from .storage import Storage
from .tokens import Admission, BadToken, Tokens, key_for_client

# Per client address: so many requests at once, then one each so many seconds.
BURST, SECONDS_EACH = 20, 0.5
MOST_CLIENTS = 10_000
MOST_NAME = 64  # characters of a participant's id

STORAGE: Final = web.AppKey("storage", Storage)
TOKENS: Final = web.AppKey("tokens", Tokens)
APPLICATION_KEY: Final = web.AppKey("application_key", str)

routes = web.RouteTableDef()


class Limiter:
    """A token bucket for each client address; the addresses longest unseen are forgotten."""

    def __init__(self, burst: float = BURST, seconds_each: float = SECONDS_EACH) -> None:
        self._burst, self._each = burst, seconds_each
        self._clients: OrderedDict[str, tuple[float, float, bool]] = OrderedDict()

    def wait_for(self, client: str) -> tuple[float, bool]:
        """Return 0 if the client may ask now, or in how many seconds; and whether it was refused the last time too."""
        now = time.monotonic()
        left, since, refused_before = self._clients.pop(client, (self._burst, now, False))
        left = min(self._burst, left + (now - since) / self._each)
        may = left >= 1
        self._clients[client] = (left - 1 if may else left, now, not may)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return 0.0 if may else (1 - left) * self._each, refused_before


def make_app(storage: Storage, tokens: Tokens, application_key: str, limiter: Limiter | None = None) -> web.Application:
    """Return the server. *application_key* is what your application server shows, and nobody else has."""
    limit = limiter or Limiter()

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        wait, refused_before = limit.wait_for(request.remote or "")
        if wait:
            if not refused_before:  # one row for a run of them: a flood must not fill the database
                await storage.audit(request.remote or "", request.method, request.path, "too many requests")
            raise web.HTTPTooManyRequests(headers={"Retry-After": str(math.ceil(wait))})
        response = await handler(request)
        response.headers["Cache-Control"] = "no-store"
        return response

    app = web.Application(middlewares=[limited], client_max_size=64 * 1024)
    app[STORAGE], app[TOKENS], app[APPLICATION_KEY] = storage, tokens, application_key
    app.add_routes(routes)
    return app


@routes.post("/meetings")
async def create(request: web.Request) -> web.Response:
    """Make a meeting and its key: the application server gets both, and hands the key out as it likes."""
    await _application(request, "create", "")
    storage = request.app[STORAGE]
    meeting_id = await storage.create()
    await storage.audit("application", "create", meeting_id, "made")
    return web.json_response({"meeting_id": meeting_id, **_shown(await storage.key(meeting_id))}, status=201)


@routes.post("/meetings/{meeting_id}/tokens")
async def admit(request: web.Request) -> web.Response:
    """Make a participant's access token.

    JSON: participant_id; optionally ``"key": "beside"`` (the key comes in this answer, beside the token) or
    ``"client_jwk": {...}`` (the key is in the token, encrypted for that public key).
    """
    meeting_id = request.match_info["meeting_id"]
    await _application(request, "admit", meeting_id)
    storage, body = request.app[STORAGE], await _asked(request)
    found = await storage.key(meeting_id)
    if found is None:
        await storage.audit("application", "admit", meeting_id, "no such meeting")
        raise web.HTTPNotFound
    participant_id: str = body["participant_id"]
    claims: dict[str, Any] = {}
    if "client_jwk" in body:
        try:
            claims["e2ee_key"] = key_for_client(*found, body["client_jwk"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
    answer: dict[str, object] = {"token": request.app[TOKENS].make(participant_id, meeting_id, **claims)}
    if body.get("key") == "beside":
        answer |= _shown(found)
    await storage.audit("application", "admit", meeting_id, participant_id)
    return web.json_response(answer, status=201)


@routes.get("/meetings/{meeting_id}/key")
async def key(request: web.Request) -> web.Response:
    """Hand the newest key to a participant who shows a token for this meeting."""
    meeting_id = request.match_info["meeting_id"]
    admission = await _participant(request, meeting_id)
    storage = request.app[STORAGE]
    found = await storage.key(meeting_id)
    await storage.audit(admission.participant_id, "key", meeting_id, "given" if found else "no such meeting")
    if found is None:
        raise web.HTTPNotFound
    return web.json_response(_shown(found))


@routes.post("/meetings/{meeting_id}/rotate")
async def rotate(request: web.Request) -> web.Response:
    """Make a fresh key; who comes back for it gets this one."""
    meeting_id = request.match_info["meeting_id"]
    await _application(request, "rotate", meeting_id)
    key_id = await request.app[STORAGE].rotate(meeting_id)
    outcome = "no such meeting" if key_id is None else "made"
    await request.app[STORAGE].audit("application", "rotate", meeting_id, outcome)
    if key_id is None:
        raise web.HTTPNotFound
    return web.json_response({"key_id": key_id}, status=201)


@routes.delete("/meetings/{meeting_id}")
async def end(request: web.Request) -> web.Response:
    """End a meeting: its keys are erased."""
    meeting_id = request.match_info["meeting_id"]
    await _application(request, "end", meeting_id)
    ended = await request.app[STORAGE].end(meeting_id)
    await request.app[STORAGE].audit("application", "end", meeting_id, "ended" if ended else "no such meeting")
    if not ended:
        raise web.HTTPNotFound
    return web.Response(status=204)


async def _asked(request: web.Request) -> dict[str, Any]:
    """Return what a token is asked for with, or tell what is wrong with it."""
    try:
        body = await request.json()
    except (ValueError, LookupError, RecursionError):  # LookupError: a charset that nobody knows
        raise web.HTTPBadRequest(text="expected JSON") from None
    name = body.get("participant_id") if isinstance(body, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not name.isprintable():
        raise web.HTTPBadRequest(text=f"expected participant_id: 1 to {MOST_NAME} printable characters")
    if body.get("key") not in (None, "beside"):
        raise web.HTTPBadRequest(text='expected "beside" for key, if anything')
    asked: dict[str, Any] = body
    return asked


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""


async def _application(request: web.Request, what: str, meeting_id: str) -> None:
    if not hmac.compare_digest(_bearer(request).encode(), request.app[APPLICATION_KEY].encode()):
        await request.app[STORAGE].audit(request.remote or "", what, meeting_id, "refused: not the application")
        raise web.HTTPUnauthorized


async def _participant(request: web.Request, meeting_id: str) -> Admission:
    storage = request.app[STORAGE]
    try:
        admission = request.app[TOKENS].read(_bearer(request))
    except BadToken as error:
        await storage.audit(request.remote or "", "key", meeting_id, f"refused: {error}")
        raise web.HTTPUnauthorized from None
    if admission.meeting_id != meeting_id:
        await storage.audit(admission.participant_id, "key", meeting_id, "refused: token of another meeting")
        raise web.HTTPForbidden
    return admission


def _shown(found: tuple[bytes, int] | None) -> dict[str, object]:
    if found is None:
        raise web.HTTPNotFound
    return {"key": b64encode(found[0]).decode(), "key_id": found[1]}
