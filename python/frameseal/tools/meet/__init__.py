"""`frameseal meet`: a sealed meeting in a browser, with a participant in Python.

One process is the page's web server, a keyless SFU (`room`), and a bot that has the key (`bot`). Only the bot, and
the pages of those who have the link, ever see the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import aioice.ice
from aiohttp import web

from frameseal._secrecy import Confidential, Hidden, hide, require
from frameseal.keys.protocol import bounded
from frameseal.tools.meet.admission import Admission
from frameseal.tools.meet.bot import Bot
from frameseal.tools.meet.certificate import self_signed
from frameseal.tools.meet.janus import Janus, JanusError
from frameseal.tools.meet.limits import IDLE_TIMEOUT, MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS, ConnectionLimit
from frameseal.tools.meet.page import application
from frameseal.tools.meet.room import Room
from frameseal.tools.meet.rotation_message import MeetingKey
from frameseal.tools.meet.worker import Worker, WorkerUnavailable, load_worker

__all__ = ["MeetOptions", "Meeting", "WorkerUnavailable", "CannotServe", "meeting", "run"]

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 128  # connections that wait to be accepted


class CannotServe(Exception):
    """The meeting cannot be served as asked; the message says why, in one line."""


@dataclass(frozen=True, repr=False)
class MeetOptions(Confidential):
    """How to meet. Without a passphrase a random one is made up. Port 0 is any that is free.

    The passphrase is given as text and kept `Hidden`.
    """

    port: int = 8470
    lan: bool = False
    codec: str = "vp8"
    janus: str | None = None
    """Media go through this Janus, ``ws://HOST:PORT``, instead of forwarders of our own."""
    passphrase: str | Hidden[str] = field(default_factory=lambda: secrets.token_urlsafe(16))

    def __post_init__(self) -> None:
        """Check the port, and hide the passphrase."""
        bounded("port", self.port, 0, 65535)
        object.__setattr__(self, "passphrase", hide(self.passphrase))


@dataclass(repr=False)
class Meeting(Confidential):
    """A meeting that is being served."""

    room: Room
    bot: Bot
    origin: str
    """Where the page is: scheme, host and port."""
    certificate: str | None
    """The SHA-256 fingerprint of the certificate, with `MeetOptions.lan`."""

    @property
    def link(self) -> str:
        """What to give to those who shall take part: the page, and the present key in the fragment."""
        key = self.bot.key
        return f"{self.origin}/#{urlencode({'key': key.passphrase, 'id': key.key_id})}"


def run(options: MeetOptions, package: Path | None = None) -> int:
    """Serve a meeting until Ctrl-C.

    :param package: a local file of the worker's npm package, for machines without a network.
    :raises WorkerUnavailable: the browser's e2ee worker cannot be had.
    :raises CannotServe: the port is taken, there is no local network, or no Janus.
    """
    require("options", options, MeetOptions, "MeetOptions")
    worker = load_worker(package)
    asyncio.run(_serve(options, worker))
    return 0


async def _serve(options: MeetOptions, worker: Worker) -> None:
    def rotated(key: MeetingKey) -> None:
        print(f"the key is now number {key.key_id}; whoever joins from now on needs\n  {served.link}", flush=True)

    async with meeting(options, worker, rotated) as served:
        print(f"the meeting is at\n  {served.link}")
        print("the key is behind the #: give the link only to those who shall take part. Ctrl-C ends the meeting.")
        if served.certificate is not None:
            print(f"browsers will warn of the certificate, which is self-made; its SHA-256 is\n  {served.certificate}")
        if options.lan:
            print("use the link on this machine too: the page works over HTTPS only.")
        print(end="", flush=True)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def meeting(
    options: MeetOptions, worker: Worker, rotated: Callable[[MeetingKey], None] = lambda key: None
) -> AsyncIterator[Meeting]:
    """Serve a meeting as long as the context lasts. *rotated* is called when a participant brings a new key.

    :raises CannotServe: the port is taken, there is no local network, or no Janus.
    """
    require("options", options, MeetOptions, "MeetOptions")
    require("worker", worker, Worker, "a Worker")
    require("rotated", rotated, "__call__", "a function")
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.enter_context(_loopback_too())
        here = [str(address) for address in _addresses()]
        others = [address for address in here if address != LOOPBACK]
        if options.lan and not others:
            raise CannotServe("there is no local network: leave out --lan")
        context, certificate = self_signed(here) if options.lan else (None, None)
        janus: Janus | None = None
        if options.janus is not None:
            janus = Janus(options.janus, options.codec)
            try:
                await janus.open()
            except JanusError as error:
                raise CannotServe(str(error)) from error
            cleanup.push_async_callback(janus.close)

        room = Room(janus)
        bot = Bot(room, MeetingKey(hide(options.passphrase).reveal()), options.codec, rotated)
        facts = {
            "codec": options.codec,
            "forwardersView": janus is None,  # into Janus nobody here can look
        }
        hosts = {LOOPBACK, "localhost", *(others if options.lan else ())}
        runner = web.AppRunner(
            application(room, worker, facts, hosts),
            access_log=None,
            shutdown_timeout=2,
            keepalive_timeout=IDLE_TIMEOUT,
        )
        cleanup.push_async_callback(runner.cleanup)
        cleanup.push_async_callback(room.close)
        cleanup.push_async_callback(bot.close)
        await runner.setup()
        host = "0.0.0.0" if options.lan else LOOPBACK  # noqa: S104 - asked for with --lan
        limit = ConnectionLimit(MAX_CONNECTIONS_OF_ADDRESS, MAX_CONNECTIONS)
        serve = runner.server
        assert serve is not None  # noqa: S101 - after setup()
        try:
            listening = await asyncio.get_running_loop().create_server(
                lambda: Admission(limit, serve, context), host, options.port, reuse_address=True, backlog=BACKLOG
            )
        except OSError as error:
            raise CannotServe(f"port {options.port}: {error.strerror}. Choose another with --port") from error
        cleanup.callback(listening.close)
        room.join(bot)
        shown, port = others[0] if options.lan else LOOPBACK, listening.sockets[0].getsockname()[1]
        yield Meeting(room, bot, f"http{'s' if options.lan else ''}://{shown}:{port}", certificate)


def _addresses() -> Iterator[ipaddress.IPv4Address]:
    for text in aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=False):
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv4Address) and not address.is_link_local:
            yield address


@contextlib.contextmanager
def _loopback_too() -> Iterator[None]:
    """Let ICE gather 127.0.0.1 beside the machine's other addresses.

    aioice leaves it out, so that without a network nobody could connect. There is no setting for this; patched for the
    time of the meeting.
    """
    original = aioice.ice.get_host_addresses

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        others = [address for address in original(use_ipv4, use_ipv6) if address != LOOPBACK]
        return [LOOPBACK, *others] if use_ipv4 else others

    aioice.ice.get_host_addresses = addresses
    try:
        yield
    finally:
        aioice.ice.get_host_addresses = original
