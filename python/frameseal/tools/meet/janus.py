"""Forwards a meeting through a Janus gateway: its VideoRoom plugin, with `require_e2ee`.

A room with `require_e2ee` admits only clients that declare their media encrypted (``"e2ee": true`` beside each SDP).
Janus forwards sealed frames. No key ever reaches this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Final

from aiortc import RTCSessionDescription

from frameseal.tools.janus import Handle, JanusError, JanusSession, subscribe
from frameseal.tools.sfu import PeerConnection

MAX_PUBLISHERS: Final = 16


class Janus(JanusSession):
    """A session at a Janus gateway, and a VideoRoom that exists as long as the session."""

    def __init__(self, url: str, codec: str) -> None:
        """Prepare a session; `open` connects.

        :param url: the web socket of Janus, ``ws://HOST:PORT``.
        :param codec: the video codec of the room, such as "vp8".
        """
        super().__init__(url)
        self._codec = codec
        self._control: Handle | None = None
        self.room = secrets.randbelow(2**31) + 1

    async def open(self) -> None:
        """Connect, and create the session and the room.

        :raises JanusError: Janus cannot be reached, or does not create the room.
        """
        await super().open()
        try:
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
        except JanusError as error:
            await self.close()
            raise JanusError(f"Janus did not create a room: {error}") from error

    async def close(self) -> None:
        """Destroy the room and the session, and disconnect."""
        with contextlib.suppress(JanusError):
            if self._control is not None:
                await self._control.ask({"request": "destroy", "room": self.room})
        await super().close()


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
        await subscribe(handle, pc, self._janus.room, [{"feed": self._feed}])

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
