"""Simulates a router of mediasoup for its client libraries, over real ICE, DTLS and SRTP. It has no key.

One `Endpoint` is one WebRtcTransport: an ICE-lite agent with aiortc's DTLS transport on top. ICE-lite (RFC 8445,
section 2.5) sends no checks, and so needs no credentials of the client. mediasoup's protocol does not carry them.
Every payload that arrives is recorded, since the operator of an SFU sees it.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aioice import stun
from aiortc import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport
from aiortc.rtp import RTCP_PSFB_PLI, RtcpPacket, RtcpPsfbPacket, RtpPacket

CODECS: list[dict[str, Any]] = [
    {"kind": "audio", "mimeType": "audio/opus", "preferredPayloadType": 100, "clockRate": 48000, "channels": 2},
    {
        "kind": "video",
        "mimeType": "video/VP8",
        "preferredPayloadType": 101,
        "clockRate": 90000,
        "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}],
    },
]
CAPABILITIES = {
    "codecs": [{"parameters": {}, "rtcpFeedback": [], **codec} for codec in CODECS],
    "headerExtensions": [],
}

_ssrcs = count(100_000)
_ids = count(1)


class IceLite(asyncio.DatagramProtocol):
    """Answers connectivity checks, and implements the RTCIceTransport that a DTLS transport needs."""

    role, state = "controlled", "completed"

    def __init__(self) -> None:
        self.ufrag, self.password = secrets.token_hex(4), secrets.token_hex(12)
        self.port = 0
        self._udp: Any = None
        self._peer: Any = None
        self._packets: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._checked = asyncio.Event()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._udp.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        if data[0] > 3:  # RFC 7983: not STUN
            self._packets.put_nowait(data)
            return
        check, key = stun.parse_message(data), self.password.encode()
        if check.message_class is stun.Class.REQUEST and check.check_message_integrity(key):
            answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction_id=check.transaction_id)
            answer.attributes["XOR-MAPPED-ADDRESS"] = address
            answer.add_message_integrity(key)
            self._udp.sendto(bytes(answer), address)
            self._peer = address
            self._checked.set()

    async def _recv(self) -> bytes:
        data = await self._packets.get()
        if data is None:
            raise ConnectionError
        return data

    async def _send(self, data: bytes) -> None:
        await self._checked.wait()
        if not self._udp.is_closing():
            self._udp.sendto(data, self._peer)

    async def stop(self) -> None:
        self._packets.put_nowait(None)
        self._checked.set()  # a waiting sender finds the socket closed
        self._udp.close()


@dataclass(eq=False)
class Produced:
    """A producer: one stream of one participant."""

    id: str
    peer_id: str
    kind: str
    app_data: dict[str, Any]
    ssrc: int
    payload_type: int
    endpoint: "Endpoint"
    consumed: "list[Consumed]" = field(default_factory=list)
    alter: Callable[[bytes], bytes] = field(default=lambda payload: payload)
    """Alters each RTP payload on its way to the consumers."""


@dataclass(eq=False)
class Consumed:
    """A consumer: a producer's stream on its way to one participant."""

    id: str
    producer: Produced
    endpoint: "Endpoint"
    ssrc: int
    resumed: bool = False

    @property
    def rtp_parameters(self) -> dict[str, Any]:
        codec = next(codec for codec in CODECS if codec["kind"] == self.producer.kind)
        known = {"mimeType", "clockRate", "channels"}
        return {
            "mid": str(self.ssrc),
            "codecs": [
                {
                    **{name: value for name, value in codec.items() if name in known},
                    "payloadType": codec["preferredPayloadType"],
                    "parameters": {},
                    "rtcpFeedback": codec.get("rtcpFeedback", []),
                }
            ],
            "headerExtensions": [],
            "encodings": [{"ssrc": self.ssrc}],
            "rtcp": {"cname": self.producer.peer_id, "reducedSize": True, "mux": True},
        }


