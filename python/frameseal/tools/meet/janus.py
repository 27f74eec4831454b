"""Forwards a meeting through a Janus gateway: its VideoRoom plugin, with `require_e2ee`.

This module uses the JSON API of Janus over web sockets. A room with `require_e2ee` admits only clients that declare
their media encrypted (``"e2ee": true`` beside each SDP). Janus forwards sealed frames. No key ever reaches this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from typing import Any, Final

import aiohttp
from aiortc import RTCSessionDescription

from frameseal.tools.sfu import PeerConnection

ANSWER_TIMEOUT: Final = 15.0  # seconds for Janus to answer
CONNECT_TIMEOUT: Final = 20.0  # seconds for ICE and DTLS, as in `frameseal.tools.sfu`
KEEPALIVE_INTERVAL: Final = 20.0  # seconds; Janus drops a session after 60 s without a message
MAX_PUBLISHERS: Final = 16

Message = dict[str, Any]


class JanusError(ConnectionError):
    """Janus cannot be reached, or returned an error. The message contains the reason that Janus reports."""


class Handle:
    """A plugin handle at Janus: the connection of one publisher or subscriber."""

    def __init__(self, janus: Janus, number: int) -> None:
        """Hold the handle with the id *number*. `Janus.attach` makes handles."""
        self._janus, self.number = janus, number
        self.up = asyncio.Event()  # set when ICE and DTLS have connected
        self.down = asyncio.Event()

    async def ask(self, body: Message, jsep: Message | None = None) -> Message:
        """Send a message to the plugin, and return the response of Janus.

        :raises JanusError: Janus returned an error, or no response.
        """
        message: Message = {"janus": "message", "handle_id": self.number, "body": body}
        if jsep is not None:
            message["jsep"] = jsep
        return await self._janus.ask(message)

    async def connected(self) -> None:
        """Wait until ICE and DTLS have connected.

        :raises TimeoutError: they did not connect in time.
        :raises JanusError: Janus closed the connection.
        """
        await self._janus.ask({"janus": "trickle", "handle_id": self.number, "candidate": {"completed": True}})
        waits = [asyncio.ensure_future(event.wait()) for event in (self.up, self.down)]
        try:
            done, _ = await asyncio.wait(waits, timeout=CONNECT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            raise TimeoutError
        if not self.up.is_set():
            raise JanusError("Janus closed the connection")

    async def detach(self) -> None:
        """Close the connection and detach the handle."""
        with contextlib.suppress(JanusError):
            await self._janus.detach(self)


class Janus:
    """A session at a Janus gateway, and a VideoRoom that exists as long as the session."""

    def __init__(self, url: str, codec: str) -> None:
        """Prepare a session; `open` connects.

        :param url: the web socket of Janus, ``ws://HOST:PORT``.
        :param codec: the video codec of the room, such as "vp8".
        """
        self._url, self._codec = url, codec
        self._session = 0
        self._handles: dict[int, Handle] = {}
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._slow: set[str] = set()  # transactions to which Janus first sends an "ack"
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self.room = secrets.randbelow(2**31) + 1

    async def open(self) -> None:
        """Connect, and create the session and the room.

        :raises JanusError: Janus cannot be reached, or does not create the room.
        """
        self._http = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                self._socket = await self._http.ws_connect(self._url, protocols=["janus-protocol"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            await self._http.close()
            reached = False  # the error quotes the URL, which may hold a password: ours is raised below
        else:
            reached = True
        if not reached:
            raise JanusError("there is no Janus at this URL: check that its web sockets transport is enabled")
        self._tasks.append(asyncio.create_task(self._read()))
        try:
            self._session = (await self.ask({"janus": "create"}))["data"]["id"]
            self._tasks.append(asyncio.create_task(self._keep_alive()))
            self._control = await self.attach()
            await self._control.ask(
                {
                    "request": "create",
                    "room": self.room,
                    "publishers": MAX_PUBLISHERS,
                    "require_e2ee": True,
                    "audiocodec": "opus",
                    "videocodec": self._codec,
                    "bitrate": 1_000_000,
                }
            )
        except (JanusError, TimeoutError) as error:
            await self.close()
            raise JanusError(f"Janus did not create a room: {error}") from error

    async def close(self) -> None:
        """Destroy the room and the session, and disconnect."""
        with contextlib.suppress(JanusError, TimeoutError):
            if self._handles:
                await self._control.ask({"request": "destroy", "room": self.room})
            await self.ask({"janus": "destroy"})
        for task in self._tasks:
            task.cancel()
        await self._socket.close()
        await self._http.close()

    async def attach(self) -> Handle:
        """Make a handle of the VideoRoom plugin.

        :raises JanusError: Janus returned an error, or no response.
        """
        answer = await self.ask({"janus": "attach", "plugin": "janus.plugin.videoroom"})
        handle = Handle(self, answer["data"]["id"])
        self._handles[handle.number] = handle
        return handle

    async def detach(self, handle: Handle) -> None:
        """Detach a handle. Do nothing for a detached one.

        :raises JanusError: Janus returned an error, or no response.
        """
        if self._handles.pop(handle.number, None) is not None:
            await self.ask({"janus": "detach", "handle_id": handle.number})

    async def ask(self, message: Message) -> Message:
        """Send a message, and return its response.

        :raises JanusError: the response is an error, or does not arrive in time.
        """
        transaction = str(next(self._numbers))
        answer: asyncio.Future[Message]
        answer = self._answers[transaction] = asyncio.get_running_loop().create_future()
        if message["janus"] == "message":
            self._slow.add(transaction)
        session = {"session_id": self._session} if self._session else {}
        try:
            await self._socket.send_json({**message, **session, "transaction": transaction})
            return await asyncio.wait_for(answer, ANSWER_TIMEOUT)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise JanusError(f"Janus did not respond within {ANSWER_TIMEOUT:g} s") from error
        finally:
            del self._answers[transaction]
            self._slow.discard(transaction)

    async def _read(self) -> None:
        async for frame in self._socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                break
            self._handle(frame.json())
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(JanusError("the connection to Janus is lost"))
        for handle in self._handles.values():
            handle.down.set()

    def _handle(self, message: Message) -> None:
        kind, handle = message.get("janus"), self._handles.get(message.get("sender", 0))
        if handle is not None and kind == "webrtcup":
            handle.up.set()
        elif handle is not None and kind in ("hangup", "detached"):
            handle.down.set()
        transaction = message.get("transaction", "")
        answer = self._answers.get(transaction)
        if answer is None or answer.done() or (kind == "ack" and transaction in self._slow):
            return
        said = message.get("plugindata", {}).get("data", {})
        error = message["error"].get("reason") if kind == "error" else said.get("error")
        if error is not None:
            answer.set_exception(JanusError(f"Janus reports: {error}"))
        else:
            answer.set_result(message)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEPALIVE_INTERVAL)
            with contextlib.suppress(JanusError):
                await self.ask({"janus": "keepalive"})


class JanusStream:
    """The media of one publisher at Janus, with the methods of `frameseal.tools.sfu.Forwarder`."""

    def __init__(self, janus: Janus) -> None:
        """Forward through *janus*."""
        self._janus = janus
        self._publisher: Handle | None = None
        self._feed = 0
        self._subscribers: dict[str, Handle] = {}

    async def connect_publisher(self, pc: PeerConnection) -> None:
        """Negotiate with the publisher, which already has its tracks, and return when packets can flow."""
        self._publisher = handle = await self._janus.attach()
        await pc.setLocalDescription(await pc.createOffer())
        offer = {"type": "offer", "sdp": pc.localDescription.sdp, "e2ee": True}
        body = {"request": "joinandconfigure", "ptype": "publisher", "room": self._janus.room}
        answer = await handle.ask(body, offer)
        self._feed = answer["plugindata"]["data"]["id"]
        await pc.setRemoteDescription(RTCSessionDescription(sdp=answer["jsep"]["sdp"], type="answer"))
        await handle.connected()

    async def connect_subscriber(self, pc: PeerConnection, name: str) -> None:
        """Negotiate with a subscriber, and return when packets can flow."""
        handle = self._subscribers[name] = await self._janus.attach()
        streams = [{"feed": self._feed}]
        body = {"request": "join", "ptype": "subscriber", "room": self._janus.room, "streams": streams}
        offer = (await handle.ask(body))["jsep"]
        await pc.setRemoteDescription(RTCSessionDescription(sdp=offer["sdp"], type="offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        answer = {"type": "answer", "sdp": pc.localDescription.sdp, "e2ee": True}
        await handle.ask({"request": "start"}, answer)
        await handle.connected()

    async def disconnect_subscriber(self, name: str) -> None:
        """Close the connection of a subscriber."""
        handle = self._subscribers.pop(name, None)
        if handle is not None:
            await handle.detach()

    async def request_keyframe(self) -> None:
        """Make Janus request a keyframe from the publisher."""
        if self._publisher is not None:
            with contextlib.suppress(JanusError):
                await self._publisher.ask({"request": "configure", "keyframe": True})

    async def close(self) -> None:
        """Close all connections."""
        handles = [*self._subscribers.values(), *([self._publisher] if self._publisher is not None else [])]
        self._subscribers.clear()
        await asyncio.gather(*(handle.detach() for handle in handles))
