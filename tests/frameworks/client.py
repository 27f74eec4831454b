"""The other end of a framework's call: a peer of plain aiortc, as a web client would be, and a look at the wire."""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from aiortc import RTCSessionDescription
from aiortc.codecs import CODECS, depayload

from frameseal import Decryptor, FrameError, KeyRing
from frameseal.aiortc import attach
from support.calls import PASSPHRASE, Arrived, Peer, hang_up, manager, until

Description = dict[str, str]  # "sdp" and "type", as browsers send it
Exchange = Callable[[Description], Awaitable[Description]]

# aiortc numbers its payload types itself, and an answer repeats the numbers of the offer.
CODEC_OF = {codec.payloadType: codec for codecs in CODECS.values() for codec in codecs}


class Client(Peer):
    """A client that makes the offer. Its connection is attached, unless *passphrase* is None."""

    def __init__(self, passphrase: str | None = PASSPHRASE, local_id: str = "user", remote_id: str = "bot") -> None:
        super().__init__("aiortc")
        self.e2ee = None if passphrase is None else manager(passphrase)
        if self.e2ee is not None:
            attach(self.pc, self.e2ee, local_id=local_id, remote_id=remote_id)

    def exchange_media(self, track) -> None:
        """Send this track, and receive one of the same kind."""
        self.pc.addTransceiver(track, direction="sendrecv")

    async def call(self, exchange: Exchange) -> Description:
        """Send an offer to the framework, and apply its answer, which is returned. Wait until media can flow."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        offer = self.pc.localDescription
        answer = await exchange({"sdp": offer.sdp, "type": offer.type})
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type=answer["type"]))
        await until(lambda: self.pc.connectionState == "connected")
        return answer

    @property
    def ssrcs(self) -> set[int]:
        """The SSRCs of the media that this client sends."""
        return {sender._ssrc for sender in self.pc.getSenders()}

    def sink(self, kind: str):
        """Return the sink of the first track of a kind. None means that no track of the kind is announced."""
        return next((sink for sink in self.sinks.values() if sink.track.kind == kind), None)


def hears(sink, hertz: float = 440) -> bool:
    """Return True if a sink has heard a second of this tone, not counting pauses. None means no sink yet.

    A framework that is late fills in silence, for example pipecat on a busy machine.
    """
    if sink is None or not sink.samples:
        return False
    sound, size = np.concatenate(sink.samples).astype(float), sink.rate // 200
    pieces = sound[: len(sound) // size * size].reshape(-1, size)
    # The tone has a quarter of full scale, less 3 dB wherever mono became stereo on the way.
    pieces = pieces[np.sqrt((pieces**2).mean(axis=1)) > 1000][-200:]
    if len(pieces) < 200:
        return False
    spectrum = np.abs(np.fft.rfft(pieces.reshape(-1))) ** 2
    # Pauses that were cut out widen the line. Noise would have a hundredth of its energy there.
    return bool(spectrum[int(hertz) - 100 : int(hertz) + 101].sum() > 0.9 * spectrum.sum())


def is_quiet(sink) -> bool:
    """Return True if the last 0.3 s of a sink were silence."""
    sound = np.concatenate(sink.samples).astype(float)[-int(0.3 * sink.rate) :]
    return bool(np.sqrt((sound**2).mean()) < 100)


def sees(sink, colour: str = "red", pictures: int = 10) -> bool:
    """Return True if a sink has seen this number of readable *pictures* of this colour. None means no sink yet."""
    if sink is None:
        return False
    return sum(each.number is not None and each.colour == colour for each in list(sink.pictures)) >= pictures


@contextlib.asynccontextmanager
async def client(passphrase: str | None = PASSPHRASE, **ids: str):
    """Make a client, and hang up at the end."""
    made = Client(passphrase, **ids)
    try:
        yield made
    finally:
        await hang_up(made)


@dataclass
class Seen:
    """The media frames of one codec that were on the wire."""

    opened: list[bytes] = field(default_factory=list)
    """Plaintext frames that the key has opened."""

    unopened: list[bytes] = field(default_factory=list)
    """Frames that the key did not open: plain ones, or sealed with another key."""


class Wire(Arrived):
    """Records the RTP packets that arrive at every connection of a stack, after SRTP. A context manager."""

    def __init__(self, stack: str = "aiortc") -> None:
        super().__init__(stack)

    @property
    def ssrcs(self) -> set[int]:
        """The SSRCs of all media so far, without those of retransmissions, which repeat packets of these."""
        return {packet.ssrc for packet in self.packets if CODEC_OF[packet.payload_type].name != "rtx"}

    def count(self, ssrcs: set[int]) -> int:
        """Return the number of packets so far under these SSRCs."""
        return sum(packet.ssrc in ssrcs for packet in self.packets)

    def read(
        self, passphrase: str = PASSPHRASE, *, sent_by: set[int] | None = None, besides: set[int] = frozenset()
    ) -> dict[str, Seen]:
        """Open every frame on the wire, and return the frames by codec.

        :param sent_by: the SSRCs to look at. None means all.
        :param besides: SSRCs that are left out.
        """
        ring = KeyRing("livekit")
        ring.set_passphrase(passphrase)
        seen: dict[str, Seen] = defaultdict(Seen)
        for ssrc, packets in self._streams().items():
            if ssrc in besides or (sent_by is not None and ssrc not in sent_by):
                continue
            codec = CODEC_OF[packets[0].payload_type]
            decryptor = Decryptor(ring, codec=codec.name.lower())
            for frame in frames(packets, codec):
                try:
                    seen[codec.name.lower()].opened.append(decryptor.decrypt(frame))
                except FrameError:
                    seen[codec.name.lower()].unopened.append(frame)
        return dict(seen)

    def assert_sealed(self, passphrase: str = PASSPHRASE, **at_least: int) -> None:
        """Check that the key opens every frame on the wire, and that there are *at_least* as many by codec."""
        seen = self.read(passphrase)
        counts = {codec: (len(each.opened), len(each.unopened)) for codec, each in seen.items()}
        assert counts.keys() == at_least.keys(), counts
        for codec, (opened, unopened) in counts.items():
            assert unopened == 0, counts
            assert opened >= at_least[codec], counts

    def _streams(self) -> dict[int, list]:
        """Return the packets by SSRC, in the order of their sequence numbers. Retransmissions repeat them."""
        streams: dict[int, dict[int, object]] = defaultdict(dict)
        repeated = []
        for packet in self.packets:
            if CODEC_OF[packet.payload_type].name == "rtx":
                repeated.append(packet.payload[2:])  # after the sequence number of the original packet
            else:
                streams[packet.ssrc].setdefault(packet.sequence_number, packet)
        sent = {packet.payload for packets in streams.values() for packet in packets.values()}
        assert all(payload in sent for payload in repeated), "a retransmission of a packet that was not seen"
        return {ssrc: in_order(packets) for ssrc, packets in streams.items()}


def in_order(packets: dict) -> list:
    """Return packets, keyed by their 16-bit sequence numbers, in the order in which they were sent."""
    first = next(iter(packets))
    return [packets[number] for number in sorted(packets, key=lambda number: (number - first + 0x8000) & 0xFFFF)]


def frames(packets: list, codec) -> list[bytes]:
    """Return the whole frames of one stream, without a first and a last frame that the recording has cut."""
    for previous, packet in itertools.pairwise(packets):
        assert packet.sequence_number == (previous.sequence_number + 1) & 0xFFFF, "a packet was lost on 127.0.0.1"
    groups = [list(group) for _, group in itertools.groupby(packets, key=lambda packet: packet.timestamp)]
    if groups and not begins_frame(groups[0][0].payload, codec):
        del groups[0]
    if groups and not groups[-1][-1].marker:
        del groups[-1]
    return [b"".join(depayload(codec, packet.payload) for packet in group) for group in groups]


def begins_frame(payload: bytes, codec) -> bool:
    """Return True if a packet can be the first of a frame. Only packets of video can be another."""
    match codec.name:
        case "VP8":
            return bool(payload[0] & 0x10)  # S: the start of a partition (RFC 7741)
        case "H264":
            return payload[0] & 0x1F != 28 or bool(payload[1] & 0x80)  # S of a fragmentation unit (RFC 6184)
        case _:
            return True
