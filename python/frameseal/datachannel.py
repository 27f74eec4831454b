"""A data channel whose messages are sealed. `wrap` puts it around an `RTCDataChannel` of aiortc, or a similar channel.

Each message is one packet of `DataCryptor.encrypt_packet`. The first byte inside the packet says whether the message is
text or bytes, so a forwarder can change neither. See docs/guide/data-packets.md.
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
_OUTGOING: Final = "_frameseal_outgoing"  # the attribute of a wrapped channel that holds its latest sealed message

_logger = logging.getLogger("frameseal")


class DataChannel(Protocol):
    """The parts of a data channel that `wrap` needs. `RTCDataChannel` of aiortc has them."""

    @property
    def label(self) -> str:
        """The name of the channel, equal at both ends."""

    @property
    def readyState(self) -> str:
        """The state: "connecting", "open", "closing" or "closed" (W3C WebRTC, RTCDataChannelState)."""

    @property
    def bufferedAmount(self) -> int:
        """The number of bytes queued for sending."""

    def send(self, data: bytes | str) -> None:
        """Send one message."""

    def close(self) -> None:
        """Close the channel."""

    def on(self, event: str, f: Callable[..., object]) -> object:
        """Call *f* at each *event*."""


class SealedDataChannel(Confidential, AsyncIOEventEmitter):
    """A data channel that sends and receives sealed messages only. `wrap` makes it.

    It emits the events "open", "close" and "bufferedamountlow" of the channel, and

    * "message" with the opened message, a str or bytes as it was sent;
    * "message-refused" with a `FrameError`. The message was in the clear, was replayed, or did not open, and was
      dropped.

    An exception of a listener is logged and does not reach the transport.
    """

    _lock: threading.Lock  # of pyee

    def __init__(
        self, channel: DataChannel, cryptor: DataCryptor, opener: DataCryptor, local_id: str, remote_id: str
    ) -> None:
        """Listen to the channel. Use `wrap`."""
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
        """The name of the channel."""
        return self.channel.label

    @property
    def readyState(self) -> str:
        """The state: "connecting", "open", "closing" or "closed" (W3C WebRTC, RTCDataChannelState)."""
        return self.channel.readyState

    @property
    def bufferedAmount(self) -> int:
        """The number of bytes queued for sending. Sealing adds some 30 to each message (docs/guide/data-packets.md)."""
        return self.channel.bufferedAmount

    def send(self, data: bytes | str) -> None:
        """Seal one message and send it. After an error nothing was sent.

        The channel may raise an error of its own if it is not open.

        :raises UnknownKey: the ring has no sending key.
        :raises KeyExhausted: the sending key has reached its limit.
        :raises TypeError: *data* is neither str nor bytes.
        :raises ValueError: *data* is a str with a lone surrogate.
        """
        if isinstance(data, str):
            message = _TEXT + utf8("data", data)
        elif isinstance(data, bytes | bytearray | memoryview):
            message = _BINARY + data
        else:
            raise TypeError(f"data must be str or bytes, not {type(data).__name__}")
        packet = self._cryptor.encrypt_packet(message, self._outgoing)
        self._note(packet)
        self.channel.send(packet)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def _note(self, packet: bytes | None) -> None:
        with contextlib.suppress(AttributeError):  # a channel with __slots__, which no supported stack has
            setattr(self.channel, _OUTGOING, packet)

    def _received(self, data: bytes | str) -> None:
        try:
            message = self._open(data)
        except FrameError as error:
            if not self._refusing:  # once per series of refused messages: a forwarder could fill the log
                _logger.warning("%s refused a message: %s", self, error)
            self._refusing = True
            self._pass_on("message-refused", error)
        else:
            self._refusing = False
            self._pass_on("message", message)

    def _open(self, data: bytes | str) -> bytes | str:
        if isinstance(data, str):
            raise MalformedFrame("the message is in the clear")
        message = self._opener.decrypt_packet(data, self._incoming)
        kind, content = message[:1], message[1:]
        if kind == _BINARY:
            return content
        if kind == _TEXT:
            try:
                return content.decode()
            except UnicodeDecodeError:
                pass  # raise below, because a chained error would hold the message
        raise MalformedFrame("the packet is authentic, but holds no message of a data channel")

    def _pass_on(self, event: str, *arguments: object) -> None:
        try:
            self.emit(event, *arguments)
        except Exception:
            _logger.exception("a listener of %r of %s failed", event, self)

    def _closed(self) -> None:
        self._pass_on("close")
        self.remove_all_listeners()

    def __repr__(self) -> str:
        """Return the name of the class. The label is left out, because the caller chose it (`frameseal._secrecy`)."""
        return f"<{type(self).__name__}>"


def wrap(
    channel: DataChannel,
    cryptor: DataCryptor,
    *,
    opener: DataCryptor | None = None,
    local_id: str = "",
    remote_id: str = "",
) -> SealedDataChannel:
    """Return a sealed channel around *channel*. Call it when the channel is made or announced, before messages arrive.

    With a cryptor that binds its context, a message opens only in a channel of the same label. It opens only as a
    message of its sender. Without ids, a forwarder can return messages to their sender.

    :param channel: an `RTCDataChannel`. Do not send on it afterwards.
    :param cryptor: seals the messages. The channels of a connection may share it, and the media may share its ring.
    :param opener: opens the messages if the other side seals with a key of its own. None means that *cryptor* opens
        them too.
    :param local_id: the id of the participant who sends here. It is the remote id of the other side.
    :param remote_id: the id of the participant who sends at the other side.
    :raises TypeError: an argument is of another type.
    :raises ValueError: the label or an id has a lone surrogate.
    """
    return SealedDataChannel(channel, cryptor, cryptor if opener is None else opener, local_id, remote_id)


def is_wrapped(channel: DataChannel) -> bool:
    """Return whether `wrap` was called for *channel*."""
    return hasattr(channel, _OUTGOING)


def mark_sealed(channel: DataChannel, data: bytes | str | None = None) -> None:
    """Mark *channel* as sealed by an adapter with a packet format of its own, so that no warning is logged.

    :param data: the sealed message that is sent next.
    """
    setattr(channel, _OUTGOING, data)


def is_sealed(channel: DataChannel, data: bytes | str) -> bool:
    """Return whether *data*, which is sent on *channel*, is the latest message that its sealed channel sealed."""
    return data is getattr(channel, _OUTGOING, None)


def _context(name: str, label: str, sender: str) -> bytes:
    parts = (_CONTEXT, utf8("label", label), utf8(name, sender))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
