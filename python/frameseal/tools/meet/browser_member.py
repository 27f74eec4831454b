"""The server side of a browser in the room: one web socket, and the connections that it controls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any, Final

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from frameseal._json import parse_json
from frameseal.tools.meet.limits import JOIN_TIMEOUT, MESSAGES, RECONNECTIONS
from frameseal.tools.meet.remote import RemotePeer
from frameseal.tools.meet.room import Message, Room, RoomFull
from frameseal.tools.sfu import PeerConnection

ANSWER_TIMEOUT: Final = 30.0  # seconds for an offer or an answer; the browser requests the camera before it joins
MAX_NAME_LENGTH: Final = 40
MAX_ERROR_LENGTH: Final = 200  # characters of an error message from a browser
MAX_ROTATION_LENGTH: Final = 1024  # characters of base64; the page sends some 110
MAX_SECTIONS: Final = 2  # media sections of an SDP: audio and video. Each section costs a receiver and its thread
MAX_CANDIDATES: Final = 64  # ICE candidates of an SDP. This process sends to the address of each
# Limits of the queue to a slow browser. A browser that exceeds them is disconnected.
MAX_PENDING_MESSAGES: Final = 1000
MAX_QUEUED: Final = 4 * 1024 * 1024  # characters in the queue
_KINDS: Final = ("audio", "video")


class ProtocolViolation(Exception):
    """A client violates the protocol or a limit. The message becomes the reason of the close frame."""

    def __init__(self, reason: str, code: int = WSCloseCode.POLICY_VIOLATION) -> None:
        """Close with *reason* and the status *code* (RFC 6455, section 7.4.1)."""
        super().__init__(reason)
        self.code = code


class BrowserMember:
    """The `Member` of the room behind a web socket."""

    def __init__(
        self, socket: web.WebSocketResponse, room: Room, member_id: str, address: str, abort: Callable[[], None]
    ) -> None:
        """Serve the client at *address* through *socket*. *abort* closes its TCP connection at once."""
        self.id = member_id
        self.name = ""
        self.tracks: list[str] = []
        self.address = address
        self.joined = False  # stays True after the member has left
        self.watching = False
        self._socket, self._room, self._abort = socket, room, abort
        self._peers: dict[str, RemotePeer] = {}
        self._calls: dict[int, asyncio.Future[str]] = {}
        self._numbers = count(1)
        self._messages = MESSAGES.bucket()
        self._reconnections = RECONNECTIONS.bucket()
        self._outgoing: asyncio.Queue[str] = asyncio.Queue(MAX_PENDING_MESSAGES)
        self._queued = 0  # characters in the queue

    def connection(self, peer: str) -> PeerConnection:
        """Return the proxy of a new connection in the browser. The number of its first call identifies it."""

        async def call(method: str, sdp: str | None) -> str:
            number = next(self._numbers)
            if remote.number is None:
                remote.number = number
            return await self._ask({"type": "call", "peer": peer, "method": method, "sdp": sdp, "call": number})

        remote = self._peers[peer] = RemotePeer(call)
        return remote

    def hang_up(self, peer: str) -> None:
        """Tell the browser to close the connection to *peer*."""
        if self._peers.pop(peer, None) is not None:
            self.notify({"type": "hang-up", "peer": peer})

    def notify(self, message: Message) -> None:
        """Queue a message. Disconnect the browser if the queue exceeds its limits."""
        text = json.dumps(message)
        if self._queued + len(text) > MAX_QUEUED or self._outgoing.full():
            self._abort()
            return
        self._queued += len(text)
        self._outgoing.put_nowait(text)

    async def serve(self) -> None:
        """Serve the browser until it disconnects, and close the socket."""
        sending = asyncio.create_task(self._send())
        code, reason = int(WSCloseCode.OK), ""
        try:
            async with asyncio.timeout(JOIN_TIMEOUT) as deadline:
                async for frame in self._socket:
                    await self._handle(_parsed(frame))
                    if self.joined:
                        deadline.reschedule(None)
                    await asyncio.sleep(self._messages.borrow(monotonic()))  # delays a client that sends too often
        except ProtocolViolation as error:
            code, reason = error.code, str(error)
        except TimeoutError:
            code, reason = WSCloseCode.POLICY_VIOLATION, f"a page must join within {JOIN_TIMEOUT:.0f} s: join again"
        finally:
            sending.cancel()
            for waiting in self._calls.values():
                waiting.cancel()
            await self._room.leave(self.id)
        await self._socket.close(code=code, message=reason.encode())

    async def _handle(self, message: dict[str, Any]) -> None:
        """Process a message.

        :raises ProtocolViolation: the message is not valid in this state.
        """
        kind = message.get("type")
        if kind == "join" and not self.name:
            await self._join(message)
        elif not self.joined:
            raise ProtocolViolation("the first message must have the type 'join'")
        elif kind == "reply":
            self._reply(message)
        elif kind == "connection":
            self._connection_is(_text(message, "peer"), _number(message, "call"), _text(message, "state"))
        elif kind == "keyframe":
            await self._room.request_keyframe(_text(message, "participant"))
        elif kind == "rotate":
            self._rotate(_text(message, "sealed"))
        elif kind == "watch":
            self.watching = message.get("on") is True
        else:
            raise ProtocolViolation("'type' must be reply, connection, keyframe, rotate or watch")

    async def _join(self, message: dict[str, Any]) -> None:
        name, tracks = _text(message, "name"), message.get("tracks")
        if not isinstance(tracks, list):
            raise ProtocolViolation("'tracks' must be a list of 'audio' and 'video'")
        self.name = cleaned(name)[:MAX_NAME_LENGTH] or "Guest"
        self.tracks = [kind for kind in _KINDS if kind in tracks]
        problem = None
        if not self._room.limits.joins.allows(self.address):
            problem = "Too many participants have joined from your address: wait a minute, and join again."
        else:
            try:
                self._room.join(self)
            except RoomFull:
                problem = "The room is full: wait until somebody leaves, and join again."
        if problem is not None:
            await self._socket.send_json({"type": "problem", "message": problem})
            raise ProtocolViolation(problem, WSCloseCode.TRY_AGAIN_LATER)
        self.joined = True

    def _reply(self, message: dict[str, Any]) -> None:
        waiting = self._calls.get(_number(message, "call"))
        if waiting is None or waiting.done():
            return
        if "error" in message:
            said = cleaned(_text(message, "error"))[:MAX_ERROR_LENGTH]
            waiting.set_exception(ConnectionError(f"the browser reports: {said}"))
            return
        sdp = _text(message, "sdp")
        for what, most in (("m", MAX_SECTIONS), ("a=candidate", MAX_CANDIDATES)):
            if len(re.findall(rf"(?m)^{what}\b", sdp)) > most:
                waiting.set_exception(ConnectionError(f"the browser's SDP has more than {most} lines of {what}"))
                return
        waiting.set_result(sdp)

    def _connection_is(self, peer: str, number: int, state: str) -> None:
        remote = self._peers.get(peer)
        if remote is None or remote.number != number:  # of a connection that was replaced
            return
        worked = remote.connectionState in ("connected", "disconnected")
        remote.report(state)
        if worked and remote.connectionState == "failed" and self._reconnections.spend(monotonic()):
            self._room.reconnect(self, peer)

    def _rotate(self, sealed: str) -> None:
        if len(sealed) > MAX_ROTATION_LENGTH:
            raise ProtocolViolation(f"'sealed' must have at most {MAX_ROTATION_LENGTH} characters")
        if self._room.limits.rotations.allows(self.address):
            self._room.broadcast({"type": "rotate", "from": self.id, "sealed": sealed})
        else:
            self.notify({"type": "problem", "message": "Too many rotations: wait some seconds, and rotate again."})

    async def _ask(self, message: Message) -> str:
        number = message["call"]
        waiting = self._calls[number] = asyncio.get_running_loop().create_future()
        self.notify(message)
        try:
            return await asyncio.wait_for(waiting, ANSWER_TIMEOUT)
        finally:
            del self._calls[number]

    async def _send(self) -> None:
        while True:
            text = await self._outgoing.get()
            self._queued -= len(text)
            try:
                await self._socket.send_str(text)
            except ConnectionError:
                return  # serve() notices the loss too


def cleaned(text: str) -> str:
    """Return *text* as one line of printable characters, since it is shown, drawn and logged."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _parsed(frame: WSMessage) -> dict[str, Any]:
    """Return the message in a web socket frame.

    :raises ProtocolViolation: the frame is not text, or not one JSON object.
    """
    if frame.type is not WSMsgType.TEXT:
        raise ProtocolViolation("each message must be text: one JSON object", WSCloseCode.UNSUPPORTED_DATA)
    try:
        message = parse_json(frame.data)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ProtocolViolation("each message must be one JSON object", WSCloseCode.INVALID_TEXT)
    return message


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise ProtocolViolation(f"{name!r} must be a string")
    return value


def _number(message: dict[str, Any], name: str) -> int:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProtocolViolation(f"{name!r} must be the number of a call")
    return value
