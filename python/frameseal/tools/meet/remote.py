"""A browser's RTCPeerConnection, driven from here through the signalling: what the forwarder needs of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiortc import RTCSessionDescription
from pyee.base import EventEmitter

BrowserRequest = Callable[[str, str | None], Awaitable[str]]
"""Asks the browser: a method ("offer", "answer" or "accept") and the SDP it is about; the answer is SDP, or empty."""

_STATES = frozenset({"new", "connecting", "connected", "disconnected", "failed", "closed"})


class RemotePeer(EventEmitter):
    """Has the methods that `frameseal.tools.sfu.PeerConnection` names, and emits ``connectionstatechange``.

    The browser sets its local description where it makes it, and answers when its candidates are gathered: three
    questions are enough. All of them raise what *call* raises.
    """

    def __init__(self, call: BrowserRequest) -> None:
        """Ask through *call*."""
        super().__init__()
        self._call = call
        self._remote_offer: str | None = None
        self.localDescription: RTCSessionDescription | None = None
        self.connectionState = "new"

    async def createOffer(self) -> RTCSessionDescription:
        """Have the browser make an offer."""
        return RTCSessionDescription(sdp=await self._call("offer", None), type="offer")

    async def createAnswer(self) -> RTCSessionDescription:
        """Have the browser answer the offer that was set."""
        return RTCSessionDescription(sdp=await self._call("answer", self._remote_offer), type="answer")

    async def setLocalDescription(self, description: RTCSessionDescription) -> None:
        """Note it; the browser has set it."""
        self.localDescription = description

    async def setRemoteDescription(self, description: RTCSessionDescription) -> None:
        """Keep an offer for `createAnswer`, or bring the browser its answer."""
        if description.type == "offer":
            self._remote_offer = description.sdp
        else:
            await self._call("accept", description.sdp)

    def report(self, state: object) -> None:
        """Take the browser's word for its connection's state."""
        if isinstance(state, str) and state in _STATES and state != self.connectionState:
            self.connectionState = state
            self.emit("connectionstatechange")
