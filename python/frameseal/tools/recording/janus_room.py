"""Records a VideoRoom of a Janus gateway: subscribes to every publisher, and joins again when the connection is lost.

Each publisher has a connection of its own. So no connection is renegotiated when somebody joins or leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver

from frameseal._secrecy import Hidden
from frameseal.tools.closing import close_fully
from frameseal.tools.janus import Handle, JanusError, JanusSession, Message, subscribe
from frameseal.tools.recording.keyless import KeylessRecording, distinct_name

DISPLAY: Final = "frameseal record (sealed, without a key)"  # the name under which the others see the recorder
MAX_FEEDS: Final = 64  # each costs a connection
MAX_NAME: Final = 80  # characters of a display name
FIRST_WAIT, MAX_WAIT = 0.5, 30.0  # seconds before the next attempt; the delay doubles
MAX_DOUBLINGS: Final = 8  # they exceed MAX_WAIT


@dataclass(frozen=True)
class JanusSecrets:
    """The secrets of a Janus gateway and of its room. None means that it has none."""

    pin: Hidden[str] | None = None
    token: Hidden[str] | None = None
    api_secret: Hidden[str] | None = None


@dataclass
class _Feed:
    """A publisher who is present."""

    name: str
    streams: list[Message]
    task: asyncio.Task[None]


class JanusRoom:
    """A VideoRoom that is recorded.

    :param url: the web socket of Janus.
    :param room: the id of the room.
    :param attempts: maximum number of consecutive attempts to join again.
    :param say: shows a line to the user. Names in it are a stranger's choice.
    """

    def __init__(
        self, url: str, room: int | str, secrets: JanusSecrets, *, attempts: int, say: Callable[[str], None]
    ) -> None:
        self._url, self._room, self._secrets = url, room, secrets
        self._attempts, self._say = attempts, say
        self._feeds: dict[int | str, _Feed] = {}
        self._lost: set[str] = set()  # names of participants whose connection was lost
        self._private_id: object = None

    @property
    def participants(self) -> int:
        """The number of publishers who are present."""
        return len(self._feeds)

    async def join(self) -> None:
        """Join the room.

        :raises JanusError: Janus cannot be reached, or does not admit this side.
        """
        self._session = JanusSession(self._url, token=self._secrets.token, api_secret=self._secrets.api_secret)
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        await self._session.open()
        try:
            handle: Handle = await self._session.attach(self._events.put_nowait)
            body = {"request": "join", "ptype": "publisher", "room": self._room, "display": DISPLAY, **self._access()}
            answer = await handle.ask(body)
            joined = answer["plugindata"]["data"]
            self._private_id = joined.get("private_id")
            self._events.put_nowait(joined)
        except BaseException as error:
            await self._session.close()
            if isinstance(error, LookupError | TypeError | AttributeError):
                raise JanusError("the answer of Janus to the join is none") from error
            raise

    def _access(self) -> dict[str, str]:
        held = {"pin": self._secrets.pin, "token": self._secrets.token}
        return {name: secret.reveal() for name, secret in held.items() if secret is not None}

    async def leave(self) -> None:
        """Close all connections, and leave the room."""
        await self._end_feeds()
        await self._session.close()

    async def record(self, recording: KeylessRecording) -> str:
        """Record the room, which was joined, until it is gone. Return the reason."""
        failures = 0
        while True:
            async for event in self._events_until_lost():
                failures = 0
                reason = await self._handle(event, recording)
                if reason is not None:
                    return reason
            self._lost.update(feed.name for feed in self._feeds.values())
            await self.leave()
            self._say("The connection to Janus is lost, joining again.")
            problem: Exception | None = None
            while True:
                failures += 1
                if failures > self._attempts:
                    return f"the connection to Janus was lost, and the room cannot be joined again: {problem}"
                await asyncio.sleep(_wait_after(failures - 1))
                try:
                    await self.join()
                    break
                except JanusError as error:
                    problem = error

    async def _events_until_lost(self) -> AsyncIterator[Message]:
        lost = asyncio.ensure_future(self._session.lost.wait())
        try:
            while True:
                event = asyncio.ensure_future(self._events.get())
                try:
                    await asyncio.wait((event, lost), return_when=asyncio.FIRST_COMPLETED)
                    if not event.done():
                        return
                    yield event.result()
                finally:
                    event.cancel()
        finally:
            lost.cancel()

    async def _handle(self, event: Message, recording: KeylessRecording) -> str | None:
        """Follow an event of the room. Return why the room is gone, or None if it is there."""
        if event.get("videoroom") == "destroyed":
            return "the room was destroyed"
        if event.get("leaving") == "ok":
            return f"Janus has removed the recorder from the room: {event.get('reason', 'no reason')}"
        publishers = event.get("publishers")
        for publisher in publishers if isinstance(publishers, list) else []:
            if isinstance(publisher, dict) and isinstance(publisher.get("id"), int | str):
                await self._published(publisher, recording)
        for member in ("unpublished", "leaving"):
            gone = event.get(member)
            if isinstance(gone, int | str) and gone in self._feeds:
                self._say(f"{self._feeds[gone].name} has left.")
                recording.e2ee.remove_participant(self._feeds[gone].name)
                await self._end_feeds(gone)
        return None

    async def _published(self, publisher: Message, recording: KeylessRecording) -> None:
        number = publisher["id"]
        display = publisher.get("display")
        known = self._feeds.get(number)
        if known is None and len(self._feeds) >= MAX_FEEDS:
            self._say(f"A publisher is not recorded: at most {MAX_FEEDS} are.")
            return
        taken = {feed.name for feed in self._feeds.values()}
        shown = _cleaned(display)[:MAX_NAME] if isinstance(display, str) else ""
        name = known.name if known else distinct_name(shown, _cleaned(str(number))[:MAX_NAME], taken)
        streams, refused = _streams(number, publisher.get("streams"))
        for codec in refused:
            self._say(f"A track of {name} is not recorded: aiortc does not receive {codec}.")
        if not streams or (known is not None and known.streams == streams):
            return
        if known is not None:  # the publisher has other streams now
            await self._end_feeds(number)
            recording.interrupted(name)
        else:
            self._say(f"{name} is recorded.")
        if name in self._lost:
            self._lost.discard(name)
            recording.interrupted(name)
        task = asyncio.create_task(self._follow(name, streams, recording))
        self._feeds[number] = _Feed(name, streams, task)

    async def _follow(self, name: str, streams: list[Message], recording: KeylessRecording) -> None:
        """Receive the streams of a publisher until the task is cancelled, over one connection after the other."""
        failures = 0
        while not self._session.lost.is_set():
            try:
                await self._receive(name, streams, recording)
                failures = 0
            except Exception as error:  # SDP from outside may raise any exception, and concerns one publisher only
                if not failures:
                    reason = str(error) if isinstance(error, JanusError) else type(error).__name__
                    self._say(f"{name} cannot be received now, and is tried again: {reason}")
                failures += 1
            recording.interrupted(name)
            await asyncio.sleep(_wait_after(failures))

    async def _receive(self, name: str, streams: list[Message], recording: KeylessRecording) -> None:
        """Receive the streams of a publisher until the connection ends."""
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        recording.attach(pc, name)
        handle: Handle | None = None
        try:
            handle = await self._session.attach()
            more: dict[str, Any] = {"autoupdate": False, **self._access()}
            if self._private_id is not None:
                more["private_id"] = self._private_id
            pc.on("connectionstatechange", lambda: _note_end(pc, handle))
            await subscribe(handle, pc, self._room, streams, **more)
            await handle.down.wait()
        finally:
            try:
                await close_fully(pc.close())
            finally:
                if handle is not None:
                    await handle.detach()

    async def _end_feeds(self, *numbers: int | str) -> None:
        """Stop receiving publishers, all of them without *numbers*."""
        ended = [self._feeds.pop(number).task for number in numbers or list(self._feeds)]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


def _wait_after(failures: int) -> float:
    """Return the seconds to wait after a number of consecutive failures."""
    return min(FIRST_WAIT * 2.0 ** min(failures, MAX_DOUBLINGS), MAX_WAIT)


def _note_end(pc: RTCPeerConnection, handle: Handle | None) -> None:
    if handle is not None and pc.connectionState in ("failed", "closed"):
        handle.down.set()


def _streams(feed: int | str, offered: object) -> tuple[list[Message], list[str]]:
    """Return the streams of a publisher to subscribe to, and the codecs of the others.

    An offer that has a line of unknown codecs only would fail as a whole.
    """
    wanted: list[Message] = []
    refused: list[str] = []
    for stream in offered if isinstance(offered, list) else []:
        kind, mid, codec = (stream.get(name) if isinstance(stream, dict) else None for name in ("type", "mid", "codec"))
        if kind not in ("audio", "video") or not isinstance(mid, str) or stream.get("disabled"):
            continue
        capabilities = RTCRtpReceiver.getCapabilities(kind)
        known = {each.mimeType.lower() for each in capabilities.codecs} if capabilities is not None else set()
        if isinstance(codec, str) and f"{kind}/{codec}".lower() not in known:
            refused.append(_cleaned(codec)[:MAX_NAME])
        else:
            wanted.append({"feed": feed, "mid": mid})
    return wanted, refused


def _cleaned(text: str) -> str:
    """Return a name of a stranger's choice without control characters and lone surrogates."""
    return "".join(sign for sign in text if sign.isprintable()).strip()
