"""Protocols for the parts of a stack that the hook uses. aiortc and vsaiortc both satisfy them.

`Stack` tests the private names at run time, before it changes anything.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Protocol

__all__ = [
    "Codec",
    "Decoder",
    "DecoderQueue",
    "DecoderTask",
    "EncodedFrame",
    "Encoder",
    "Encoding",
    "FrameQueue",
    "JitterFrame",
    "Member",
    "NextFrame",
    "Packet",
    "Parameters",
    "PeerConnection",
    "Receiver",
    "ReceiverTrack",
    "Sender",
    "SrtpSession",
    "StackFunctions",
    "SynchronizationSource",
    "Track",
    "Transceiver",
    "Transport",
]


class Codec(Protocol):
    """An ``RTCRtpCodecParameters``."""

    @property
    def mimeType(self) -> str:
        """The media type, such as "video/VP8"."""

    @property
    def clockRate(self) -> int:
        """Ticks per second of the RTP clock."""

    @property
    def payloadType(self) -> int:
        """The RTP payload type, 0 to 127."""

    @property
    def parameters(self) -> Mapping[str, object]:
        """The format parameters."""


class Packet(Protocol):
    """A packet of PyAV: one encoded frame."""


class Encoder(Protocol):
    """An encoder of the stack. It also packetizes."""

    def encode(self, frame: object, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Encode a raw frame. Returns its RTP payloads and their timestamp."""

    def pack(self, packet: Packet) -> tuple[list[bytes], int]:
        """Packetize an encoded frame. Returns its RTP payloads and their timestamp."""


class JitterFrame(Protocol):
    """A received encoded frame."""

    data: bytes

    @property
    def timestamp(self) -> int:
        """The RTP timestamp, which the receiver has re-based."""


class Decoder(Protocol):
    """A decoder of the stack."""

    def decode(self, encoded_frame: JitterFrame) -> list[object]:
        """Decode one encoded frame. Returns its raw frames."""


class EncodedFrame(Protocol):
    """An ``RTCEncodedFrame``: the payloads that a sender sends under one timestamp."""

    payloads: Sequence[bytes]
    timestamp: int


NextFrame = Callable[[Codec], Awaitable[EncodedFrame | None]]
"""``RTCRtpSender._next_encoded_frame``, bound. It returns None if there is nothing to send."""

DecoderTask = tuple[Codec, JitterFrame]
"""An item of a decoder queue. The queue has None as its last item."""


class DecoderQueue(Protocol):
    """A ``queue.Queue`` between a receiver and its decoder thread."""

    def put(self, task: DecoderTask | None, *args: object, **options: object) -> None:
        """Add an item."""

    def get(self, *args: object, **options: object) -> DecoderTask | None:
        """Wait for an item."""

    def get_nowait(self) -> DecoderTask | None:
        """Return an item.

        :raises queue.Empty: the queue is empty.
        """


class SrtpSession(Protocol):
    """An outgoing SRTP session of pylibsrtp."""

    def protect(self, data: bytes) -> bytes:
        """Encrypt an RTP packet."""

    def protect_rtcp(self, data: bytes) -> bytes:
        """Encrypt an RTCP packet."""


class Transport(Protocol):
    """An ``RTCDtlsTransport``."""

    @property
    def state(self) -> str:
        """ "new" or "connecting" before any media, then "connected", "closed" or "failed"."""

    async def _send_rtp(self, data: bytes) -> None: ...


class Track(Protocol):
    """A ``MediaStreamTrack``."""

    @property
    def id(self) -> str:
        """The id of the track."""


class FrameQueue(Protocol):
    """The queue of decoded frames that a receiver's track is read from."""

    def put_nowait(self, frame: None) -> None:
        """Wake a reader, and report to it that the track has ended."""


class ReceiverTrack(Track, Protocol):
    """A ``RemoteStreamTrack``, which a receiver feeds."""

    @property
    def _queue(self) -> FrameQueue: ...

    def stop(self) -> None:
        """End the track."""


class Sender(Protocol):
    """An ``RTCRtpSender``."""

    @property
    def _ssrc(self) -> int: ...

    @property
    def _rtx_ssrc(self) -> int: ...

    @property
    def _enabled(self) -> bool: ...

    @property
    def track(self) -> Track | None:
        """The track that is sent."""

    @property
    def transport(self) -> Transport:
        """The transport that packets leave through."""

    def _send_keyframe(self) -> None: ...


class SynchronizationSource(Protocol):
    """An ``RTCRtpSynchronizationSource``."""

    @property
    def timestamp(self) -> datetime.datetime:
        """The time at which the latest packet arrived."""

    @property
    def source(self) -> int:
        """The SSRC."""


class RtpPacket(Protocol):
    """An ``RtpPacket`` that arrived, after SRTP."""

    @property
    def payload_type(self) -> int: ...

    @property
    def sequence_number(self) -> int: ...

    @property
    def timestamp(self) -> int: ...

    @property
    def ssrc(self) -> int: ...

    @property
    def payload(self) -> bytes: ...


class Receiver(Protocol):
    """An ``RTCRtpReceiver``."""

    @property
    def _enabled(self) -> bool: ...

    @property
    def track(self) -> Track | None:
        """The track that the receiver feeds."""

    @property
    def transport(self) -> Transport:
        """The transport that packets arrive through."""

    def getSynchronizationSources(self) -> Sequence[SynchronizationSource]:
        """Return the SSRCs of the last ten seconds, with the time of their latest packet."""

    def _send_rtcp_pli(self, media_ssrc: int) -> Coroutine[object, object, None]: ...


Member = Sender | Receiver
"""A sender or receiver of a connection."""


class Encoding(Protocol):
    """An ``RTCRtpDecodingParameters``."""

    @property
    def ssrc(self) -> int:
        """The SSRC that was announced for the stream."""


class Parameters(Protocol):
    """The ``RTCRtpSendParameters`` or ``RTCRtpReceiveParameters`` that media starts with."""

    codecs: list[Codec]

    @property
    def encodings(self) -> Sequence[Encoding]:
        """The streams that a receiver expects."""


class Transceiver(Protocol):
    """An ``RTCRtpTransceiver``."""

    @property
    def sender(self) -> Sender:
        """Its sender."""

    @property
    def receiver(self) -> Receiver:
        """Its receiver."""


class PeerConnection(Protocol):
    """An ``RTCPeerConnection``."""

    def getSenders(self) -> Sequence[Sender]:
        """Return the senders."""

    def getReceivers(self) -> Sequence[Receiver]:
        """Return the receivers."""


class StackFunctions(Protocol):
    """The functions of a stack that a slot uses."""

    @property
    def track_ended(self) -> type[Exception]:
        """The error that a frame source raises when its track has ended."""

    def adopt(self, owner: Member) -> None:
        """Cover a sender or receiver if its connection is attached."""

    def wire_timestamp(self, receiver: Receiver, timestamp: int) -> int | None:
        """Return the RTP timestamp of a frame as it arrived. None means that the receiver has delivered no frame.

        :param timestamp: the timestamp as the receiver has re-based it.
        """

    def history(self, sender: Sender) -> dict[int, object]:
        """Return the packets that a sender may send again."""

    def replaced_seams(self, owner: Member) -> str:
        """Name the functions on the way of the owner's frames that other code has replaced."""

    async def stop(self, owner: Member) -> None:
        """Stop a sender or receiver for good."""
