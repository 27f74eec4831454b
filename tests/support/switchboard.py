"""A keyless SFU that switches publishers: the media of one line may belong to changing participants.

Each participant publishes over a separate connection. A subscriber's connection has lines: m-lines of sound or of
pictures. When another publisher is switched to a line, the line keeps its SSRC. Its sequence numbers and timestamps
continue, as in Janus and mediasoup.
"""

import asyncio
from dataclasses import dataclass, field

from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.rtp import RTCP_PSFB_PLI, HeaderExtensionsMap, RtcpPacket, RtcpPsfbPacket, RtpPacket
from aiortc.sdp import SessionDescription

from support.calls import Peer, part, until

SEQUENCE_NUMBERS, TIMESTAMPS = 1 << 16, 1 << 32
GAP = 3000  # ticks between the last timestamp before a switch and the first one after it


@dataclass(eq=False)
class Line:
    """One m-line of a subscriber, and the participant whose media it carries now."""

    kind: str
    transceiver: object
    owner: str | None = None
    ssrc: int = 0
    payload_types: dict[str, int] = field(default_factory=dict)
    sequence_number: int = 0
    timestamp: int = 0
    _source: int | None = None
    _offset: int = 0

    def rewrite(self, packet: RtpPacket, codec: str) -> RtpPacket:
        """Return the packet as this line sends it."""
        if packet.ssrc != self._source:
            self._source = packet.ssrc
            self._offset = (self.timestamp + GAP - packet.timestamp) % TIMESTAMPS
        self.timestamp = (packet.timestamp + self._offset) % TIMESTAMPS
        self.sequence_number = (self.sequence_number + 1) % SEQUENCE_NUMBERS
        rewritten = RtpPacket(
            payload_type=self.payload_types[codec],
            marker=packet.marker,
            sequence_number=self.sequence_number,
            timestamp=self.timestamp,
            ssrc=self.ssrc,
            payload=packet.payload,
        )
        rewritten.extensions.mid = self.transceiver.mid
        return rewritten


@dataclass(eq=False)
class Publisher:
    """One participant's connection, on the SFU's side."""

    pc: RTCPeerConnection
    kinds: dict[int, str] = field(default_factory=dict)  # by SSRC
    codecs: dict[int, str] = field(default_factory=dict)  # by payload type
    extensions: HeaderExtensionsMap = field(default_factory=HeaderExtensionsMap)

    @property
    def transport(self):
        return self.pc.getTransceivers()[0].receiver.transport


