"""The gates of the hook. They wrap objects that a running call holds, so a later patch cannot bypass them.

A patch replaces a method of a class or a function of a module. A running call looks these up with each frame. It looks
up neither its SRTP session nor its decoder queue. The hook puts a gate around both when the stack assigns them:

* `OutgoingGate` wraps a transport's outgoing SRTP session. It passes RTP of an attached connection only if a sender of
  the connection sealed the payload.
* `IncomingGate` wraps a receiver's decoder queue. It returns the frames of an attached connection as `GuardedFrame`.
  Only the hook's own decoder proxy reads the bytes of a `GuardedFrame`.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from frameseal.aiortc.attachment import Attachment
from frameseal.aiortc.protocols import Codec, DecoderQueue, DecoderTask, JitterFrame, SrtpSession, Transport
from frameseal.aiortc.receivers import ReceiverSlot
from frameseal.aiortc.rule import process, report_unattached
from frameseal.aiortc.slots import SLOT
from frameseal.codecs.rtp import media_type

__all__ = ["GatedAttribute", "IncomingGate", "OutgoingGate", "GuardedFrame"]

RTP_HEADER_LEN = 12  # RFC 3550 section 5.1

OwnerT = TypeVar("OwnerT")
ValueT = TypeVar("ValueT")


class Connections(Protocol):
    """The functions of a stack that `OutgoingGate` needs."""

    @property
    def generation(self) -> int:
        """The number of attachments so far. "Not attached" may be cached until it changes."""

    @property
    def is_rtcp(self) -> Callable[[bytes], bool]:
        """The function of the stack that distinguishes RTCP from RTP (RFC 5761 section 4)."""

    def attachment_of_transport(self, transport: Transport | None) -> Attachment | None:
        """Return the attachment of the connection that a transport belongs to, or None if it is not attached."""

    def adopt_members_of(self, transport: Transport | None) -> None:
        """Cover the senders and receivers of a transport's connection."""


class GatedAttribute(Generic[OwnerT, ValueT]):
    """A class attribute that puts a gate around each value that is assigned to it on an instance.

    It has no ``__get__``, so reading the attribute returns the instance's value without a call.
    """

    def __init__(self, name: str, gate: Callable[[OwnerT, ValueT], object]) -> None:
        self._name = name
        self._gate = gate

    def __set__(self, owner: OwnerT, value: ValueT | None) -> None:
        vars(owner)[self._name] = None if value is None else self._gate(owner, value)

    def __delete__(self, owner: OwnerT) -> None:
        del vars(owner)[self._name]


class OutgoingGate:
    """Guards the outgoing SRTP session of one transport."""

    def __init__(self, session: SrtpSession, transport: Transport, stack: Connections) -> None:
        self._session = session
        self._transport = weakref.ref(transport)
        self._stack = stack
        self._attachment: Attachment | None = None
        self._generation = -1  # of the stack, when the attachment was looked up
        self._admitted: bytes | None = None

    @classmethod
    def around(cls, session: SrtpSession, transport: Transport, stack: Connections) -> OutgoingGate:
        """Return a gate around *session*, and put `send` in place of the transport's ``_send_rtp`` once."""
        present = vars(transport).get("_tx_srtp")
        gate = present if isinstance(present, cls) else cls(session, transport, stack)
        vars(transport).setdefault("_send_rtp", gate.send)
        if session is not gate:
            gate._session = session
        return gate

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_session"], name)
        return found

    def protect(self, data: bytes) -> bytes:
        """Protect one RTP packet.

        :raises ConnectionError: no sender of the connection sealed its payload. The stack then ends the sender's task.
        """
        passed = data if data is self._admitted else self._admitted_part(data)
        if passed is None:
            raise ConnectionError("refused an RTP packet: its payload was not sealed")
        return self._session.protect(passed)

    def protect_rtcp(self, data: bytes) -> bytes:
        """Protect one RTCP packet.

        :raises ConnectionError: *data* is RTP. An SRTP session would encrypt it as RTCP without a check.
        """
        if not self._stack.is_rtcp(data):
            raise ConnectionError("refused an RTP packet that was sent as RTCP")
        return self._session.protect_rtcp(data)

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a packet as the transport's ``_send_rtp``. Drop the packet that `protect` would refuse with an error."""
        transport, attachment = self._transport(), self._attachment
        passed: bytes | None = data
        if attachment is None or self._generation != self._stack.generation or not attachment.has_sealed(data):
            passed = data if self._stack.is_rtcp(data) else self._admitted_part(data)
        if transport is None or passed is None:
            return _nothing()
        self._admitted = passed  # `protect` passes the same object without a second check
        return type(transport)._send_rtp(transport, passed)

    def _admitted_part(self, data: bytes) -> bytes | None:
        """Return the part of an RTP packet that may be sent: all of it, or the header.

        Returns None if nothing may be sent. The header alone avoids a gap in the sequence numbers.
        """
        attachment = self._attachment if self._generation == self._stack.generation else self._find_attachment()
        if attachment is None:
            return self._unattached_part(data)
        if len(data) < RTP_HEADER_LEN:  # shorter data is no RTP, and SRTP refuses it
            return data
        if attachment.has_sealed(data):
            return data
        start = payload_start(data)
        if start >= len(data):
            return data
        self._stack.adopt_members_of(self._transport())
        return data[:start] if attachment.predates_attachment(data) else None

    def _unattached_part(self, data: bytes) -> bytes | None:
        """Return an RTP packet of an unattached connection, or None after `require_attached`."""
        if not process.attached_only:
            return data
        transport = self._transport()
        if transport is not None:
            report_unattached(transport)
        return None

    def _find_attachment(self) -> Attachment | None:
        # A connection has its transports before any packet passes them. The result holds until another connection is
        # attached.
        self._generation = self._stack.generation
        self._attachment = self._stack.attachment_of_transport(self._transport())
        return self._attachment


