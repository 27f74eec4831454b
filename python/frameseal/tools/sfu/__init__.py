"""A keyless SFU: forwards RTP from one publisher to several subscribers (RFC 7667, section 3.7).

Every peer connects to it over an RTCPeerConnection of its own. ICE, DTLS and SRTP end here, as in any SFU. So the
forwarder holds what the operator of an SFU holds: RTP packets whose payloads are sealed frames. It forwards payloads
unchanged, and rewrites SSRC, payload type and header extensions to those that each leg negotiated. It simulates loss
and reordering from a seed, for each leg separately.

A track has the publisher's id on every leg. So a recorder that connects again continues the tracks that it has.

aiortc has no public API to receive or send RTP packets over a transport. So the forwarder uses three private names of
`RTCDtlsTransport`. It replaces `_handle_rtp_data` and `_handle_rtcp_data` on the instances that it owns, and calls
`_send_rtp`. It sets `_track_id` of its own senders, which a sender without a track chooses at random. The connections
of the peers remain unchanged.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiortc import (
    RTCConfiguration,
    RTCDtlsTransport,
    RTCPeerConnection,
    RTCRtpCodecParameters,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.rtcrtpreceiver import NackGenerator
from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    HeaderExtensionsMap,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtpPacket,
    unwrap_rtx,
)
from aiortc.sdp import MediaDescription, SessionDescription

from frameseal.codecs import CODECS
from frameseal.tools.sfu.leg import Impairment, Leg, LegStats, Outlet, ignore_disconnect

__all__ = ["ForwardedPacket", "Forwarder", "LegStats"]

KEYFRAME_REQUEST_INTERVAL = 0.3  # minimum seconds between two PLIs to the publisher
CONNECT_TIMEOUT = 20.0  # seconds for ICE and DTLS of one leg


class PeerConnection(Protocol):
    """The part of a peer's RTCPeerConnection that the forwarder uses. aiortc and its forks implement it."""

    @property
    def localDescription(self) -> Any: ...
    @property
    def connectionState(self) -> str: ...
    def on(self, event: str, f: Any) -> Any: ...
    async def createOffer(self) -> Any: ...
    async def createAnswer(self) -> Any: ...
    async def setLocalDescription(self, description: Any) -> None: ...
    async def setRemoteDescription(self, description: Any) -> None: ...


@dataclass(frozen=True)
class ForwardedPacket:
    """One packet as the forwarder sees it: without SRTP, which ends here."""

    kind: str
    codec: RTCRtpCodecParameters
    packet: RtpPacket
    retransmission: bool

    @property
    def payload(self) -> bytes:
        """The RTP payload, including the payload descriptor (RFC 7741, RFC 6184)."""
        return self.packet.payload


@dataclass
class _Stream:
    """One media section of the publisher's SDP."""

    kind: str
    track_id: str
    codecs: dict[int, RTCRtpCodecParameters]
    ssrc: int
    # None for audio: neither aiortc nor browsers request the retransmission of audio packets by default.
    nacks: NackGenerator | None


