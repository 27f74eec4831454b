"""The HTTP interface. Every request is authorised, limited, answered and audited, in this order."""

import hmac
import json
import math
import random
import time
from base64 import b64encode
from collections import OrderedDict
from typing import Any, Final, NoReturn, TypeGuard

from aiohttp import ClientError, web
from aiohttp.typedefs import Handler

from .storage import Found, Storage
from .tokens import Admission, BadToken, Tokens, key_for_client

# The capacity of a token bucket in requests, and the seconds after which it regains one. A participant of a meeting has
# a bucket once the token was checked. An address has one for requests without a valid token. An office has one address
# for many people, so nothing else is counted by address. Requests of the application are not counted.
BURST, SECONDS_EACH = 20, 0.5
MAX_BRACKETS = 16  # opening brackets in a request
MAX_COUNTED = 10_000
SPREAD: Final = 4.0  # seconds over which clients that were refused together return
MAX_NAME = 64  # characters of a participant's id
MAX_REMOVED = 1_000  # participants in one rotation

STORAGE: Final = web.AppKey("storage", Storage)
TOKENS: Final = web.AppKey("tokens", Tokens)
APPLICATION_KEY: Final = web.AppKey("application_key", bytes)


class Limiter:
    """A token bucket for each client. The client that has not asked for the longest time is forgotten first."""

    def __init__(self, burst: float = BURST, seconds_each: float = SECONDS_EACH) -> None:
        self._burst, self._each = burst, seconds_each
        self._seen: OrderedDict[object, tuple[float, float, bool]] = OrderedDict()

    def wait_for(self, who: object) -> tuple[float, bool]:
        """Return the seconds until *who* may ask, 0 for now, and whether the previous request was refused too."""
        now = time.monotonic()
        left, since, refused_before = self._seen.pop(who, (self._burst, now, False))
        left = min(self._burst, left + (now - since) / self._each)
        may = left >= 1
        self._seen[who] = (left - 1 if may else left, now, not may)
        if len(self._seen) > MAX_COUNTED:
            self._seen.popitem(last=False)
        return 0.0 if may else (1 - left) * self._each, refused_before


LIMITER: Final = web.AppKey("limiter", Limiter)
FAILURES: Final = web.AppKey("failures", Limiter)

routes = web.RouteTableDef()


