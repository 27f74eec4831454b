"""A browser in the room, as the server has it: one web socket, and the connections that are driven through it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from aiohttp import WSMsgType, web

from frameseal.forwarder import PeerConnection
from frameseal.meet.remote import RemotePeer
from frameseal.meet.room import Message, Room, RoomFull

ANSWER_TIMEOUT: Final = 30.0  # seconds that a browser has for an offer or an answer; it asks for a camera before
ROTATION_INTERVAL: Final = 1.0  # seconds; each costs everybody two derivations of a key, whoever sent it
LONGEST_NAME: Final = 40
MOST_MESSAGES: Final = 1000  # that wait for a slow browser; beyond that it is let go
_KINDS: Final = ("audio", "video")


class Guest:
    """The room's `Member` behind a web socket."""

    def __init__(self, socket: web.WebSocketResponse, room: Room, member_id: str, abort: Callable[[], None]) -> None:
        """Speak through *socket*; *abort* cuts it off."""
        self.id = member_id
        self.name = ""
        self.tracks: list[str] = []
        self.watching = False
        self._socket, self._room, self._abort = socket, room, abort
        self._peers: dict[str, RemotePeer] = {}
        self._calls: dict[int, asyncio.Future[str]] = {}
        self._numbers = count(1)
        self._rotated = float("-inf")
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue(MOST_MESSAGES)

    def connection(self, peer: str) -> PeerConnection:
        """Make a connection that lives in the browser."""

        async def call(method: str, sdp: str | None) -> str:
            return await self._ask({"type": "call", "peer": peer, "method": method, "sdp": sdp})

        remote = self._peers[peer] = RemotePeer(call)
        return remote

    def hang_up(self, peer: str) -> None:
        """Have the browser close a connection."""
        if self._peers.pop(peer, None) is not None:
            self.notify({"type": "hang-up", "peer": peer})

    def notify(self, message: Message) -> None:
        """Send a message, after those before it."""
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self._abort()

    async def attend(self) -> None:
        """Serve the browser until it goes."""
        sending = asyncio.create_task(self._send())
        try:
            async for frame in self._socket:
                if frame.type is not WSMsgType.TEXT:
                    break
                message = json.loads(frame.data)
                if not isinstance(message, dict) or not await self._take(message):
                    break
        except (ValueError, KeyError, TypeError):
            pass  # not our page: hung up on, below
        finally:
            sending.cancel()
            for waiting in self._calls.values():
                waiting.cancel()
            await self._room.leave(self.id)

    async def _take(self, message: dict[str, Any]) -> bool:
        """Act on a message. False if this is not our page."""
        match message["type"]:
            case "join" if not self.name:
                self.name = " ".join(str(message["name"]).split())[:LONGEST_NAME] or "Guest"
                self.tracks = [kind for kind in _KINDS if kind in message["tracks"]]
                try:
                    self._room.join(self)
                except RoomFull:
                    self.notify({"type": "problem", "message": "The room is full: wait until somebody leaves."})
            case "reply":
                waiting = self._calls.get(message["call"])
                if waiting is not None and not waiting.done():
                    if "error" in message:
                        waiting.set_exception(ConnectionError(f"the browser says: {str(message['error'])[:200]}"))
                    else:
                        waiting.set_result(str(message["sdp"]))
            case "connection":
                self._connection_is(message["peer"], message["state"])
            case "keyframe" if self.id in self._room.members:
                await self._room.request_keyframe(str(message["participant"]))
            case "rotate" if self.id in self._room.members:
                self._rotate(str(message["sealed"]))
            case "watch":
                self.watching = bool(message["on"])
            case _:
                return False
        return True

    def _connection_is(self, peer: str, state: object) -> None:
        remote = self._peers.get(peer)
        if remote is None:
            return
        worked = remote.connectionState in ("connected", "disconnected")
        remote.report(state)
        if worked and remote.connectionState == "failed":
            self._room.reconnect(self, peer)

    def _rotate(self, sealed: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._rotated > ROTATION_INTERVAL:
            self._rotated = now
            self._room.broadcast({"type": "rotate", "from": self.id, "sealed": sealed})

    async def _ask(self, message: Message) -> str:
        number = next(self._numbers)
        waiting = self._calls[number] = asyncio.get_running_loop().create_future()
        self.notify(message | {"call": number})
        try:
            return await asyncio.wait_for(waiting, ANSWER_TIMEOUT)
        finally:
            del self._calls[number]

    async def _send(self) -> None:
        while True:
            message = await self._outgoing.get()
            try:
                await self._socket.send_str(json.dumps(message))
            except ConnectionError:
                return  # attend() notices too
