"""Fetch the shared key of a meeting over HTTPS: a client for servers that hand out keys, such as examples/keyserver.

frameseal itself stores and sends no keys. This is for applications whose participants ask a server for theirs, with the
token that admits them to the meeting.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from frameseal._json import parse_json
from frameseal._secrecy import Confidential, Hidden, require, require_seconds, utf8
from frameseal.keys.protocol import bounded

__all__ = [
    "BadAnswer",
    "KeyFetchError",
    "MeetingNotFound",
    "NotAuthorised",
    "ServerNotTrusted",
    "ServerUnavailable",
    "SharedKey",
    "fetch_shared_key",
]

MIN_KEY: Final = 16  # bytes
MAX_KEY_ID: Final = 255
MAX_ANSWER: Final = 16 * 1024  # bytes
MAX_ATTEMPTS: Final = 100
FIRST_WAIT: Final = 0.5  # seconds; doubled each time
MAX_WAIT: Final = 30.0  # seconds, whatever the server asks for; a fifth more with jitter
JITTER: Final = 0.2  # of a wait, so that those who were refused together do not come back together


class KeyFetchError(Exception):
    """The key could not be fetched; the subclasses say why. No message has a key or a token in it."""


class NotAuthorised(KeyFetchError):
    """The token is missing, expired, altered, or for another meeting: get a new one."""


class MeetingNotFound(KeyFetchError):
    """The server knows no such meeting, or it has ended."""


class ServerUnavailable(KeyFetchError):
    """Nothing useful came from the server, in all attempts: try again later."""


class ServerNotTrusted(KeyFetchError):
    """The server's certificate does not prove who it is. Somebody may be in the way; nothing was sent to it."""


class BadAnswer(KeyFetchError):
    """The server answered with something that is not a key: is the URL that of a key?"""


class SharedKey(Confidential):
    """A key, and the id to set it under: ``provider.set_shared_key(fetched.key, fetched.key_id)``."""

    __slots__ = ("_key", "_key_id")

    def __init__(self, key: bytes, key_id: int) -> None:
        """Hold a key."""
        require("key", key, bytes, "bytes")
        self._key = key
        self._key_id = bounded("key_id", key_id, 0, MAX_KEY_ID)

    @property
    def key(self) -> bytes:
        """At least 16 bytes."""
        return self._key

    @property
    def key_id(self) -> int:
        """0 to 255."""
        return self._key_id

    def __eq__(self, other: object) -> bool:
        """Compare both."""
        return isinstance(other, SharedKey) and (self._key, self._key_id) == (other._key, other._key_id)

    def __hash__(self) -> int:
        """Hash both."""
        return hash((self._key, self._key_id))

    def __repr__(self) -> str:
        """Show the id, never the key."""
        return f"SharedKey(key_id={self._key_id})"


async def fetch_shared_key(
    url: str,
    token: str,
    *,
    ca: str | Path | None = None,
    attempts: int = 5,
    attempt_timeout: float = 10.0,
) -> SharedKey:
    """Ask the server at *url* for a meeting's key.

    Network errors, answers of 500 and above, and 429 are tried again, after 0.5 s, 1 s, 2 s..., or after what the
    server says in ``Retry-After`` if that is longer, up to 30 s; and up to a fifth later than that, at random.

    :param url: of the key, ``https://`` and nothing else. Redirects are not followed: a token is for this server.
    :param token: sent as ``Authorization: Bearer``.
    :param ca: a file with the certificates to trust instead of the system's: for a server with one of its own making.
        There is no way to trust any certificate.
    :param attempts: 1 to 100.
    :param attempt_timeout: seconds for each attempt.
    :raises KeyFetchError: one of its subclasses.
    :raises ValueError: for a URL that is not https, a token that is none, a file of certificates that cannot be read,
        or a number out of its range.
    """
    _check_url(url)
    _check_token(token)
    bounded("attempts", attempts, 1, MAX_ATTEMPTS)
    require_seconds("attempt_timeout", attempt_timeout, zero=False)
    trust = _trust(ca)
    reason = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=attempt_timeout)) as session:
        for attempt in range(attempts):
            status, body, retry_after, untrusted = 0, Hidden(b""), None, ""
            try:
                async with session.get(
                    url, headers={"Authorization": f"Bearer {token}"}, ssl=trust, allow_redirects=False
                ) as response:
                    status, retry_after = response.status, response.headers.get("Retry-After")
                    if status == 200:
                        body = await _body(response.content)
            except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
                untrusted = _tls_failure(error)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                status, reason = 0, type(error).__name__  # ValueError: no host has such a name
            # Outside the handlers: those errors know the URL and what was sent, and an answer may be most of a key.
            if untrusted:
                raise ServerNotTrusted(f"the server's certificate is not trusted: {untrusted}")
            if status == 200:
                return _shared_key(body)
            if status:
                _raise_for_status(status)
                reason = f"the server answered {status}"
            if attempt + 1 < attempts:
                await asyncio.sleep(_wait(attempt, retry_after))
    raise ServerUnavailable(f"no key after {attempts} attempts: {reason}")


