"""Warns of unwrapped data channels on attached connections, because their messages are in the clear.

The hook seals all media by itself. It seals a data channel only if the application sends on the channel that
`seal_data_channel` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import Callable
from typing import Protocol

from frameseal.aiortc.protocols import PeerConnection
from frameseal.datachannel import DataChannel, is_sealed, is_wrapped

__all__ = ["watch_channels"]

MAX_WARNINGS = 8  # per connection, because the other end can open any number of channels
_WARNINGS = "_frameseal_warnings"  # the attribute of connections that counts the warnings
MAX_LABEL_LEN = 64  # characters of a label in a log line

_logger = logging.getLogger("frameseal")


class StackChannel(DataChannel, Protocol):
    """An ``RTCDataChannel`` of the stack."""

    @property
    def transport(self) -> object:
        """The SCTP transport."""

    def emit(self, event: str, *args: object, **options: object) -> bool:
        """Call the listeners of *event*."""


def watch_channels(channel_class: type[StackChannel], connection_of: Callable[[object], PeerConnection | None]) -> None:
    """Check each message that a channel of this class sends or receives, until a warning about the channel is logged.

    :param connection_of: returns the attached connection of an SCTP transport. None means that it is not attached.
    """
    warned: weakref.WeakSet[StackChannel] = weakref.WeakSet()
    send, emit = channel_class.send, channel_class.emit

    def warn(channel: StackChannel) -> None:
        connection = connection_of(channel.transport)
        if connection is None or channel in warned:
            return
        warned.add(channel)
        count = vars(connection)[_WARNINGS] = vars(connection).get(_WARNINGS, 0) + 1
        if count <= MAX_WARNINGS:
            _logger.warning(
                "messages of the data channel %r are in the clear, although its connection is attached: wrap the "
                "channel when it is made or announced, sealed = frameseal.aiortc.seal_data_channel(channel, e2ee, "
                "local_id=..., remote_id=...), and use the sealed channel to send and listen",
                channel.label[:MAX_LABEL_LEN],
            )

    def warn_unless_wrapped(channel: StackChannel) -> None:
        if not is_wrapped(channel):
            warn(channel)

    @functools.wraps(send)
    def watched_send(channel: StackChannel, data: bytes | str) -> None:
        if not is_sealed(channel, data):
            warn(channel)
        send(channel, data)

    @functools.wraps(emit)
    def watched_emit(channel: StackChannel, event: str, *args: object, **options: object) -> bool:
        handled = emit(channel, event, *args, **options)
        if event == "message" and not is_wrapped(channel) and channel not in warned:
            # Check after the handlers that are scheduled now, because a coroutine handler may wrap the channel.
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().call_soon(warn_unless_wrapped, channel)
        return handled

    for name, watched in (("send", watched_send), ("emit", watched_emit)):
        setattr(channel_class, name, watched)
