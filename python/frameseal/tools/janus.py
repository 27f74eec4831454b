"""A session at a Janus gateway over its web sockets, and handles of its VideoRoom plugin. No key ever reaches it.

The source is the documentation of Janus: its JSON API, and the VideoRoom plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from aiortc import RTCSessionDescription

from frameseal._json import parse_json
from frameseal._secrecy import Confidential, Hidden
from frameseal.tools.sfu import PeerConnection

ANSWER_TIMEOUT: Final = 15.0  # seconds for Janus to answer
CONNECT_TIMEOUT: Final = 20.0  # seconds for ICE and DTLS, as in `frameseal.tools.sfu`
KEEPALIVE_INTERVAL: Final = 20.0  # seconds; Janus drops a session after 60 s without a message

Message = dict[str, Any]


class JanusError(ConnectionError):
    """Janus cannot be reached, or returned an error. The message contains the reason that Janus reports."""


class Handle:
    """A plugin handle at Janus: the connection of one publisher or subscriber."""

    def __init__(self, janus: JanusSession, number: int, on_event: Callable[[Message], None] | None = None) -> None:
        """Hold the handle with the id *number*. `JanusSession.attach` makes handles."""
        self._janus, self.number, self.on_event = janus, number, on_event
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


class JanusSession(Confidential):
    """A session at a Janus gateway.

    :param url: the web socket of Janus, ``ws://HOST:PORT``.
    :param token: the token that Janus or the room requires. None sends no token.
    :param api_secret: the secret of the API. None sends none.
    """

    def __init__(self, url: str, *, token: Hidden[str] | None = None, api_secret: Hidden[str] | None = None) -> None:
        """Prepare a session; `open` connects."""
        self._url = url
        self._secrets = {name: held for name, held in (("token", token), ("apisecret", api_secret)) if held is not None}
        self._session = 0
        self._handles: dict[int, Handle] = {}
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._slow: set[str] = set()  # transactions to which Janus first sends an "ack"
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self.lost = asyncio.Event()  # set when the connection has ended

    async def open(self) -> None:
        """Connect, and create the session.

        :raises JanusError: Janus cannot be reached, or does not create the session.
        """
        self._http = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                self._socket = await self._http.ws_connect(
                    self._url, protocols=["janus-protocol"], heartbeat=KEEPALIVE_INTERVAL
                )
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
        except (JanusError, LookupError, TypeError) as error:
            await self.close()
            reason = error if isinstance(error, JanusError) else "its answer has no session"
            raise JanusError(f"Janus did not create a session: {reason}") from error
        self._tasks.append(asyncio.create_task(self._keep_alive()))

    async def close(self) -> None:
        """Destroy the session, and disconnect."""
        if self._session and not self.lost.is_set():
            with contextlib.suppress(JanusError):
                await self.ask({"janus": "destroy"})
        for task in self._tasks:
            task.cancel()
        await self._socket.close()
        await self._http.close()

    async def attach(self, on_event: Callable[[Message], None] | None = None) -> Handle:
        """Make a handle of the VideoRoom plugin.

        :param on_event: called with each event of the plugin that answers no message. None ignores the events.
        :raises JanusError: Janus returned an error, or no response.
        """
        answer = await self.ask({"janus": "attach", "plugin": "janus.plugin.videoroom"})
        handle = Handle(self, answer["data"]["id"], on_event)
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
        if self.lost.is_set():
            raise JanusError("the connection to Janus is lost")
        transaction = str(next(self._numbers))
        answer: asyncio.Future[Message]
        answer = self._answers[transaction] = asyncio.get_running_loop().create_future()
        if message["janus"] == "message":
            self._slow.add(transaction)
        session = {"session_id": self._session} if self._session else {}
        secrets = {name: held.reveal() for name, held in self._secrets.items()}
        try:
            await self._socket.send_json({**message, **session, **secrets, "transaction": transaction})
            return await asyncio.wait_for(answer, ANSWER_TIMEOUT)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise JanusError(f"Janus did not respond within {ANSWER_TIMEOUT:g} s") from error
        finally:
            del self._answers[transaction]
            self._slow.discard(transaction)

    async def _read(self) -> None:
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError
        ):  # a message that is none of Janus'
            async for frame in self._socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    break
                message = parse_json(frame.data)
                if message.get("janus") == "timeout":  # Janus has closed the session
                    break
                self._handle(message)
        self.lost.set()
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
        said = message.get("plugindata", {}).get("data", {})
        if not isinstance(said, dict):
            raise TypeError("the data of a plugin must be an object")
        answer = self._answers.get(transaction)
        if answer is None and handle is not None and handle.on_event is not None and kind == "event":
            handle.on_event(said)
        if answer is None or answer.done() or (kind == "ack" and transaction in self._slow):
            return
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


async def subscribe(handle: Handle, pc: PeerConnection, room: int | str, streams: list[Message], **more: Any) -> None:
    """Receive streams of a room over a connection, and return when packets can flow.

    :param streams: the feeds of publishers, such as ``{"feed": 1}`` or ``{"feed": 1, "mid": "0"}``.
    :param more: further members of the request, such as ``pin``.
    :raises JanusError: Janus returned an error, or no response.
    :raises TimeoutError: ICE and DTLS did not connect in time.
    """
    body = {"request": "join", "ptype": "subscriber", "room": room, "streams": streams, **more}
    offer = (await handle.ask(body)).get("jsep")
    if not isinstance(offer, dict) or not isinstance(offer.get("sdp"), str):
        raise JanusError("Janus offers no media")
    await pc.setRemoteDescription(RTCSessionDescription(sdp=offer["sdp"], type="offer"))
    await pc.setLocalDescription(await pc.createAnswer())
    answer = {"type": "answer", "sdp": pc.localDescription.sdp, "e2ee": True}
    await handle.ask({"request": "start"}, answer)
    await handle.connected()
