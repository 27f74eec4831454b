"""The leg of one subscriber: rewriting, waiting for a keyframe, retransmission, loss and reordering."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiortc import RTCDtlsTransport, RTCPeerConnection, RTCRtpCodecParameters
from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    HeaderExtensionsMap,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtpPacket,
)

from frameseal.codecs import CODECS

HISTORY_SIZE = 1024  # packets kept per stream and leg for retransmission; aiortc's own senders keep 128
RTCP_PSFB_FIR = 4  # RFC 5104, section 4.3.1; older versions of aiortc have no name for it


@dataclass
class LegStats:
    """Counts of packets on one leg, and of payload bytes by kind ("audio", "video")."""

    forwarded: int = 0
    lost: int = 0
    reordered: int = 0
    retransmitted: int = 0
    keyframe_requests: int = 0
    payload_bytes: Counter[str] = field(default_factory=Counter)


class Impairment:
    """Simulates loss and reordering. A seed selects the same packets at any speed of the machine.

    :param loss: the probability of loss per packet, 0 to 1 exclusive.
    :param reorder: the probability of reordering per packet, 0 to 1 exclusive.
    :param stats: counts the lost and the reordered packets.
    :raises ValueError: a probability is out of range.
    """

    def __init__(self, loss: float, reorder: float, seed: str, stats: LegStats) -> None:
        if not (0 <= loss < 1 and 0 <= reorder < 1):
            raise ValueError("loss and reorder must be probabilities, from 0 to 1 exclusive")
        self._loss, self._reorder = loss, reorder
        self._random = random.Random(seed)  # noqa: S311 - it selects packets, not keys
        self._held: list[tuple[int, RtpPacket]] = []
        self._stats = stats

    def __call__(self, packet: RtpPacket) -> list[RtpPacket]:
        """Return the packets to forward now: this packet, delayed packets that are due, or none."""
        # Every packet draws the same number of random values, so that a loss does not change later selections.
        lose, hold, distance = self._random.random(), self._random.random(), self._random.randint(1, 3)
        self._held = [(left - 1, held) for left, held in self._held]
        due = [held for left, held in self._held if left <= 0]
        self._held = [(left, held) for left, held in self._held if left > 0]
        if lose < self._loss:
            self._stats.lost += 1
            return due
        if hold < self._reorder:
            self._stats.reordered += 1
            self._held.append((distance, packet))
            return due
        return [packet, *due]


@dataclass
class Outlet:
    """One media section of a subscriber: how to rewrite the publisher's packets."""

    kind: str
    ssrc: int
    mid: str
    payload_types: dict[int, int]  # the publisher's -> the subscriber's
    extensions: HeaderExtensionsMap
    # True until a keyframe arrives: the subscriber cannot decode pictures that depend on an earlier one.
    awaits_keyframe: bool
    history: dict[int, RtpPacket] = field(default_factory=dict)


class Leg:
    """The connection to one subscriber."""

    def __init__(
        self,
        pc: RTCPeerConnection,
        impair: Impairment,
        stats: LegStats,
        request_keyframe: Callable[[], Awaitable[None]],
    ) -> None:
        self.pc, self.impair, self.stats, self.request_keyframe = pc, impair, stats, request_keyframe
        self.outlets: dict[int, Outlet] = {}  # by the publisher's SSRC
        self.transport: RTCDtlsTransport | None = None

    async def forward(self, packet: RtpPacket, codec: RTCRtpCodecParameters) -> None:
        """Rewrite a packet of the publisher and send it to the subscriber."""
        outlet = self.outlets.get(packet.ssrc)
        if outlet is None or packet.payload_type not in outlet.payload_types:
            return
        rewritten = RtpPacket(
            payload_type=outlet.payload_types[packet.payload_type],
            marker=packet.marker,
            sequence_number=packet.sequence_number,
            timestamp=packet.timestamp,
            ssrc=outlet.ssrc,
            payload=packet.payload,
        )
        rewritten.extensions.abs_send_time = packet.extensions.abs_send_time
        rewritten.extensions.audio_level = packet.extensions.audio_level
        rewritten.extensions.mid = outlet.mid
        outlet.history[packet.sequence_number % HISTORY_SIZE] = rewritten
        if outlet.awaits_keyframe and self.connected and starts_keyframe(codec, packet.payload):
            outlet.awaits_keyframe = False
        if not outlet.awaits_keyframe:
            await self.send(outlet, rewritten)

    @property
    def connected(self) -> bool:
        """True if DTLS is connected."""
        return self.transport is not None and self.transport.state == "connected"

    async def handle_rtcp(self, data: bytes) -> None:
        """Answer the RTCP feedback of the subscriber."""
        # Receiver reports and REMB are dropped: the bandwidth of one subscriber must not set the bit rate for all.
        try:
            packets = RtcpPacket.parse(data)
        except ValueError:
            return
        for packet in packets:
            if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
                await self.retransmit(packet.media_ssrc, packet.lost)
            elif isinstance(packet, RtcpPsfbPacket) and packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self.stats.keyframe_requests += 1
                await self.request_keyframe()

    async def retransmit(self, ssrc: int, sequence_numbers: list[int]) -> None:
        """Answer a NACK from the history of this leg: the same packets, without RTX (RFC 4585, section 6.2.1)."""
        for outlet in self.outlets.values():
            if outlet.ssrc != ssrc:
                continue
            for number in sequence_numbers:
                packet = outlet.history.get(number % HISTORY_SIZE)
                if packet is not None and packet.sequence_number == number:
                    self.stats.retransmitted += 1
                    await self.send(outlet, packet)

    async def send(self, outlet: Outlet, packet: RtpPacket) -> None:
        """Send a packet with simulated loss and reordering."""
        for survivor in self.impair(packet):
            # A delayed packet may belong to another outlet.
            home = next(o for o in self.outlets.values() if o.ssrc == survivor.ssrc)
            if self.transport is None or not self.connected:
                continue
            self.stats.forwarded += 1
            self.stats.payload_bytes[home.kind] += len(survivor.payload)
            await ignore_disconnect(self.transport._send_rtp(survivor.serialize(home.extensions)))


def starts_keyframe(codec: RTCRtpCodecParameters, payload: bytes) -> bool:
    """Return True if a video packet is the first of a keyframe.

    This needs no key, because SFUs depend on it and the formats leave these bytes clear. For VP8 they are the
    frame tag (RFC 6386, section 9.1), for H.264 the parameter sets and the first slice header.
    """
    known = CODECS.get(codec.name.lower())
    try:
        return known is None or known.begins_keyframe(payload)
    except IndexError:
        return False


async def ignore_disconnect(sending: Awaitable[None]) -> None:
    """Ignore a lost connection: a subscriber who disconnects must not stop the others."""
    with contextlib.suppress(ConnectionError):
        await sending
