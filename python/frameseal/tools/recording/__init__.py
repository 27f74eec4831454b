"""`frameseal record`: records a room of a Janus or LiveKit server into an archive, without a key.

It cannot tell the room that it records, since it has no key: whoever starts it has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console

from frameseal._secrecy import Confidential, Hidden
from frameseal.tools.recording.keyless import CannotRecord, KeylessRecording, fresh_id
from frameseal.tools.recording.screen import Screen, summary

__all__ = ["RecordOptions", "run"]

CLOSED, INCOMPLETE, CANNOT_RUN = 0, 1, 2
MAX_SECRET: Final = 64 * 1024  # bytes of a file with a secret


@dataclass(frozen=True, repr=False)
class RecordOptions(Confidential):
    """The options of `frameseal record`. Either *janus* or *livekit* is the URL of the server."""

    location: str
    """The archive: a folder, or an address such as ``s3://bucket/folder``."""
    janus: str | None = None
    room: int | str | None = None
    """The id of the VideoRoom at Janus."""
    livekit: str | None = None
    pin_file: Path | None = None
    """The file of the room's pin. None uses the environment variable ``FRAMESEAL_PIN``, or no pin."""
    token_file: Path | None = None
    """The file of the token, likewise or ``FRAMESEAL_TOKEN``."""
    api_secret_file: Path | None = None
    """The file of the secret of Janus' API, likewise or ``FRAMESEAL_API_SECRET``."""
    profile: str = "livekit"
    recording: str | None = None
    """The id of the recording. An id that exists is continued. None makes an id of the room and the time."""
    segment_seconds: float = 300.0
    attempts: int = 10
    """Maximum number of consecutive attempts to join again."""


class _Room(Protocol):
    """A room that is recorded."""

    @property
    def participants(self) -> int: ...
    async def join(self) -> None: ...
    async def leave(self) -> None: ...
    async def record(self, recording: KeylessRecording) -> str: ...


def run(options: RecordOptions, console: Console | None = None) -> int:
    """Record a room until Ctrl-C or SIGTERM, or until the room is gone.

    :param console: the console for the display. None uses standard output.
    :return: 0 if it was stopped and the archive is closed, 1 if the room is gone or frames are missing because of the
        disk, 2 if it could not begin.
    """
    try:
        return asyncio.run(_run(options, Screen(console or Console())))
    except CannotRecord as error:
        print(f"frameseal record: {error}", file=sys.stderr)
        return CANNOT_RUN


async def _run(options: RecordOptions, screen: Screen) -> int:
    recording = KeylessRecording(options.profile)
    room, name = _room(options, recording, screen)
    recording_id = options.recording or fresh_id(name)
    async with _stop_signals() as stopped, contextlib.AsyncExitStack() as cleanup:
        try:
            await room.join()
        except ConnectionError as error:  # of Janus or of LiveKit; both quote no secret
            reason = f"{error}"
        else:
            reason = ""
        if reason:
            raise CannotRecord(reason)
        cleanup.push_async_callback(room.leave)
        await recording.start(options.location, recording_id, segment_seconds=options.segment_seconds)
        cleanup.push_async_callback(recording.close)  # in any case; a second call has no effect
        cleanup.enter_context(screen)
        screen.say(f"Recording {recording_id}. Tell the participants: a recorder without a key cannot. Ctrl-C ends it.")
        showing = asyncio.ensure_future(screen.show(lambda: (room.participants, recording.tally)))
        gone = await _until(stopped, asyncio.ensure_future(room.record(recording)))
        participants = room.participants
        showing.cancel()
        screen.say("Closing the archive.")
        incomplete = await recording.close()
        tally = recording.tally
        screen.say(f"{recording_id}, {summary(participants, tally)}")
        problems = [f"The room is gone: {gone}."] if gone is not None else []
        if tally.unsealed:
            screen.say(
                f"{tally.unsealed:,} frames were not sealed with {options.profile}, and are not archived.", "red"
            )
        if tally.lost:
            problems.append(f"{tally.lost:,} frames are lost: the disk was full or too slow. Gaps mark their places.")
        if incomplete is not None:
            problems.append(f"The archive is incomplete: {incomplete}.")
        for problem in problems:
            screen.say(problem, "bold red")
        if incomplete is None:
            screen.say("The archive is closed.")
    return INCOMPLETE if problems else CLOSED


def _room(options: RecordOptions, recording: KeylessRecording, screen: Screen) -> tuple[_Room, str]:
    """Return the room, and a name for its recordings.

    :raises CannotRecord: a secret cannot be read, or the URL is none.
    """
    token = _secret(options.token_file, "FRAMESEAL_TOKEN", "token")
    if options.janus is not None:
        # Imported here: demo and meeting use this package too, and the demo's extra has no aiohttp.
        from frameseal.tools.recording.janus_room import JanusRoom, JanusSecrets  # noqa: PLC0415

        assert options.room is not None  # noqa: S101 - the command line requires it
        secrets = JanusSecrets(
            _secret(options.pin_file, "FRAMESEAL_PIN", "pin"),
            token,
            _secret(options.api_secret_file, "FRAMESEAL_API_SECRET", "API secret"),
        )
        made = JanusRoom(options.janus, options.room, secrets, attempts=options.attempts, say=screen.say)
        return made, f"room-{options.room}"
    # Imported here, since LiveKit's messages are an extra.
    from frameseal.livekit.signalling import checked_url  # noqa: PLC0415
    from frameseal.tools.recording.livekit_room import LiveKitRoom  # noqa: PLC0415

    if token is None:
        raise CannotRecord("a LiveKit room needs a token: pass --token-file, or set FRAMESEAL_TOKEN")
    url = options.livekit or ""
    try:
        checked_url(url)
    except ValueError:
        url = ""
    if not url:
        raise CannotRecord("--livekit must be wss://HOST, without a user name and a query")

    def fresh_token() -> str:  # a longer recording outlives its token, and the file may hold a new one
        held = _secret(options.token_file, "FRAMESEAL_TOKEN", "token")
        return held.reveal() if held is not None else ""

    return LiveKitRoom(url, fresh_token, recording, attempts=options.attempts, say=screen.say), "livekit-room"


def _secret(file: Path | None, variable: str, what: str) -> Hidden[str] | None:
    """Return a secret from its file or from the environment. None means that there is none.

    :raises CannotRecord: the file cannot be read, is empty, or is no text.
    """
    if file is None:
        return Hidden(os.environ[variable]) if os.environ.get(variable) else None
    problem, text = "", ""
    try:
        with file.open("rb") as source:
            text = source.read(MAX_SECRET).decode().strip()
    except OSError as error:
        problem = f"the file of the {what} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = f"the file of the {what} is no UTF-8"
    if not problem and (not text or not text.isprintable()):
        problem = f"the file of the {what} must have one line of text"
    if problem:
        raise CannotRecord(problem)
    return Hidden(text)


async def _until(stopped: asyncio.Event, recorded: asyncio.Future[str]) -> str | None:
    """Wait until somebody stops the recording, or the room is gone. Return why it is gone, or None if it is not."""
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait((stopping, recorded), return_when=asyncio.FIRST_COMPLETED)
        return recorded.result() if recorded.done() and not stopping.done() else None
    finally:
        for task in (stopping, recorded):
            task.cancel()
        await asyncio.gather(stopping, recorded, return_exceptions=True)


@contextlib.asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    """Return an event that Ctrl-C and SIGTERM set. A second one ends the process as usual."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(stopped.set)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    for number in signals:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
