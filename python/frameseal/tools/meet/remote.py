"""A proxy of an RTCPeerConnection in a browser, driven through the signalling. The forwarder connects to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiortc import RTCSessionDescription
from pyee.base import EventEmitter

BrowserRequest = Callable[[str, str | None], Awaitable[str]]
"""Sends the browser a method and an SDP or None, and returns the SDP of the browser.

The methods are "offer", "answer" and "accept". The browser answers "accept" with an empty str.
"""

_STATES = frozenset({"new", "connecting", "connected", "disconnected", "failed", "closed"})


class RemotePeer(EventEmitter):
    """Implements `frameseal.tools.sfu.PeerConnection`, and emits ``connectionstatechange``.

    The browser sets its own local description, and answers once its candidates are gathered. So three requests suffice.
    Each raises the exceptions of *call*.
    """

    def __init__(self, call: BrowserRequest) -> None:
        """Send requests through *call*."""
        super().__init__()
        self._call = call
        self._remote_offer: str | None = None
        self.localDescription: RTCSessionDescription | None = None
        self.connectionState = "new"
        self.number: int | None = None
        """The number of the first call, by which the browser names the connection. None until it was sent."""

    async def createOffer(self) -> RTCSessionDescription:
        """Request an offer from the browser."""
        return RTCSessionDescription(sdp=await self._call("offer", None), type="offer")

    async def createAnswer(self) -> RTCSessionDescription:
        """Request an answer to the remote offer from the browser."""
        return RTCSessionDescription(sdp=await self._call("answer", self._remote_offer), type="answer")

    async def setLocalDescription(self, description: RTCSessionDescription) -> None:
        """Store the description, which the browser has set already."""
        self.localDescription = description

    async def setRemoteDescription(self, description: RTCSessionDescription) -> None:
        """Store an offer for `createAnswer`, or send an answer to the browser."""
        if description.type == "offer":
            self._remote_offer = description.sdp
        else:
            await self._call("accept", description.sdp)

    def report(self, state: object) -> None:
        """Set the connection state that the browser reports. Ignore unknown states."""
        if isinstance(state, str) and state in _STATES and state != self.connectionState:
            self.connectionState = state
            self.emit("connectionstatechange")