class Switchboard:
    """Forwards the media of participants to one subscriber's lines, and records every payload."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.lines: list[Line] = []
        self._publishers: dict[str, Publisher] = {}
        self._pc: RTCPeerConnection | None = None
        self._tasks: set[asyncio.Task] = set()

    async def publish(self, name: str, peer: Peer) -> None:
        """Receive a participant's media. It replaces the media that they published before."""
        await self.unpublish(name)
        publisher = Publisher(RTCPeerConnection(RTCConfiguration(iceServers=[])))
        await peer.pc.setLocalDescription(await peer.pc.createOffer())
        offer = RTCSessionDescription(sdp=peer.pc.localDescription.sdp, type="offer")
        await publisher.pc.setRemoteDescription(offer)
        await publisher.pc.setLocalDescription(await publisher.pc.createAnswer())
        answer = publisher.pc.localDescription
        for offered, answered in zip(media(offer), media(answer), strict=True):
            publisher.extensions.configure(answered.rtp)
            publisher.kinds[offered.ssrc[0].ssrc] = answered.kind
            publisher.codecs.update((codec.payloadType, codec.name.lower()) for codec in answered.rtp.codecs)

        async def forward(data: bytes, arrival_time_ms: int) -> None:
            await self._forward(name, publisher, RtpPacket.parse(data, publisher.extensions))

        publisher.transport._handle_rtp_data = forward
        await peer.pc.setRemoteDescription(described(peer, answer))
        await until(lambda: publisher.pc.connectionState == peer.pc.connectionState == "connected")
        self._publishers[name] = publisher
        await self.request_keyframe(name)

    async def unpublish(self, name: str) -> None:
        """Close the connection of a publisher. Do nothing for an unknown name."""
        publisher = self._publishers.pop(name, None)
        if publisher is not None:
            await publisher.pc.close()

    async def add_lines(self, peer: Peer, codec: str, owner: str) -> list[Line]:
        """Offer the subscriber a line of sound and a line of pictures, which carry the media of *owner*."""
        if self._pc is None:
            self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        added = []
        for kind, name in (("audio", "opus"), ("video", codec)):
            transceiver = self._pc.addTransceiver(kind, direction="sendonly")
            capabilities = RTCRtpSender.getCapabilities(kind).codecs
            transceiver.setCodecPreferences([c for c in capabilities if c.name.lower() == name])
            added.append(Line(kind, transceiver, owner))
        self.lines += added
        await self._negotiate(peer)
        await until(lambda: self._pc.connectionState == peer.pc.connectionState == "connected")
        await self.request_keyframe(owner)
        return added

    async def end_lines(self, peer: Peer, lines: list[Line]) -> None:
        """Make these lines inactive."""
        for line in lines:
            line.owner = None
            line.transceiver.direction = "inactive"
            self.lines.remove(line)
        await self._negotiate(peer)

    async def switch(self, lines: list[Line], owner: str | None) -> None:
        """Make these lines carry the media of *owner*. None makes them carry nothing."""
        for line in lines:
            line.owner = owner
        if owner is not None:
            await self.request_keyframe(owner)

    async def request_keyframe(self, name: str) -> None:
        """Send a picture loss indication (RFC 4585, section 6.3.1) to the publisher of this name."""
        publisher = self._publishers.get(name)
        if publisher is not None and publisher.transport.state == "connected":
            for ssrc in [ssrc for ssrc, kind in publisher.kinds.items() if kind == "video"]:
                pli = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=ssrc)
                await publisher.transport._send_rtp(bytes(pli))

    async def close(self) -> None:
        for name in list(self._publishers):
            await self.unpublish(name)
        if self._pc is not None:
            await self._pc.close()

    async def _negotiate(self, peer: Peer) -> None:
        await self._pc.setLocalDescription(await self._pc.createOffer())
        await peer.pc.setRemoteDescription(described(peer, self._pc.localDescription))
        await peer.pc.setLocalDescription(await peer.pc.createAnswer())
        answer = RTCSessionDescription(sdp=peer.pc.localDescription.sdp, type="answer")
        await self._pc.setRemoteDescription(answer)
        by_mid = {described.rtp.muxId: described for described in media(answer)}
        for line in self.lines:
            line.ssrc = line.transceiver.sender._ssrc
            codecs = by_mid[line.transceiver.mid].rtp.codecs
            line.payload_types = {codec.name.lower(): codec.payloadType for codec in reversed(codecs)}
            line.transceiver.sender.transport._handle_rtcp_data = self._rtcp

    async def _forward(self, name: str, publisher: Publisher, packet: RtpPacket) -> None:
        kind, codec = publisher.kinds.get(packet.ssrc), publisher.codecs.get(packet.payload_type)
        if kind is None or codec is None:
            return  # a retransmission
        self.payloads.append(packet.payload)
        for line in self.lines:
            transport = line.transceiver.sender.transport
            if (
                (line.kind, line.owner) == (kind, name)
                and codec in line.payload_types
                and transport.state == "connected"
            ):
                await transport._send_rtp(line.rewrite(packet, codec).serialize(self._extensions(line)))

    def _extensions(self, line: Line) -> HeaderExtensionsMap:
        extensions = HeaderExtensionsMap()
        (own,) = [m for m in media(self._pc.remoteDescription) if m.rtp.muxId == line.transceiver.mid]
        extensions.configure(own.rtp)
        return extensions

    async def _rtcp(self, data: bytes) -> None:
        for packet in RtcpPacket.parse(data):
            if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_PLI:
                for owner in {line.owner for line in self.lines if line.ssrc == packet.media_ssrc and line.owner}:
                    await self.request_keyframe(owner)


def media(description: RTCSessionDescription):
    return SessionDescription.parse(description.sdp).media


def described(peer: Peer, description: RTCSessionDescription):
    """Return the description as an object of the peer's stack."""
    return part(peer.stack).RTCSessionDescription(sdp=description.sdp, type=description.type)
