"""The two connections of a visit: this side offers the publisher, and the server offers the subscriber."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.sdp import SessionDescription, candidate_from_sdp
from livekit.protocol import rtc

from frameseal.aiortc import attach
from frameseal.datachannel import mark_sealed
from frameseal.e2ee.manager import E2EEManager
from frameseal.livekit.errors import RoomError
from frameseal.livekit.participants import Participants, RemoteTrack
from frameseal.livekit.publications import Outgoing, Publication, forwarded_codecs
from frameseal.livekit.signalling import ANSWER_TIMEOUT, CLOSE_TIMEOUT

__all__ = ["Publisher", "Subscriber", "Surroundings", "in_time"]


@dataclass(frozen=True)
class Surroundings:
    """The server and the keys, which both connections of a visit share."""

    ice_servers: list[RTCIceServer]
    e2ee: E2EEManager
    identity: str
    request: Callable[..., Awaitable[None]]
    """Sends one request to the server."""
    failed: asyncio.Event
    """Ends the visit."""


class Connection:
    """One connection to the server, with what aiortc needs to be told late.

    :param remote_id: returns the participant whose key opens, for a receiver.
    """

    def __init__(self, around: Surroundings, remote_id: Callable[[object], str | None]) -> None:
        # With the default policy, the second track of a kind in one offer stays on a transport of its own.
        configuration = RTCConfiguration(iceServers=around.ice_servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self.pc: Final = RTCPeerConnection(configuration)
        self._request, self._failed = around.request, around.failed
        self._changed = asyncio.Event()
        self._early: list[Any] = []  # candidates that arrived before the description
        self.attachment: Final = attach(self.pc, around.e2ee, local_id=around.identity, remote_id=remote_id)
        self.pc.on("connectionstatechange", self._on_state)

    def _on_state(self) -> None:
        self._changed.set()
        if self.pc.connectionState in ("failed", "closed"):  # closed by the server, or at the end of the visit
            self._failed.set()

    async def add_candidate(self, init: str) -> None:
        """Add a candidate of the server, now or when the server has described itself."""
        fields = json.loads(init)
        if not fields.get("candidate"):
            return
        candidate = candidate_from_sdp(fields["candidate"].removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = fields.get("sdpMid"), fields.get("sdpMLineIndex")
        self._early.append(candidate)
        if self.pc.remoteDescription is not None:
            await self._add_candidates()

    async def _describe(self, description: rtc.SessionDescription) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=description.sdp, type=description.type))
        await self._add_candidates()

    async def _add_candidates(self) -> None:
        while self._early:
            await self.pc.addIceCandidate(self._early.pop(0))

    async def _until_connected(self) -> None:
        await self._until(lambda: self.pc.connectionState in ("connected", "failed", "closed"))
        if self.pc.connectionState != "connected":
            self._failed.set()
            raise RoomError("ICE or DTLS did not connect")

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until the connection fulfils a condition, or for the maximum time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    async def close(self) -> None:
        """Close the connection."""
        await asyncio.wait_for(self.pc.close(), CLOSE_TIMEOUT)


class Publisher(Connection):
    """The connection of the sent media and data."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around, lambda receiver: None)
        self._answer: asyncio.Future[rtc.SessionDescription] | None = None
        self._negotiating = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._transceivers: dict[Publication, RTCRtpTransceiver] = {}
        self._channels: dict[bool, RTCDataChannel] = {}

    def answered(self, answer: rtc.SessionDescription) -> None:
        """Handle the server's answer to an offer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def add(self, publication: Publication, outgoing: Outgoing) -> None:
        """Send a track that the server has accepted. Returns when the connection is up."""
        await self._undisturbed(self._add(publication, outgoing))

    async def remove(self, publication: Publication) -> None:
        """Stop sending a track."""
        await self._undisturbed(self._remove(publication))

    async def send_data(self, packet: bytes, *, reliable: bool) -> None:
        """Send a packet whose content is sealed."""
        if not self._channels:
            await self._undisturbed(self._open_channels())
        channel = self._channels[reliable]
        await self._until(lambda: channel.readyState != "connecting")
        if channel.readyState != "open":
            raise RoomError("the data channel is not open")
        mark_sealed(channel, packet)
        channel.send(packet)

    async def _undisturbed(self, work: Coroutine[Any, Any, None]) -> None:
        """Negotiate to the end, even if the caller is cancelled: the next offer would get the answer of this one."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a cancelled caller asks no more
        reason = ""
        try:
            await asyncio.shield(task)
        except (InvalidAccessError, InvalidStateError, OperationError) as error:
            reason = type(error).__name__
        if reason:
            raise RoomError(f"the connection does not support the change ({reason})")

    async def _add(self, publication: Publication, outgoing: Outgoing) -> None:
        async with self._negotiating:
            if outgoing.readyState != "live":  # unpublished meanwhile
                return
            transceiver = self._transceivers[publication] = self.pc.addTransceiver(outgoing, direction="sendonly")
            codecs = forwarded_codecs(outgoing.kind, publication.codec)
            transceiver.setCodecPreferences(codecs)
            answer = await self._negotiate()
            lines = [line for line in answer.media if line.rtp.muxId == transceiver.mid]
            accepted = {each.mimeType.lower() for line in lines for each in line.rtp.codecs}
        is_accepted = codecs[0].mimeType.lower() in accepted
        if not is_accepted or outgoing.readyState != "live":
            await self._remove(publication)
        if not is_accepted:
            raise RoomError("the server does not accept the codec of the track")

    async def _remove(self, publication: Publication) -> None:
        async with self._negotiating:
            transceiver = self._transceivers.pop(publication, None)
            if transceiver is not None:
                await transceiver.sender.stop()
                transceiver.direction = "inactive"
                await self._negotiate()

    async def _open_channels(self) -> None:
        async with self._negotiating:
            if not self._channels:
                self._channels[True] = self.pc.createDataChannel("_reliable")
                self._channels[False] = self.pc.createDataChannel("_lossy", ordered=False, maxRetransmits=0)
                for made in self._channels.values():
                    made.on("open", self._changed.set)
                await self._negotiate()

    async def _negotiate(self) -> SessionDescription:
        """Offer what this side sends, and return the server's answer. The caller holds the lock.

        Returns when the connection is up: aiortc never starts a track that was negotiated during the DTLS handshake.
        """
        await self.pc.setLocalDescription(await self.pc.createOffer())
        self._answer = asyncio.get_running_loop().create_future()
        await self._request(offer=rtc.SessionDescription(type="offer", sdp=self.pc.localDescription.sdp))
        try:
            answer = await in_time(self._answer, "the server does not answer the offer")
        except RoomError:
            self._failed.set()  # a late answer would be one to the next offer
            raise
        await self._describe(answer)
        await self._until_connected()
        return SessionDescription.parse(answer.sdp)

    async def close(self) -> None:
        """Close the connection, and fail whoever waits for an answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RoomError("the connection to the room was lost"))
        await super().close()


class Subscriber(Connection):
    """The connection of the received media and data.

    :param members: the participants, whose tracks receive the media.
    :param on_data: receives the content of each data packet.
    """

    def __init__(self, around: Surroundings, members: Participants, on_data: Callable[[bytes | str], None]) -> None:
        super().__init__(around, self._owner_of)
        self.offers: Final[asyncio.Queue[rtc.SessionDescription]] = asyncio.Queue()
        self._members, self._on_data = members, on_data
        self._streams: dict[str, tuple[str, str]] = {}  # mid -> sids of participant and track
        self.pc.on("track", self._on_track)
        self.pc.on("datachannel", self._on_channel)

    async def answer_offers(self) -> None:
        """Answer the server's offers, one after the other."""
        while True:
            offer = await self.offers.get()
            if self.pc.remoteDescription is not None:
                await self._until_connected()
            self._streams = _streams(offer.sdp)
            await self._describe(offer)
            await self.pc.setLocalDescription(await self.pc.createAnswer())
            answer = rtc.SessionDescription(type="answer", sdp=self.pc.localDescription.sdp, id=offer.id)
            await self._request(answer=answer)
            for transceiver in self.pc.getTransceivers():
                if transceiver.currentDirection == "inactive":  # aiortc would keep its decoder thread
                    await transceiver.receiver.stop()

    def _track_of(self, receiver: object) -> RemoteTrack | None:
        mids = (each.mid for each in self.pc.getTransceivers() if each.receiver is receiver)
        return self._members.track(*self._streams.get(next(mids, None) or "", ("", "")))

    def _owner_of(self, receiver: object) -> str | None:
        """Return the identity whose key opens. None drops the frames."""
        track = self._track_of(receiver)
        return None if track is None else track.participant.identity

    def _on_track(self, media: MediaStreamTrack) -> None:
        track = self._track_of(next(each for each in self.pc.getReceivers() if each.track is media))
        if track is not None:
            self._members.begin_media(track, media)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        mark_sealed(channel)
        channel.on("message", self._on_data)


def _streams(sdp: str) -> dict[str, tuple[str, str]]:
    """Return the sids of participant and track for each mid of the server's offer."""
    streams = {}
    for media in SessionDescription.parse(sdp).media:
        stream, _, track = (media.msid or "").partition(" ")
        streams[media.rtp.muxId] = (stream.partition("|")[0], track)
    return streams


async def in_time(answer: asyncio.Future[Any], otherwise: str) -> Any:
    """Return the server's answer.

    :raises RoomError: it does not arrive in time. The message is *otherwise*.
    """
    try:
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT)
    except TimeoutError:
        pass
    raise RoomError(otherwise)
