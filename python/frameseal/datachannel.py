"""A data channel whose messages are sealed: `wrap` puts it around an `RTCDataChannel` of aiortc, or one like it.

Each message is one packet of `DataCryptor.encrypt_packet`; inside it, a byte tells text from bytes, so that a forwarder
can change neither. See docs/guide/data-packets.md.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from pyee.asyncio import AsyncIOEventEmitter

from frameseal._fork import renew_in_child
from frameseal._native import DataCryptor
from frameseal._secrecy import Confidential, require, utf8
from frameseal.exceptions import FrameError, MalformedFrame

_BINARY: Final = b"\x00"
_TEXT: Final = b"\x01"
_CONTEXT: Final = b"frameseal data channel v1"
_OUTGOING: Final = "_frameseal_outgoing"  # set on channels that are wrapped: the latest message, sealed

_logger = logging.getLogger("frameseal")


class DataChannel(Protocol):
    """What is needed of a data channel: `RTCDataChannel` of aiortc has it."""

    @property
    def label(self) -> str:
        """The channel's name, the same at both ends."""

    @property
    def readyState(self) -> str:
        """One of "connecting", "open", "closing", "closed"."""

    @property
    def bufferedAmount(self) -> int:
        """Bytes queued for sending."""

    def send(self, data: bytes | str) -> None:
        """Send a message."""

    def close(self) -> None:
        """Close the channel."""

    def on(self, event: str, f: Callable[..., object]) -> object:
        """Call *f* at each *event*."""


class SealedDataChannel(Confidential, AsyncIOEventEmitter):
    """A data channel that sends and receives sealed messages only. Made by `wrap`.

    Events are those of the channel, with opened messages: "open", "close", "bufferedamountlow", and

    * "message": one str or bytes, as it was sent;
    * "message-refused": one `FrameError`, for a message that was in the clear, replayed, or did not open. It was
      dropped.

    What a listener raises is logged, not passed on into the transport.
    """

    _lock: threading.Lock  # pyee's own

    def __init__(
        self, channel: DataChannel, cryptor: DataCryptor, opener: DataCryptor, local_id: str, remote_id: str
    ) -> None:
        """Listen to the channel."""
        require("channel", channel, "readyState", "a data channel")
        require("cryptor", cryptor, DataCryptor, "a DataCryptor")
        require("opener", opener, DataCryptor, "a DataCryptor")
        super().__init__()
        renew_in_child(self, _lock=threading.Lock)
        self.channel: Final = channel
        self._note(None)
        self._cryptor = cryptor
        self._opener = opener
        bound = cryptor.bind_context
        self._outgoing = _context("local_id", channel.label, local_id) if bound else b""
        self._incoming = _context("remote_id", channel.label, remote_id) if bound else b""
        self._refusing = False
        channel.on("message", self._received)
        channel.on("open", lambda: self._pass_on("open"))
        channel.on("close", self._closed)
        channel.on("bufferedamountlow", lambda: self._pass_on("bufferedamountlow"))

    @property
    def label(self) -> str:
        """The channel's name."""
        return self.channel.label

    @property
    def readyState(self) -> str:
        """One of "connecting", "open", "closing", "closed"."""
        return self.channel.readyState

    @property
    def bufferedAmount(self) -> int:
        """Bytes queued for sending; a message is some 30 longer than it was (docs/guide/data-packets.md)."""
        return self.channel.bufferedAmount

    def send(self, data: bytes | str) -> None:
        """Seal a message and send it.

        :raises UnknownKey: the ring's sending key has not been set. Nothing is sent, as with every error here.
        :raises KeyExhausted: the sending key has reached its limit.
        :raises TypeError: neither str nor bytes.
        :raises ValueError: a str with a lone surrogate.

        Beyond these, what the channel raises where it is not open.
        """
        if isinstance(data, str):
            message = _TEXT + utf8("the message", data)
        elif isinstance(data, bytes | bytearray | memoryview):
            message = _BINARY + data
        else:
            raise TypeError(f"a message is str or bytes, not {type(data).__name__}")
        packet = self._cryptor.encrypt_packet(message, self._outgoing)
        self._note(packet)
        self.channel.send(packet)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def _note(self, packet: bytes | None) -> None:
        with contextlib.suppress(AttributeError):  # a channel with slots: no stack that the hook is for has such
            setattr(self.channel, _OUTGOING, packet)

    def _received(self, data: bytes | str) -> None:
        try:
            message = self._open(data)
        except FrameError as error:
            if not self._refusing:  # once per run of them: whoever forwards messages could fill a log
                _logger.warning("%s refuses a message: %s", self, error)
            self._refusing = True
            self._pass_on("message-refused", error)
        else:
            self._refusing = False
            self._pass_on("message", message)

    def _open(self, data: bytes | str) -> bytes | str:
        if isinstance(data, str):
            raise MalformedFrame("a message in the clear")
        message = self._opener.decrypt_packet(data, self._incoming)
        kind, content = message[:1], message[1:]
        if kind == _BINARY:
            return content
        if kind == _TEXT:
            try:
                return content.decode()
            except UnicodeDecodeError:
                pass  # and raised below: a chained error would hold the message
        raise MalformedFrame("an authentic packet, but no message of a data channel")

    def _pass_on(self, event: str, *arguments: object) -> None:
        try:
            self.emit(event, *arguments)
        except Exception:
            _logger.exception("a listener of %r failed at %s", event, self)

    def _closed(self) -> None:
        self._pass_on("close")
        self.remove_all_listeners()

    def __repr__(self) -> str:
        """Say what it is. Not its label, which comes from the caller (`frameseal._secrecy`)."""
        return f"<{type(self).__name__}>"


def wrap(
    channel: DataChannel,
    cryptor: DataCryptor,
    *,
    opener: DataCryptor | None = None,
    local_id: str = "",
    remote_id: str = "",
) -> SealedDataChannel:
    """Put a sealed channel around *channel*, at once when it is made or announced, before messages can come.

    :param channel: an `RTCDataChannel`. Do not send on it afterwards.
    :param cryptor: may be shared by the channels of a connection; its ring may be that of the media.
    :param opener: opens what comes, where the other side seals with a key of its own; None: *cryptor* does both.
    :param local_id: who sends here, *remote_id* who sends there. With a cryptor that binds its context, a message opens
        in a channel of this label, and as one of this sender only. Without ids, whoever forwards messages can send them
        back to who sent them. Each side's local id is the other's remote id.
    """
    return SealedDataChannel(channel, cryptor, cryptor if opener is None else opener, local_id, remote_id)


def is_wrapped(channel: DataChannel) -> bool:
    """Whether `wrap` was called for *channel*."""
    return hasattr(channel, _OUTGOING)


def is_sealed(channel: DataChannel, data: bytes | str) -> bool:
    """Whether *data*, which is sent on *channel*, comes from what `wrap` has put around it."""
    return data is getattr(channel, _OUTGOING, None)


def _context(name: str, label: str, sender: str) -> bytes:
    parts = (_CONTEXT, utf8("the channel's label", label), utf8(name, sender))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