class Forwarder:
    """Forwards the sealed media of one publisher to any number of subscribers, without a key.

    :param loss: the probability of loss per packet and leg, 0 to 1 exclusive. It applies to retransmissions too.
    :param reorder: the probability of reordering per packet and leg, 0 to 1 exclusive.
    :param seed: the seed of loss and reordering.
    :param on_packet: called on the event loop with every packet from the publisher, before any loss.
    :raises ValueError: a probability is out of range.
    """

    def __init__(
        self,
        *,
        loss: float = 0.0,
        reorder: float = 0.0,
        seed: int = 1,
        on_packet: Callable[[ForwardedPacket], None] | None = None,
    ) -> None:
        self._loss, self._reorder, self._seed = loss, reorder, seed
        self._on_packet = on_packet
        self.stats: dict[str, LegStats] = {"publisher": LegStats()}
        self._impair = Impairment(loss, reorder, f"{seed}/publisher", self.stats["publisher"])
        self._pc: RTCPeerConnection | None = None
        self._transport: RTCDtlsTransport | None = None
        self._streams: list[_Stream] = []
        self._by_ssrc: dict[int, _Stream] = {}  # RTX streams included
        self._extensions = HeaderExtensionsMap()
        self._legs: dict[str, Leg] = {}
        self._last_keyframe_request = float("-inf")
        self._keyframe_wanted = False
        self._rtcp_ssrc = secrets.randbits(32)

    async def connect_publisher(self, pc: PeerConnection) -> None:
        """Negotiate with the publisher, which already has its tracks, and return when packets can flow.

        :raises RuntimeError: the forwarder has a publisher already.
        :raises TimeoutError: ICE or DTLS did not connect within 20 s.
        :raises ConnectionError: ICE or DTLS failed.
        """
        if self._pc is not None:
            raise RuntimeError("the forwarder has a publisher already: make another Forwarder")
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        await pc.setLocalDescription(await pc.createOffer())
        offer = RTCSessionDescription(sdp=pc.localDescription.sdp, type="offer")
        await self._pc.setRemoteDescription(offer)
        await self._pc.setLocalDescription(await self._pc.createAnswer())
        answer = self._pc.localDescription

        sections = zip(self._pc.getTransceivers(), _media(offer), _media(answer), strict=True)
        for transceiver, offered, answered in sections:
            self._extensions.configure(answered.rtp)
            stream = _Stream(
                kind=answered.kind,
                track_id=transceiver.receiver.track.id,
                codecs={codec.payloadType or 0: codec for codec in answered.rtp.codecs},
                ssrc=offered.ssrc[0].ssrc,
                nacks=NackGenerator() if answered.kind == "video" else None,
            )
            self._streams.append(stream)
            self._by_ssrc.update((description.ssrc, stream) for description in offered.ssrc)

        self._transport = self._pc.getTransceivers()[0].receiver.transport
        for transceiver in self._pc.getTransceivers():
            transceiver.receiver.transport._handle_rtp_data = self._handle_publisher_rtp  # type: ignore[method-assign]
        await pc.setRemoteDescription(answer)
        await _wait_connected(self._pc, pc)

    async def connect_subscriber(self, pc: PeerConnection, name: str) -> None:
        """Offer the publisher's media to a subscriber, and return when packets can flow.

        :raises RuntimeError: there is no publisher yet, or *name* is in use.
        :raises ValueError: the subscriber cannot decode the publisher's codec.
        :raises TimeoutError: ICE or DTLS did not connect within 20 s.
        :raises ConnectionError: ICE or DTLS failed.
        """
        if self._pc is None or name in self.stats:
            raise RuntimeError("the publisher must connect first, and name must not be in use")
        stats = self.stats[name] = LegStats()
        own = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        impair = Impairment(self._loss, self._reorder, f"{self._seed}/{name}", stats)
        leg = self._legs[name] = Leg(own, impair, stats, self.request_keyframe)
        for stream in self._streams:
            transceiver = own.addTransceiver(stream.kind, direction="sendonly")
            transceiver.sender._track_id = stream.track_id
            published = {codec.mimeType.lower() for codec in stream.codecs.values()}
            capabilities = RTCRtpSender.getCapabilities(stream.kind)
            if capabilities is not None:
                wanted = [codec for codec in capabilities.codecs if codec.mimeType.lower() in published]
                transceiver.setCodecPreferences(wanted)

        await own.setLocalDescription(await own.createOffer())
        await pc.setRemoteDescription(own.localDescription)
        await pc.setLocalDescription(await pc.createAnswer())
        answer = RTCSessionDescription(sdp=pc.localDescription.sdp, type="answer")
        await own.setRemoteDescription(answer)

        sections = zip(self._streams, _media(own.localDescription), _media(answer), strict=True)
        for stream, offered, answered in sections:
            leg.outlets[stream.ssrc] = _outlet(stream, offered, answered)
        for transceiver in own.getTransceivers():
            transport = leg.transport = transceiver.sender.transport
            transport._handle_rtcp_data = leg.handle_rtcp  # type: ignore[method-assign]
        await _wait_connected(own, pc)
        # Pictures under way depend on a keyframe that the new subscriber never received. Every SFU requests one.
        await self.request_keyframe()

    async def disconnect_subscriber(self, name: str) -> None:
        """Close the leg of a subscriber who left, or whose `connect_subscriber` failed, and free its name."""
        self.stats.pop(name, None)
        leg = self._legs.pop(name, None)
        if leg is not None:
            await leg.pc.close()

    async def request_keyframe(self) -> None:
        """Request a keyframe (PLI, RFC 4585, section 6.3.1) now, or else 0.3 s after the last request."""
        now = asyncio.get_running_loop().time()
        self._keyframe_wanted = now - self._last_keyframe_request < KEYFRAME_REQUEST_INTERVAL
        if self._keyframe_wanted or self._transport is None:
            return
        self._last_keyframe_request = now
        for stream in self._streams:
            if stream.kind == "video":
                pli = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=self._rtcp_ssrc, media_ssrc=stream.ssrc)
                self.stats["publisher"].keyframe_requests += 1
                await ignore_disconnect(self._transport._send_rtp(bytes(pli)))

    async def close(self) -> None:
        """Close every leg."""
        own = [leg.pc for leg in self._legs.values()] + ([self._pc] if self._pc is not None else [])
        await asyncio.gather(*(pc.close() for pc in own))

    async def _handle_publisher_rtp(self, data: bytes, arrival_time_ms: int) -> None:
        try:
            packet = RtpPacket.parse(data, self._extensions)
        except ValueError:
            return
        stream = self._by_ssrc.get(packet.ssrc)
        codec = stream.codecs.get(packet.payload_type) if stream is not None else None
        if stream is None or codec is None:
            return
        retransmission = codec.name.lower() == "rtx"
        if retransmission:
            if len(packet.payload) < 2:
                return
            original = int(codec.parameters["apt"] or 0)
            packet, codec = unwrap_rtx(packet, original, stream.ssrc), stream.codecs[original]
        if self._on_packet is not None:
            self._on_packet(ForwardedPacket(stream.kind, codec, packet, retransmission))
        for survivor in self._impair(packet):
            await self._forward(survivor)
        if self._keyframe_wanted:
            await self.request_keyframe()

    async def _forward(self, packet: RtpPacket) -> None:
        stream = self._by_ssrc[packet.ssrc]
        nacks, codec = stream.nacks, stream.codecs[packet.payload_type]
        if nacks is not None and nacks.add(packet) and self._transport is not None:
            nack = RtcpRtpfbPacket(RTCP_RTPFB_NACK, self._rtcp_ssrc, packet.ssrc, sorted(nacks.missing))
            await ignore_disconnect(self._transport._send_rtp(bytes(nack)))
        self.stats["publisher"].forwarded += 1
        self.stats["publisher"].payload_bytes[stream.kind] += len(packet.payload)
        for leg in list(self._legs.values()):  # a copy: a subscriber may join while a packet is being sent
            await leg.forward(packet, codec)


