"""Sealed data messages of a LiveKit room: user packets within LiveKit's encrypted packets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError
from livekit.protocol import models

from frameseal._native import DataCryptor
from frameseal._secrecy import require, utf8
from frameseal.e2ee.manager import E2EEManager
from frameseal.exceptions import FrameError, MalformedFrame

__all__ = ["MAX_DATA_BYTES", "DataMessage", "DataMessages", "DataRefused", "checked"]

MAX_DATA_BYTES: Final = 15 * 1024  # of one message, the limit of LiveKit's clients
MAX_DATA_SENDERS: Final = 1024  # each has a cipher and a replay window, kept while the room is joined


@dataclass(frozen=True)
class DataMessage:
    """A sealed data message that has opened."""

    participant_id: str
    """The identity of the sender. A server can present a message of another holder of the same key."""
    payload: bytes = field(repr=False)
    """The content."""
    topic: str
    """The topic, which was sealed with the content."""


@dataclass(frozen=True)
class DataRefused:
    """A data message that was dropped: it was in the clear, was replayed, or did not open."""

    participant_id: str
    """The identity of the sender, according to the server."""
    error: FrameError
    """The reason."""


class DataMessages:
    """Seals and opens the messages of a room. It outlives reconnections, so no message opens twice.

    :param is_present: returns whether an identity is in the room.
    :param deliver: delivers an event of the room.
    """

    def __init__(
        self, e2ee: E2EEManager, is_present: Callable[[str], bool], deliver: Callable[[str, object], None]
    ) -> None:
        self._e2ee, self._is_present, self._deliver = e2ee, is_present, deliver
        self._sealer: DataCryptor | None = None
        self._openers: dict[str, DataCryptor] = {}

    def seal(self, sender: str, content: bytes, *, topic: str, reliable: bool, to: list[str]) -> bytes:
        """Return a packet with the content, sealed."""
        inner = models.EncryptedPacketPayload(user=models.UserPacket(payload=content, topic=topic))
        if self._sealer is None:
            self._sealer = self._cryptor(sender)
        iv, key_index, value = self._sealer.encrypt(inner.SerializeToString())
        sealed = models.EncryptedPacket(
            encryption_type=models.Encryption.Type.GCM, iv=iv, key_index=key_index, encrypted_value=value
        )
        kind = models.DataPacket.Kind.RELIABLE if reliable else models.DataPacket.Kind.LOSSY
        packet = models.DataPacket(kind=kind, destination_identities=to, encrypted_packet=sealed)
        return packet.SerializeToString()

    def receive(self, data: bytes | str) -> None:
        """Open a data packet. Only sealed user packets of known participants are delivered."""
        packet = models.DataPacket()
        try:
            packet = models.DataPacket.FromString(data if isinstance(data, bytes) else b"")
        except DecodeError:
            return
        sender = packet.participant_identity
        content = packet.WhichOneof("value")
        if content == "encrypted_packet":
            sealed = packet.encrypted_packet
            try:
                opened = self._opener(sender).decrypt(sealed.iv, sealed.key_index, sealed.encrypted_value)
                payload = models.EncryptedPacketPayload.FromString(opened)
            except FrameError as error:
                self._deliver("data-refused", DataRefused(sender, error))
            except (DecodeError, ValueError, OverflowError):
                self._deliver("data-refused", DataRefused(sender, MalformedFrame("the content is no payload")))
            else:
                if payload.WhichOneof("value") == "user":
                    self._deliver("data", DataMessage(sender, payload.user.payload, payload.user.topic))
        elif content == "user":
            self._deliver("data-refused", DataRefused(sender, MalformedFrame("the message is in the clear")))

    def _opener(self, sender: str) -> DataCryptor:
        # Kept when a participant leaves: with a new one, a server could replay messages after a feigned return.
        opener = self._openers.get(sender)
        if opener is None:
            if not self._is_present(sender) or len(self._openers) >= MAX_DATA_SENDERS:
                raise MalformedFrame("the sender is not in the room, or is one of too many")
            opener = self._openers[sender] = self._cryptor(sender)
        return opener

    def _cryptor(self, participant_id: str) -> DataCryptor:
        return DataCryptor(self._e2ee.provider.ring_for(self._e2ee.profile, participant_id))


def checked(payload: bytes, topic: str, to: Iterable[str]) -> tuple[bytes, list[str]]:
    """Return the content and the receivers of a message.

    :raises TypeError: an argument has the wrong type.
    :raises ValueError: *payload* is too long, or a text has a lone surrogate.
    """
    require("payload", payload, (bytes, bytearray, memoryview), "bytes")
    utf8("topic", topic)
    if isinstance(to, str):
        raise TypeError("to must be an iterable of identities, not one str")
    receivers = list(to)
    for receiver in receivers:
        utf8("to", receiver)
    content = bytes(payload)
    if len(content) > MAX_DATA_BYTES:
        raise ValueError(f"payload must have at most {MAX_DATA_BYTES} bytes, not {len(content)}")
    return content, receivers
