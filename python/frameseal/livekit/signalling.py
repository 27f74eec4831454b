"""The web socket to a LiveKit server: how a room is joined, and the messages of the visit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from frameseal._secrecy import Confidential, Hidden, require, utf8
from frameseal.livekit.errors import NotAdmitted, RoomError

__all__ = ["ANSWER_TIMEOUT", "CLOSE_TIMEOUT", "Signalling", "Token", "checked_token", "checked_url", "name_of"]

# The latest protocol in which each track has a line of its own. Later ones reuse the line of a track that ended, when
# both sides have agreed on its end, and aiortc cannot start a receiver again.
PROTOCOL: Final = 3
ANSWER_TIMEOUT: Final = 20.0  # seconds until the server answers, or ICE and DTLS connect
CLOSE_TIMEOUT: Final = 5.0  # seconds; closing a connection of aiortc that is still connecting may never return
_NOT_ADMITTED: Final = frozenset((401, 403))

Token = str | Callable[[], str | Awaitable[str]]
"""An access token, or a function that returns a fresh one for each time that the room is joined."""


class Signalling(Confidential):
    """The web socket of one visit to a room."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, joined: rtc.JoinResponse) -> None:
        """Use `open`."""
        self.joined: Final = joined
        """The server's answer to the join."""
        self._socket = socket
        self._last_heard = time.monotonic()

    @classmethod
    async def open(cls, http: aiohttp.ClientSession, url: str, token: Hidden[str]) -> Signalling:
        """Join a room once.

        :raises NotAdmitted: the server does not admit the token.
        :raises RoomError: the server cannot be reached, or does not answer.
        """
        status, reason, socket, first = 0, "", None, rtc.SignalResponse()
        query = {"protocol": str(PROTOCOL), "auto_subscribe": "0", "adaptive_stream": "0"}
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                # In a header, because the URL stands in the errors of aiohttp and in the logs of proxies.
                socket = await http.ws_connect(
                    f"{url}/rtc",
                    params=query,
                    headers={"Authorization": f"Bearer {token.reveal()}"},
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                )
                message = await socket.receive()
            first = rtc.SignalResponse.FromString(message.data if message.type is aiohttp.WSMsgType.BINARY else b"")
        except aiohttp.WSServerHandshakeError as error:
            status = error.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, DecodeError) as error:
            reason = f"the server cannot be reached or does not answer ({type(error).__name__}): check the URL"
        # Raised outside the handlers: those errors hold the request with its token.
        if status in _NOT_ADMITTED:
            raise NotAdmitted(f"the server answered {status}: the token has expired, or is not one of this server's")
        identity = first.join.participant.identity
        if status:
            reason = f"the server answered {status}: check the URL, and that the room exists"
        elif first.HasField("leave"):
            reason = f"the server refuses it ({name_of(models.DisconnectReason, first.leave.reason)})"
        elif not reason and not identity:
            reason = "the server's first message is no answer"
        elif not reason and identity != (_subject_of(token.reveal()) or identity):
            reason = "the server gave this side another identity than the token, whose keys are not ours"
        if reason or socket is None:
            if socket is not None:
                await socket.close()
            raise RoomError(f"the room cannot be joined: {reason}")
        return cls(socket, first.join)

    async def request(self, **message: Any) -> None:
        """Send one request to the server."""
        with contextlib.suppress(ConnectionError):  # `messages` notices the end of the socket
            await self._socket.send_bytes(rtc.SignalRequest(**message).SerializeToString())

    async def messages(self) -> AsyncIterator[rtc.SignalResponse]:
        """Yield the server's messages until the socket closes."""
        async for message in self._socket:
            self._last_heard = time.monotonic()
            if message.type is aiohttp.WSMsgType.BINARY:
                yield rtc.SignalResponse.FromString(message.data)

    async def ping(self) -> None:
        """Ping the server, and return when it is silent for too long."""
        interval = self.joined.ping_interval or 5
        patience = max(self.joined.ping_timeout or 15, 2 * interval)
        while time.monotonic() - self._last_heard < patience:
            await self.request(ping_req=rtc.Ping(timestamp=int(time.time() * 1000)))
            await asyncio.sleep(interval)

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()


def checked_url(url: str) -> str:
    """Return the URL of a server without a slash at the end.

    :raises ValueError: *url* is no URL of a web socket, or holds more than a host and a path.
    """
    utf8("url", url)
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname) and parts.port != 0
        right = right and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        right = False
    if not right:
        raise ValueError("url must begin with wss:// and a host, without a user name and a query")
    return url.rstrip("/")


def checked_token(token: object) -> str:
    """Return *token* if a header field can hold it.

    :raises TypeError: *token* is not a str.
    :raises ValueError: *token* is not printable ASCII.
    """
    require("token", token, str, "a str, or a function that returns a str")
    text = str(token)
    if not text.isascii() or not text.isprintable():
        raise ValueError("token must be printable ASCII, as a header field requires")
    return text


def _subject_of(token: str) -> str | None:
    """Return the identity in a token (JWT, RFC 7519). None means that the token is of another form."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) else None


def name_of(enum: Any, number: int) -> str:
    """Return the name of a number of an enum, or "UNKNOWN" for a number of a later version."""
    return cast(str, enum.Name(number)) if number in enum.values() else "UNKNOWN"
