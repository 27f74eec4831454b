"""`frameseal meet`: serves an encrypted meeting for browsers, with a participant in Python.

One process runs the page's web server, a keyless SFU (`room`), and a bot with the key (`bot`). Only the bot and the
pages opened with the link ever hold the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import aioice.ice
from aiohttp import web

from frameseal._secrecy import Confidential, Hidden, hide, require
from frameseal.enums import Profile
from frameseal.keys.protocol import bounded
from frameseal.tools.janus import JanusError
from frameseal.tools.meet.admission import Admission
from frameseal.tools.meet.bot import Bot
from frameseal.tools.meet.certificate import self_signed
from frameseal.tools.meet.janus import Janus
from frameseal.tools.meet.limits import IDLE_TIMEOUT, MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS, ConnectionLimit
from frameseal.tools.meet.page import application
from frameseal.tools.meet.room import Room
from frameseal.tools.meet.rotation_message import MeetingKey
from frameseal.tools.meet.worker import Worker, WorkerUnavailable, load_worker

if TYPE_CHECKING:
    from frameseal.tools.meet.recorder import MeetingRecorder

__all__ = ["MeetOptions", "Meeting", "WorkerUnavailable", "CannotServe", "meeting", "run"]

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 128  # maximum number of TCP connections that wait for accept()


class CannotServe(Exception):
    """The meeting cannot be served with these options. The message names the reason in one line."""


@dataclass(frozen=True, repr=False)
class MeetOptions(Confidential):
    """The options of a meeting.

    :param port: the TCP port of the page, 0 to 65535. 0 selects a free port.
    :param lan: True serves the local network over HTTPS, False serves this machine alone.
    :param codec: the video codec, "vp8" or "h264".
    :param janus: the URL ``ws://HOST:PORT`` of a Janus that forwards the media. None uses forwarders in this process.
    :param passphrase: the passphrase of the meeting, held `Hidden`. The default is a random one.
    :param record: the archive into which the forwarder's side records the meeting, as for
        `frameseal.archive.ArchiveWriter`. None records nothing.
    :raises TypeError: *port* is not an int.
    :raises ValueError: *port* is out of range.
    """

    port: int = 8470
    lan: bool = False
    codec: str = "vp8"
    janus: str | None = None
    passphrase: str | Hidden[str] = field(default_factory=lambda: secrets.token_urlsafe(16))
    record: str | None = None

    def __post_init__(self) -> None:
        """Check the port, and hide the passphrase."""
        bounded("port", self.port, 0, 65535)
        object.__setattr__(self, "passphrase", hide(self.passphrase))


@dataclass(repr=False)
class Meeting(Confidential):
    """A running meeting."""

    room: Room
    bot: Bot
    origin: str
    """The origin of the page: scheme, host and port."""
    certificate: str | None
    """The SHA-256 fingerprint of the certificate in hex with colons. It is None without `MeetOptions.lan`."""
    recording: str | None = None
    """The id of the recording. None means that nothing is recorded."""

    @property
    def link(self) -> str:
        """The link for participants: the URL of the page, with the current key in the fragment."""
        key = self.bot.key
        return f"{self.origin}/#{urlencode({'key': key.passphrase, 'id': key.key_id})}"


def run(options: MeetOptions, package: Path | None = None) -> int:
    """Serve a meeting until Ctrl-C. With a recording SIGTERM ends it too, and the archive is closed in both cases.

    :param package: the path of the worker's npm package, for machines without a network; None fetches it.
    :raises WorkerUnavailable: the e2ee worker for the browser cannot be read or fetched.
    :raises CannotServe: the port is in use, or there is no local network or no Janus.
    """
    require("options", options, MeetOptions, "MeetOptions")
    worker = load_worker(package)
    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM during a recording
        asyncio.run(_serve(options, worker))
    return 0


async def _serve(options: MeetOptions, worker: Worker) -> None:
    def rotated(key: MeetingKey) -> None:
        print(f"the key id is now {key.key_id}; new participants need the link\n  {served.link}", flush=True)

    async with meeting(options, worker, rotated) as served:
        print(f"the meeting is at\n  {served.link}")
        print("the key follows the #: share the link only with participants. Ctrl-C ends the meeting.")
        if served.certificate is not None:
            print(
                f"browsers will warn of the self-signed certificate; its SHA-256 fingerprint is\n  {served.certificate}"
            )
        if options.lan:
            print("use the link on this machine too: the page works over HTTPS only.")
        if served.recording is not None:
            _end_at_sigterm()
            # An address may hold credentials.
            place = "ADDRESS" if "://" in str(options.record) else str(options.record)
            command = shlex.join(["frameseal", "open", place, "--recording", served.recording, "-o", "opened"])
            print(f"the meeting is recorded, sealed, and the page says so. Open it with\n  {command}")
            print("and type the passphrase, which is key= in the link. Keep the links: nobody else can open it.")
        print(end="", flush=True)
        await asyncio.Event().wait()


def _end_at_sigterm() -> None:
    """Make SIGTERM end the meeting as Ctrl-C does, so that the archive is closed."""
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextlib.asynccontextmanager
async def meeting(
    options: MeetOptions, worker: Worker, rotated: Callable[[MeetingKey], None] = lambda key: None
) -> AsyncIterator[Meeting]:
    """Serve a meeting until the context ends.

    :param worker: the e2ee worker for the browser, from `load_worker`.
    :param rotated: called with the new key after each rotation by a participant.
    :raises CannotServe: the port is in use, or there is no local network or no Janus.
    """
    require("options", options, MeetOptions, "MeetOptions")
    require("worker", worker, Worker, "a Worker")
    require("rotated", rotated, "__call__", "a function")
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.enter_context(_loopback_too())
        here = [str(address) for address in _addresses()]
        others = [address for address in here if address != LOOPBACK]
        if options.lan and not others:
            raise CannotServe("--lan needs a local network, and there is none: omit --lan")
        context, certificate = self_signed(here) if options.lan else (None, None)
        janus: Janus | None = None
        if options.janus is not None:
            janus = Janus(options.janus, options.codec)
            try:
                await janus.open()
            except JanusError as error:
                raise CannotServe(str(error)) from error
            cleanup.push_async_callback(janus.close)

        recorder, recording_id = None, None
        if options.record is not None:
            recorder, recording_id = await _started_recorder(options.record, cleanup)
        room = Room(janus, recorder)
        bot = Bot(room, MeetingKey(hide(options.passphrase).reveal()), options.codec, rotated)
        facts = {
            "codec": options.codec,
            "forwardersView": janus is None,  # this process does not see the packets that Janus forwards
            "recorded": recorder is not None,
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
        host = "0.0.0.0" if options.lan else LOOPBACK  # noqa: S104 - requested with --lan
        limit = ConnectionLimit(MAX_CONNECTIONS_OF_ADDRESS, MAX_CONNECTIONS)
        serve = runner.server
        assert serve is not None  # noqa: S101 - after setup()
        try:
            listening = await asyncio.get_running_loop().create_server(
                lambda: Admission(limit, serve, context), host, options.port, reuse_address=True, backlog=BACKLOG
            )
        except OSError as error:
            raise CannotServe(f"port {options.port}: {error.strerror}. Choose another port with --port") from error
        cleanup.callback(listening.close)
        room.join(bot)
        shown, port = others[0] if options.lan else LOOPBACK, listening.sockets[0].getsockname()[1]
        yield Meeting(room, bot, f"http{'s' if options.lan else ''}://{shown}:{port}", certificate, recording_id)


async def _started_recorder(location: str, cleanup: contextlib.AsyncExitStack) -> tuple[MeetingRecorder, str]:
    """Return a recorder, and the id of its recording. The archive is closed at the end.

    :raises CannotServe: the archive cannot be written.
    """
    # Imported here, since archives are an extra.
    from frameseal.tools.meet.recorder import MeetingRecorder  # noqa: PLC0415
    from frameseal.tools.recording.keyless import CannotRecord, KeylessRecording, fresh_id  # noqa: PLC0415

    recording, recording_id = KeylessRecording(Profile.LIVEKIT), fresh_id("meeting")
    try:
        await recording.start(location, recording_id)
    except CannotRecord as error:
        raise CannotServe(f"--record: {error}") from None

    async def close() -> None:
        incomplete = await recording.close()
        tally = recording.tally
        print(f"recorded {tally.frames:,} frames as {recording_id}", file=sys.stderr)
        if tally.lost:
            print(f"frameseal meet: {tally.lost:,} frames of the recording are lost", file=sys.stderr)
        if incomplete is not None:
            print(f"frameseal meet: the archive is incomplete: {incomplete}", file=sys.stderr)

    cleanup.push_async_callback(close)
    return MeetingRecorder(recording), recording_id


def _addresses() -> Iterator[ipaddress.IPv4Address]:
    for text in aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=False):
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv4Address) and not address.is_link_local:
            yield address


@contextlib.contextmanager
def _loopback_too() -> Iterator[None]:
    """Make ICE gather 127.0.0.1 in addition to the other addresses of the machine.

    aioice omits it, so that nobody could connect without a network. aioice has no setting for this, and is patched
    while the meeting lasts.
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
