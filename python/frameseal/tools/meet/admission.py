"""Limits the number of TCP connections to the web server, those in a TLS handshake included."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from frameseal.tools.meet.limits import ConnectionLimit

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds


class Admission(asyncio.Protocol):
    """Passes one new connection to the web server, or closes it at the limit."""

    def __init__(
        self, limit: ConnectionLimit, serve: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None
    ) -> None:
        """Make the protocol of one connection.

        :param serve: returns a protocol of the web server, for an admitted connection.
        :param context: the TLS context; None serves without TLS.
        """
        self._limit, self._serve, self._context = limit, serve, context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Acquire the connection, or abort it at the limit."""
        connection = cast(asyncio.Transport, transport)
        address = str((connection.get_extra_info("peername") or ("",))[0])
        if not self._limit.acquire(address):
            connection.abort()
            return
        counted = _CountedConnection(self._serve(), lambda: self._limit.release(address))
        connection.set_protocol(counted)
        if self._context is None:
            counted.connection_made(connection)
        else:
            connection.pause_reading()
            counted.handshake = asyncio.ensure_future(_start_tls(connection, counted, self._context))


class _CountedConnection(asyncio.Protocol):
    """The web server's protocol of one connection. It releases the connection when it is lost."""

    def __init__(self, inner: asyncio.Protocol, release: Callable[[], None]) -> None:
        self._inner, self._release = inner, release
        self._made = self._lost = False
        self.handshake: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = True
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._release()
            if self._made:
                self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


async def _start_tls(connection: asyncio.Transport, counted: _CountedConnection, context: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    try:
        secured = await loop.start_tls(
            connection, counted, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIMEOUT
        )
    except (OSError, asyncio.CancelledError):
        secured = None
    if secured is None:
        connection.abort()
        counted.connection_lost(None)
    else:
        counted.connection_made(secured)