class Endpoint:
    """One WebRtcTransport of one participant, in one direction."""

    def __init__(self) -> None:
        self.id = f"transport-{next(_ids)}"
        self.ice = IceLite()
        self.dtls = RTCDtlsTransport(self.ice, [RTCCertificate.generateCertificate()])
        self.dtls._handle_rtp_data = self._rtp
        self.dtls._handle_rtcp_data = self._rtcp
        self.produced: dict[int, Produced] = {}
        self.consumed: dict[int, Consumed] = {}
        self.payloads: list[bytes] = []

    async def parameters(self) -> dict[str, Any]:
        """Return the parameters that the client receives."""
        await self.ice.listen()
        prints = self.dtls.getLocalParameters().fingerprints
        candidate = {"foundation": "lite", "priority": 1, "ip": "127.0.0.1", "address": "127.0.0.1", "protocol": "udp"}
        return {
            "id": self.id,
            "iceParameters": {"usernameFragment": self.ice.ufrag, "password": self.ice.password, "iceLite": True},
            "iceCandidates": [{**candidate, "port": self.ice.port, "type": "host"}],
            "dtlsParameters": {
                "role": "auto",
                "fingerprints": [
                    {"algorithm": each.algorithm, "value": each.value} for each in prints if each.algorithm == "sha-256"
                ],
            },
            "sctpParameters": {"port": 5000, "OS": 1024, "MIS": 1024, "maxMessageSize": 262144},
        }

    def connect(self, parameters: dict[str, Any]) -> None:
        """Start DTLS with the client's parameters."""
        self.dtls._set_role("client" if parameters["role"] == "server" else "server")
        prints = [RTCDtlsFingerprint(each["algorithm"], each["value"]) for each in parameters["fingerprints"]]
        self._task = asyncio.ensure_future(self.dtls.start(RTCDtlsParameters(fingerprints=prints)))

    def produce(self, peer_id: str, kind: str, rtp: dict[str, Any], app_data: dict[str, Any]) -> Produced:
        codec, encoding = rtp["codecs"][0], rtp["encodings"][0]
        made = Produced(
            f"producer-{next(_ids)}", peer_id, kind, app_data or {}, encoding["ssrc"], codec["payloadType"], self
        )
        self.produced[made.ssrc] = made
        return made

    def consume(self, producer: Produced) -> Consumed:
        made = Consumed(f"consumer-{next(_ids)}", producer, self, next(_ssrcs))
        self.consumed[made.ssrc] = made
        producer.consumed.append(made)
        return made

    async def _rtp(self, data: bytes, arrival_time_ms: int) -> None:
        packet = RtpPacket.parse(data, self.dtls._rtp_header_extensions_map)
        producer = self.produced.get(packet.ssrc)
        if producer is None or packet.payload_type != producer.payload_type:
            if packet.payload:
                self.payloads.append(packet.payload)  # before the producer was announced, or a retransmission
            return
        self.payloads.append(packet.payload)
        for consumer in producer.consumed:
            if consumer.resumed and consumer.endpoint.dtls.state == "connected":
                on_its_way = RtpPacket(
                    payload_type=consumer.rtp_parameters["codecs"][0]["payloadType"],
                    marker=packet.marker,
                    sequence_number=packet.sequence_number,
                    timestamp=packet.timestamp,
                    ssrc=consumer.ssrc,
                    payload=producer.alter(packet.payload),
                )
                await consumer.endpoint.dtls._send_rtp(on_its_way.serialize())

    async def _rtcp(self, data: bytes) -> None:
        for packet in RtcpPacket.parse(data):
            if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_PLI:
                consumer = self.consumed.get(packet.media_ssrc)
                if consumer is not None:
                    await request_keyframe(consumer.producer)

    async def close(self) -> None:
        await self.dtls.stop()
        await self.ice.stop()


async def request_keyframe(producer: Produced) -> None:
    """Send a picture loss indication (RFC 4585, section 6.3.1) to the producer."""
    if producer.kind == "video" and producer.endpoint.dtls.state == "connected":
        pli = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=producer.ssrc)
        await producer.endpoint.dtls._send_rtp(bytes(pli))
