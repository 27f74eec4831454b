"""Records the RTP packets that a LiveKit server forwards to a participant, and judges every payload."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from aiortc.codecs import depayload
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtpPacket
from aiortc.sdp import SessionDescription

from frameseal import Decryptor, FrameError, KeyRing


@dataclass
class Judged:
    """How many frames of which codec were sealed, were the server's own, or neither."""

    sealed: Counter = field(default_factory=Counter)
    of_server: Counter = field(default_factory=Counter)
    unsealed: list[tuple[str, bytes]] = field(default_factory=list)
    torn: int = 0
    """Frames of which a packet is missing. They were not judged."""


class Forwarded:
    """Records what reaches the connections of aiortc in this process, after SRTP and DTLS. A context manager."""

    def __init__(self) -> None:
        self._packets: list[tuple[RTCDtlsTransport, RtpPacket]] = []
        self._messages: list[tuple[RTCSctpTransport, bytes]] = []

    def __enter__(self) -> "Forwarded":
        handle = self._handle = RTCDtlsTransport._handle_rtp_data

        async def noted(transport, data: bytes, arrival_time_ms: int) -> None:
            self._packets.append((transport, RtpPacket.parse(data)))
            await handle(transport, data, arrival_time_ms=arrival_time_ms)

        receive = self._receive = RTCSctpTransport._receive

        async def received(transport, stream_id: int, pp_id: int, data: bytes) -> None:
            self._messages.append((transport, data))
            await receive(transport, stream_id, pp_id, data)

        RTCDtlsTransport._handle_rtp_data, RTCSctpTransport._receive = noted, received
        return self

    def __exit__(self, *exc) -> None:
        RTCDtlsTransport._handle_rtp_data, RTCSctpTransport._receive = self._handle, self._receive

    def messages(self, connection) -> list[bytes]:
        """Return the messages of data channels that reached a connection."""
        return [data for transport, data in self._messages if transport is connection.sctp]

    def key_ids(self, connection) -> set[int]:
        """Return the key ids of the latest frames of all tracks that reach a connection: the last byte of each."""
        latest: dict[int, bytes] = {}
        for packet, codec in self._reached(connection):
            if packet.marker or codec.mimeType.startswith("audio/"):
                latest[packet.ssrc] = packet.payload
        return {payload[-1] for payload in latest.values()}

    def _reached(self, connection) -> Iterator[tuple[RtpPacket, RTCRtpCodecParameters]]:
        """Yield the packets of a connection, each with its codec, without padding."""
        transports = {transceiver.receiver.transport for transceiver in connection.getTransceivers()}
        codecs = {
            codec.payloadType: codec
            for media in SessionDescription.parse(connection.remoteDescription.sdp).media
            for codec in media.rtp.codecs
        }
        for transport, packet in self._packets:
            if transport in transports and packet.payload:
                yield packet, codecs[packet.payload_type]

    def judge(self, connection, ring: KeyRing, trailer: bytes) -> Judged:
        """Open every frame that reached a connection with the keys of a ring.

        Packets without a payload are padding. A payload of an unknown type raises KeyError.
        """
        packets: dict[int, dict[int, tuple]] = {}  # SSRC -> sequence number -> codec and packet
        for packet, codec in self._reached(connection):
            assert not codec.name.lower().startswith(("rtx", "red", "ulpfec")), f"{codec.name} was not expected"
            packets.setdefault(packet.ssrc, {})[packet.sequence_number] = codec, packet
        judged = Judged()
        for stream in packets.values():
            _judge(stream, judged, ring, trailer)
        return judged


def _judge(stream: dict[int, tuple], judged: Judged, ring: KeyRing, trailer: bytes) -> None:
    pieces: list[bytes] = []
    previous, is_whole = None, True
    for number in _in_order(stream):
        codec, packet = stream[number]
        name = codec.name.lower()
        if packet.payload.endswith(trailer):
            # The trailer lies behind the payload, so an H.264 payload is whole without it only.
            blank = depayload(codec, packet.payload[: -len(trailer)]) + trailer
            Decryptor(ring, name, sif_trailer=trailer).decrypt(blank)  # raises for anything but a blank frame
            judged.of_server[name] += 1
            continue
        is_whole = is_whole and (not pieces or number == (previous + 1) % 65536)
        previous = number
        pieces.append(depayload(codec, packet.payload))
        if not (packet.marker or codec.mimeType.startswith("audio/")):
            continue
        frame = b"".join(pieces)
        pieces.clear()
        if not is_whole:
            judged.torn += 1
        else:
            try:
                Decryptor(ring, name).decrypt(frame)
                judged.sealed[name] += 1
            except FrameError:
                judged.unsealed.append((name, frame))
        is_whole = True


def _in_order(numbers) -> list[int]:
    """Return sequence numbers, which may wrap once, in order."""
    ordered = sorted(numbers)
    if ordered[-1] - ordered[0] > 32768:
        ordered.sort(key=lambda number: (number + 32768) % 65536)
    return ordered
