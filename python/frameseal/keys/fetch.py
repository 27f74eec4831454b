"""Fetches the shared key of a meeting over HTTPS, from a key server such as examples/keyserver.

frameseal itself stores and sends no keys. Use this module if your participants request their key from a server. They
authenticate with the token that admits them to the meeting.
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

MIN_KEY_BYTES: Final = 16
MAX_KEY_ID: Final = 255
MAX_RESPONSE_BYTES: Final = 16 * 1024
MAX_ATTEMPTS: Final = 100
FIRST_WAIT: Final = 0.5  # seconds before the second attempt; doubled before each further attempt
MAX_WAIT: Final = 30.0  # seconds, whatever the server requests; jitter adds up to a fifth
JITTER: Final = 0.2  # maximum share added to a wait, so that clients refused together do not retry together


class KeyFetchError(Exception):
    """The key could not be fetched; the subclass tells the reason. No message contains a key or a token."""


class NotAuthorised(KeyFetchError):
    """The server answered 401 or 403: the token is missing, expired, altered, or for another meeting. Renew it."""


class MeetingNotFound(KeyFetchError):
    """The server answered 404 or 410: the meeting does not exist, or has ended."""


class ServerUnavailable(KeyFetchError):
    """No attempt received a usable response. Try again later."""


class ServerNotTrusted(KeyFetchError):
    """The certificate of the server is not trusted. Somebody may intercept the connection; no token was sent."""


class BadAnswer(KeyFetchError):
    """The response is not a key. Check that the URL is the URL of a key."""


class SharedKey(Confidential):
    """A key and its key id, for ``provider.set_shared_key(fetched.key, fetched.key_id)``."""

    __slots__ = ("_key", "_key_id")

    def __init__(self, key: bytes, key_id: int) -> None:
        """Hold *key*, under *key_id*, 0 to 255."""
        require("key", key, bytes, "bytes")
        self._key = key
        self._key_id = bounded("key_id", key_id, 0, MAX_KEY_ID)

    @property
    def key(self) -> bytes:
        """The raw key, at least 16 bytes."""
        return self._key

    @property
    def key_id(self) -> int:
        """The key id, 0 to 255."""
        return self._key_id

    def __eq__(self, other: object) -> bool:
        """Compare the keys and the key ids."""
        return isinstance(other, SharedKey) and (self._key, self._key_id) == (other._key, other._key_id)

    def __hash__(self) -> int:
        """Hash the key and the key id."""
        return hash((self._key, self._key_id))

    def __repr__(self) -> str:
        """Show the key id, never the key."""
        return f"SharedKey(key_id={self._key_id})"


async def fetch_shared_key(
    url: str,
    token: str,
    *,
    ca: str | Path | None = None,
    attempts: int = 5,
    attempt_timeout: float = 10.0,
) -> SharedKey:
    """Request the key of a meeting from the server at *url*.

    Network errors and the status codes 429 and 500 or above are retried. The delays are 0.5 s, 1 s, 2 s..., or
    ``Retry-After`` (RFC 9110, section 10.2.3) if it is longer. The maximum delay is 30 s. Random jitter adds up to a
    fifth.

    :param url: the URL of the key, which must begin with ``https://``. Redirects are not followed, because the token is
        meant for this server only.
    :param token: the token, sent as ``Authorization: Bearer`` (RFC 6750).
    :param ca: the path of a PEM file with the certificates to trust instead of the system's, for a self-signed server
        certificate. Verification cannot be turned off.
    :param attempts: maximum number of attempts, 1 to 100.
    :param attempt_timeout: maximum duration of each attempt in seconds.
    :raises KeyFetchError: always one of its subclasses.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: *url* is not an https URL, *token* is not printable ASCII, *ca* is not readable as PEM, or a
        number is out of range.
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
                status, reason = 0, type(error).__name__  # ValueError: an invalid host name
            # Raised outside the handlers: those errors hold the URL, the request, and perhaps parts of a key.
            if untrusted:
                raise ServerNotTrusted(f"the server's certificate is not trusted: {untrusted}")
            if status == 200:
                return _shared_key(body)
            if status:
                _raise_for_status(status)
                reason = f"the server answered {status}"
            if attempt + 1 < attempts:
                await asyncio.sleep(_wait(attempt, retry_after))
    raise ServerUnavailable(f"no key after {attempts} attempts: {reason}; try again later")


def _check_url(url: str) -> None:
    utf8("url", url)
    try:
        parts = urlsplit(url)
        right = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        right = False
    if not right:
        raise ValueError("url must begin with https:// and a host, without a user name")


def _check_token(token: str) -> None:
    """Check that *token* is valid in a header field (RFC 9110, section 5.5)."""
    require("token", token, str, "a str")
    if not token.isascii() or not token.isprintable():
        raise ValueError("token must be printable ASCII, as a header field requires")


def _trust(ca: str | Path | None) -> ssl.SSLContext:
    require("ca", ca, (str, Path, type(None)), "the name of a file")
    if ca == "":
        raise ValueError("ca must be the path of a file, not empty: use None for the certificates of the system")
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        # Not the whole error, which may quote the path.
        reason = getattr(error, "strerror", None) or "no file can have this name"
    raise ValueError(f"ca must be a file with certificates in PEM: {reason}")


async def _body(content: aiohttp.StreamReader) -> Hidden[bytes]:
    """Return the body of the response, hidden from captured traceback variables."""
    body = b""
    while len(body) <= MAX_RESPONSE_BYTES and (part := await content.read(MAX_RESPONSE_BYTES + 1 - len(body))):
        body += part  # a read returns at most one packet
    return Hidden(body)


def _raise_for_status(status: int) -> None:
    """Raise the error of a status code that a further attempt would not change."""
    if status in (401, 403):
        raise NotAuthorised(f"the server answered {status}: the token does not admit to this key (any more)")
    if status in (404, 410):
        raise MeetingNotFound(f"the server answered {status}: the meeting does not exist, or has ended")
    if status != 429 and status < 500:
        raise BadAnswer(f"the server answered {status}: check that the URL is the URL of a key")


def _wait(attempt: int, retry_after: str | None) -> float:
    """Return the seconds to wait after an attempt: at least what the server requested, up to the maximum."""
    longest = max(FIRST_WAIT * 2.0**attempt, _seconds(retry_after))
    return min(longest, MAX_WAIT) * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311 - jitter


def _seconds(retry_after: str | None) -> float:
    """Return the seconds in ``Retry-After`` (RFC 9110, section 10.2.3), a number or a date, or 0 for other values."""
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
        raise BadAnswer('the response must be {"key": base64 of 16 bytes or more, "key_id": 0 to 255}')
    return key


def _parse_answer(body: bytes) -> SharedKey | None:
    """Return the key in a response, or None if it has none. Errors of JSON and base64 would quote the response."""
    if len(body) > MAX_RESPONSE_BYTES:
        return None
    try:
        answer = parse_json(body)
        key = base64.b64decode(answer["key"], validate=True)
        return SharedKey(key, answer["key_id"]) if len(key) >= MIN_KEY_BYTES else None
    except (ValueError, KeyError, TypeError):
        return None


def _tls_failure(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return getattr(inner, "verify_message", "") or type(inner).__name__