class GuardedFrame:
    """A received frame between the decoder queue and the decoder proxy. Every other decoder finds it empty."""

    __slots__ = ("_codec", "_frame", "_slot")

    def __init__(self, frame: JitterFrame, codec: Codec, slot: ReceiverSlot) -> None:
        self._frame = frame
        self._codec = codec
        self._slot = slot

    @property
    def timestamp(self) -> int:
        """The RTP timestamp of the frame, which the receiver has re-based."""
        return self._frame.timestamp

    @property
    def data(self) -> bytes:
        """Return no bytes, and close the track: only a decoder that is not the hook's reads them."""
        self._slot.check_decoder(media_type(self._codec.mimeType))
        return b""

    def unwrap(self) -> JitterFrame:
        """Return the frame as it arrived. For the decoder proxy."""
        return self._frame


GatedTask = tuple[Codec, "JitterFrame | GuardedFrame"]


class IncomingGate:
    """Guards the decoder queue of one receiver."""

    def __init__(self, queue: DecoderQueue, slot: ReceiverSlot) -> None:
        self._queue = queue
        self._slot = slot
        slot.decoder_queue = queue
        self._tagged: dict[str, Codec] = {}

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_queue"], name)
        return found

    def put(self, task: DecoderTask | None, *args: object, **options: object) -> None:
        """Queue a codec and its frame, or None at the end. Call it on the event loop."""
        if self._slot.admits(task) and self._slot.record(task):
            self._queue.put(task, *args, **options)

    def put_nowait(self, task: DecoderTask | None) -> None:
        """Do the same as `put`, since the queue has no maximum length."""
        self.put(task)

    def get(self, *args: object, **options: object) -> GatedTask | None:
        """Wait for a codec and its frame. Runs in the decoder thread. None means the end."""
        while True:
            task = self._queue.get(*args, **options)
            if task is None or not self._slot.refused:
                return self._sealed(task)

    def get_nowait(self) -> GatedTask | None:
        """Return a codec and its frame. None means the end.

        :raises queue.Empty: the queue is empty.
        """
        while True:
            task = self._queue.get_nowait()
            if task is None or not self._slot.refused:
                return self._sealed(task)

    def _sealed(self, task: DecoderTask | None) -> GatedTask | None:
        slot = self._slot
        if slot.closed:
            return None
        if task is None:
            slot.end()
            return None
        if slot.encryption is None:
            return task
        codec, frame = task
        # Tag the codec here if other code replaced receive(), which tags it otherwise.
        if getattr(codec, SLOT, None) is not slot:
            codec = self._tagged.setdefault(codec.mimeType, copy.copy(codec))
            setattr(codec, SLOT, slot)
        return codec, GuardedFrame(frame, codec, slot)


async def _nothing() -> None:
    """Return at once, in place of sending a packet."""


def payload_start(data: bytes) -> int:
    """Return the offset of the payload in an RTP packet (RFC 3550 sections 5.1 and 5.3.1)."""
    start = RTP_HEADER_LEN + 4 * (data[0] & 0x0F)
    if data[0] & 0x10:
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    return start