def _media(description: RTCSessionDescription) -> list[MediaDescription]:
    return SessionDescription.parse(description.sdp).media


def _outlet(stream: _Stream, offered: MediaDescription, answered: MediaDescription) -> Outlet:
    by_format = {_format(codec): codec.payloadType or 0 for codec in answered.rtp.codecs}
    payload_types = {
        payload_type: by_format[_format(codec)]
        for payload_type, codec in stream.codecs.items()
        if codec.name.lower() != "rtx" and _format(codec) in by_format
    }
    if not payload_types:
        raise ValueError(f"the subscriber accepts none of the publisher's {stream.kind} codecs")
    extensions = HeaderExtensionsMap()
    extensions.configure(answered.rtp)
    return Outlet(
        stream.kind,
        offered.ssrc[0].ssrc,
        answered.rtp.muxId,
        payload_types,
        extensions,
        awaits_keyframe=stream.kind == "video",
    )


def _format(codec: RTCRtpCodecParameters) -> tuple[str, ...]:
    """Return the media type and the parameters that two codecs must share to be compatible.

    For H.264 the parameters are the packetization mode and the profile (RFC 6184, section 8.1).
    """
    known = CODECS.get(codec.name.lower())
    names = known.format_parameters if known else ()
    return (codec.mimeType.lower(), *(str(codec.parameters.get(name)).lower() for name in names))


async def _wait_connected(*ends: PeerConnection) -> None:
    """Wait until both ends are connected: closing an aiortc connection that is still connecting may never return."""
    settled = asyncio.Event()

    def changed() -> None:
        states = [pc.connectionState for pc in ends]
        if set(states) <= {"connected"} or not {"failed", "closed"}.isdisjoint(states):
            settled.set()

    for pc in ends:
        pc.on("connectionstatechange", changed)
    changed()
    await asyncio.wait_for(settled.wait(), CONNECT_TIMEOUT)
    if any(pc.connectionState != "connected" for pc in ends):
        raise ConnectionError("a leg of the forwarder failed to connect")
