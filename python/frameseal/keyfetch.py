"""Fetch the shared key of a meeting over HTTPS: a client for servers that hand out keys, such as examples/keyserver.

frameseal itself stores and sends no keys. This is for applications whose participants ask a server for theirs, with the
token that admits them to the meeting.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

__all__ = [
    "BadAnswer",
    "KeyFetchError",
    "NoSuchKey",
    "NotAuthorised",
    "ServerNotTrusted",
    "ServerUnavailable",
    "SharedKey",
    "fetch_shared_key",
]

LEAST_KEY: Final = 16  # bytes
MOST_ANSWER: Final = 16 * 1024  # bytes
FIRST_WAIT: Final = 0.5  # seconds; doubled each time
LONGEST_WAIT: Final = 30.0  # seconds


class KeyFetchError(Exception):
    """The key could not be fetched; the subclasses say why. No message has a key or a token in it."""


class NotAuthorised(KeyFetchError):
    """The token is missing, expired, altered, or for another meeting: get a new one."""


class NoSuchKey(KeyFetchError):
    """The server knows no such meeting, or it has ended."""


class ServerUnavailable(KeyFetchError):
    """Nothing useful came from the server, in all attempts: try again later."""


class ServerNotTrusted(KeyFetchError):
    """The server's certificate does not prove who it is. Somebody may be in the way; nothing was sent to it."""


class BadAnswer(KeyFetchError):
    """The server answered with something that is not a key: is the URL that of a key?"""


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A key, and the id to set it under: ``provider.set_shared_key(fetched.key, fetched.key_id)``."""

    key: bytes = field(repr=False)
    """At least 16 bytes."""

    key_id: int
    """0 to 255."""


async def fetch_shared_key(
    url: str,
    token: str,
    *,
    ca: str | Path | None = None,
    attempts: int = 5,
    attempt_timeout: float = 10.0,
) -> SharedKey:
    """Ask the server at *url* for a meeting's key.

    Network errors, answers of 500 and above, and 429 are tried again, after 0.5 s, 1 s, 2 s... with jitter, or after
    what the server says in ``Retry-After`` if that is longer (30 s at most).

    :param url: of the key, ``https://`` and nothing else. Redirects are not followed: a token is for this server.
    :param token: sent as ``Authorization: Bearer``.
    :param ca: a file with the certificates to trust instead of the system's: for a server with one of its own making.
        There is no way to trust any certificate.
    :param attempts: 1 or more.
    :param attempt_timeout: seconds for each attempt.
    :raises KeyFetchError: one of its subclasses.
    :raises ValueError: for a URL that is not https, or *attempts* below 1.
    """
    if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
        raise ValueError("a key is fetched over https only, from https://host/...")
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, not {attempts}")
    trust = ssl.create_default_context(cafile=ca)
    reason = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=attempt_timeout)) as session:
        for attempt in range(attempts):
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            try:
                async with session.get(
                    url, headers={"Authorization": f"Bearer {token}"}, ssl=trust, allow_redirects=False
                ) as response:
                    if response.status == 200:
                        return _key(await _body(response.content))
                    _give_up(response.status)
                    reason = f"the server answered {response.status}"
                    wait = _asked_to_wait(response.headers.get("Retry-After"), wait)
            except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
                raise ServerNotTrusted(f"{urlsplit(url).netloc}: {_cause(error)}") from None
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = type(error).__name__
            if attempt + 1 < attempts:
                await asyncio.sleep(wait)
    raise ServerUnavailable(f"no key after {attempts} attempts: {reason}")


async def _body(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while len(body) <= MOST_ANSWER and (part := await content.read(MOST_ANSWER + 1 - len(body))):
        body += part  # a read ends where a packet did
    return body


def _give_up(status: int) -> None:
    """Raise what trying again would not change."""
    if status in (401, 403):
        raise NotAuthorised(f"the server answered {status}: the token does not admit to this key")
    if status in (404, 410):
        raise NoSuchKey(f"the server answered {status}: there is no such meeting, or it has ended")
    if status != 429 and status < 500:
        raise BadAnswer(f"the server answered {status}")


def _asked_to_wait(asked: str | None, otherwise: float) -> float:
    try:
        return min(max(float(asked or ""), otherwise), LONGEST_WAIT)
    except ValueError:  # not given, or a date
        return otherwise


def _key(body: bytes) -> SharedKey:
    try:
        if len(body) > MOST_ANSWER:
            raise ValueError
        answer = json.loads(body)
        key, key_id = base64.b64decode(answer["key"], validate=True), answer["key_id"]
        if len(key) < LEAST_KEY or isinstance(key_id, bool) or not 0 <= int(key_id) < 256 or int(key_id) != key_id:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        # Not chained: what came may be most of a key.
        raise BadAnswer('expected {"key": base64 of 16 bytes or more, "key_id": 0 to 255}') from None
    return SharedKey(key, int(key_id))


def _cause(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return getattr(inner, "verify_message", "") or type(inner).__name__