def _check_url(url: str) -> None:
    utf8("url", url)
    try:
        parts = urlsplit(url)
        right = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        right = False
    if not right:
        raise ValueError("a key is fetched over https only, from https://host/... without a user name in front")


def _check_token(token: str) -> None:
    """Check that it can stand in a header (RFC 9110, section 5.5)."""
    require("token", token, str, "a str")
    if not token.isascii() or not token.isprintable():
        raise ValueError("token must be printable ASCII, as a header takes it")


def _trust(ca: str | Path | None) -> ssl.SSLContext:
    require("ca", ca, (str, Path, type(None)), "the name of a file")
    if ca == "":
        raise ValueError("ca must be the name of a file, not empty")
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file can have this name"  # no more of it: it may name the file
    raise ValueError(f"ca must be a file with certificates in PEM: {reason}")


async def _body(content: aiohttp.StreamReader) -> Hidden[bytes]:
    """Return what the server answers, hidden from whoever captures the variables of a traceback."""
    body = b""
    while len(body) <= MAX_ANSWER and (part := await content.read(MAX_ANSWER + 1 - len(body))):
        body += part  # a read ends where a packet did
    return Hidden(body)


def _raise_for_status(status: int) -> None:
    """Raise what trying again would not change."""
    if status in (401, 403):
        raise NotAuthorised(f"the server answered {status}: the token does not admit to this key, or no longer")
    if status in (404, 410):
        raise MeetingNotFound(f"the server answered {status}: there is no such meeting, or it has ended")
    if status != 429 and status < 500:
        raise BadAnswer(f"the server answered {status}")


def _wait(attempt: int, retry_after: str | None) -> float:
    """Return how many seconds to wait after an attempt: never less than was asked for, within the bound."""
    longest = max(FIRST_WAIT * 2.0**attempt, _seconds(retry_after))
    return min(longest, MAX_WAIT) * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311 - jitter


def _seconds(retry_after: str | None) -> float:
    """Read ``Retry-After`` (RFC 9110, section 10.2.3): seconds, or a date. 0 for what is neither."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        seconds = _seconds_until(retry_after or "")
    return seconds if math.isfinite(seconds) else 0.0


def _seconds_until(date: str) -> float:
    try:
        then = parsedate_to_datetime(date)
        return (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _shared_key(body: Hidden[bytes]) -> SharedKey:
    key = _parse_answer(body.reveal())
    if key is None:
        raise BadAnswer('expected {"key": base64 of 16 bytes or more, "key_id": 0 to 255}')
    return key


def _parse_answer(body: bytes) -> SharedKey | None:
    """Return the key in an answer. None if there is none: errors of JSON and base64 would hold what came instead."""
    if len(body) > MAX_ANSWER:
        return None
    try:
        answer = parse_json(body)
        key = base64.b64decode(answer["key"], validate=True)
        return SharedKey(key, answer["key_id"]) if len(key) >= MIN_KEY else None
    except (ValueError, KeyError, TypeError):
        return None


def _tls_failure(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return getattr(inner, "verify_message", "") or type(inner).__name__