def make_app(
    storage: Storage,
    tokens: Tokens,
    application_key: str,
    limiter: Limiter | None = None,
    failures: Limiter | None = None,
) -> web.Application:
    """Return the server.

    *application_key* authorises your application server, and nobody else holds it. *limiter* counts participants,
    *failures* counts addresses that are not authorised.
    """

    @web.middleware
    async def not_stored(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Cache-Control"] = "no-store"
        return response

    app = web.Application(middlewares=[not_stored], client_max_size=64 * 1024)
    app[STORAGE], app[TOKENS], app[APPLICATION_KEY] = storage, tokens, application_key.encode()
    app[LIMITER], app[FAILURES] = limiter or Limiter(), failures or Limiter()
    app.add_routes(routes)
    return app


@routes.post("/meetings")
async def create(request: web.Request) -> web.Response:
    """Make a meeting and its key. The application server receives both, and distributes the key."""
    await _application(request, "create", "")
    storage = request.app[STORAGE]
    meeting_id = await storage.create()
    await storage.audit("application", "create", meeting_id, "made")
    return web.json_response({"meeting_id": meeting_id, **_shown(await storage.key(meeting_id))}, status=201)


@routes.post("/meetings/{meeting_id}/tokens")
async def admit(request: web.Request) -> web.Response:
    """Make a participant's access token.

    JSON: participant_id; optionally ``"key": "beside"`` (this answer holds the key, beside the token) or
    ``"client_jwk": {...}`` (the token holds the key, encrypted for that public key).
    """
    meeting_id = request.match_info["meeting_id"]
    await _application(request, "admit", meeting_id)
    storage, body = request.app[STORAGE], await _json(request, "admit", meeting_id)
    participant_id = body.get("participant_id")
    if not _is_name(participant_id):
        await _malformed(request, "admit", meeting_id, f"expected participant_id: {_NAME}")
    if body.get("key") not in (None, "beside"):
        await _malformed(request, "admit", meeting_id, 'expected "beside" for key, if anything')
    found = await storage.key(meeting_id)
    if found is None:
        await storage.audit("application", "admit", meeting_id, "no such meeting")
        raise web.HTTPNotFound
    claims: dict[str, Any] = {}
    if "client_jwk" in body:
        try:
            claims["e2ee_key"] = key_for_client(found.key, found.key_id, body["client_jwk"])
        except ValueError as error:
            await _malformed(request, "admit", meeting_id, str(error))
    token = request.app[TOKENS].make(participant_id, meeting_id, found.generation, **claims)
    await storage.audit("application", "admit", meeting_id, participant_id)
    return web.json_response({"token": token, **(_shown(found) if body.get("key") else {})}, status=201)


@routes.get("/meetings/{meeting_id}/key")
async def key(request: web.Request) -> web.Response:
    """Send the newest key to a participant with a token for this meeting who has not been removed since."""
    meeting_id = request.match_info["meeting_id"]
    admission = await _participant(request, meeting_id)
    storage, who = request.app[STORAGE], admission.participant_id
    found = await storage.key(meeting_id)
    if found is None:
        await storage.audit(who, "key", meeting_id, "no such meeting")
        raise web.HTTPNotFound
    # Ask after the key was read: see `Storage.admits`.
    if not await storage.admits(meeting_id, who, admission.generation):
        await storage.audit(who, "key", meeting_id, "refused: token from before a rotation")
        raise web.HTTPUnauthorized
    await storage.audit(who, "key", meeting_id, "given")
    return web.json_response(_shown(found))


@routes.post("/meetings/{meeting_id}/rotate")
async def rotate(request: web.Request) -> web.Response:
    """Make a fresh key, which the next requests for the key receive.

    JSON, optionally: ``"removed": [participant_id, ...]``, who must not have the key. The tokens of all others stay
    valid. Without it the server cannot know who has left, so everybody needs a new token.
    """
    meeting_id = request.match_info["meeting_id"]
    await _application(request, "rotate", meeting_id)
    storage, body = request.app[STORAGE], await _json(request, "rotate", meeting_id, optional=True)
    removed = body.get("removed")
    if removed is not None and not _are_names(removed):
        await _malformed(request, "rotate", meeting_id, f"expected removed: a list of ids, each {_NAME}")
    key_id = await storage.rotate(meeting_id, removed)
    outcome = "no such meeting" if key_id is None else "made"
    await storage.audit("application", "rotate", meeting_id, outcome)
    if key_id is None:
        raise web.HTTPNotFound
    for name in removed or ():
        await storage.audit("application", "remove", meeting_id, name)
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


_NAME: Final = f"1 to {MAX_NAME} printable characters"


def _is_name(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()


def _are_names(names: object) -> TypeGuard[list[str]]:
    return isinstance(names, list) and len(names) <= MAX_REMOVED and all(map(_is_name, names))


async def _json(request: web.Request, what: str, meeting_id: str, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in the body. Returns an empty one for an empty body if the body is *optional*."""
    try:
        if optional and not await request.read():
            return {}
        body = await request.json(loads=_shallow)
    # LookupError means an unknown charset. The others mean a body that is too long, cut short or wrongly encoded.
    except (ValueError, LookupError, web.HTTPException, ClientError, web.RequestPayloadError, OSError):
        body = None
    if not isinstance(body, dict):
        await _malformed(request, what, meeting_id, "expected JSON: an object, 64 KiB at most")
    return body


def _shallow(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError before the parser recurses deeply: once per level."""
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        raise ValueError(f"expected at most {MAX_BRACKETS} arrays and objects")
    return json.loads(text)


async def _malformed(request: web.Request, what: str, meeting_id: str, expected: str) -> NoReturn:
    """Answer a malformed request of the application. The text names what was expected, and quotes nothing."""
    await request.app[STORAGE].audit("application", what, meeting_id, f"malformed: {expected}")
    raise web.HTTPBadRequest(text=expected)


def _bearer(request: web.Request) -> bytes:
    """Return the token, or empty bytes if there is none. A stranger's token need not be text."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""


async def _application(request: web.Request, what: str, meeting_id: str) -> None:
    if not hmac.compare_digest(_bearer(request), request.app[APPLICATION_KEY]):
        await _unauthorised(request, what, meeting_id, "not the application")


async def _participant(request: web.Request, meeting_id: str) -> Admission:
    try:
        admission = request.app[TOKENS].read(_bearer(request))
    except BadToken as error:
        await _unauthorised(request, "key", meeting_id, str(error))
    who = admission.participant_id
    await _limited(request, request.app[LIMITER], (admission.meeting_id, who), "key", meeting_id)
    if admission.meeting_id != meeting_id:
        await request.app[STORAGE].audit(who, "key", meeting_id, "refused: token of another meeting")
        raise web.HTTPForbidden
    return admission


async def _unauthorised(request: web.Request, what: str, meeting_id: str, reason: str) -> NoReturn:
    """Refuse, and count the refusal for the address. A flood of guesses must fill neither database nor processor."""
    address = request.remote or ""
    await _limited(request, request.app[FAILURES], (address,), what, meeting_id)
    await request.app[STORAGE].audit(address, what, meeting_id, f"refused: {reason}")
    raise web.HTTPUnauthorized


async def _limited(
    request: web.Request, limiter: Limiter, counted: tuple[str, ...], what: str, meeting_id: str
) -> None:
    """Refuse a client that asks too often, and send a random time to return. *counted* ends with the client."""
    wait, refused_before = limiter.wait_for(counted)
    if not wait:
        return
    if not refused_before:  # one row per run of refusals: a flood must not fill the database
        await request.app[STORAGE].audit(counted[-1], what, meeting_id, "too many requests")
    later = math.ceil(wait + random.uniform(0, SPREAD))
    raise web.HTTPTooManyRequests(headers={"Retry-After": str(later)})


def _shown(found: Found | None) -> dict[str, object]:
    if found is None:
        raise web.HTTPNotFound
    return {"key": b64encode(found.key).decode(), "key_id": found.key_id}
