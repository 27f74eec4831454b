"""End-to-end encryption for pymediasoup (1.5), and for the copy of it inside VideoSDK's Python SDK.

A transport has one peer connection, made with it. `attach` covers that connection before anything is produced or
consumed: a sender starts inside ``produce()``, before the server has answered and a `Producer` exists, so whoever waits
for the producer lets frames out unsealed. Senders outlive their producer, and stay covered.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, cast

from frameseal import aiortc
from frameseal._secrecy import require
from frameseal.aiortc.protocols import Member, PeerConnection, Receiver, Track
from frameseal.e2ee.manager import E2EEManager
from frameseal.events import Kind

__all__ = ["attach"]

ENCRYPTED: Final = "isEncrypted"
"""The key in a producer's ``appData`` that says so to the others, as VideoSDK's JavaScript SDK has it."""

_MEDIA: Final = "_frameseal_media"  # set on transports


# How VideoSDK's copy of pymediasoup names the kinds of media, in lower case. Any other kind is video.
_AUDIO: Final = frozenset({"audio", "shareaudio"})

# The parameter is Any, because applications annotate the class of pymediasoup or that of VideoSDK's copy.
RemoteId = Callable[[Any], str | None]


class Observer(Protocol):
    """The event emitter of a transport, producer or consumer."""

    def on(self, event: str, f: Callable[..., object]) -> object:
        """Call *f* at each *event*."""


class Stream(Protocol):
    """A ``Producer`` or ``Consumer`` of pymediasoup."""

    @property
    def kind(self) -> str:
        """ "audio" or "video"; in VideoSDK's copy also "share" and "shareAudio"."""

    @property
    def track(self) -> Track:
        """The track that is sent or received."""

    @property
    def observer(self) -> Observer:
        """Emits "close"."""

    @property
    def appData(self) -> Mapping[str, object] | None:
        """What the application's signalling says of it."""


class Consumer(Stream, Protocol):
    """A ``Consumer`` of pymediasoup."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""


class Handler(Protocol):
    """What holds the peer connection of a transport."""

    @property
    def pc(self) -> PeerConnection:
        """The peer connection."""


class Transport(Protocol):
    """A ``Transport`` of pymediasoup."""

    @property
    def _consumers(self) -> Mapping[str, Consumer]: ...

    @property
    def _producers(self) -> Mapping[str, Stream]: ...

    @property
    def handler(self) -> Handler:
        """What holds the peer connection."""

    @property
    def observer(self) -> Observer:
        """Emits "newproducer", "newconsumer" and "close"."""

    produce: Callable[..., Awaitable[object]]
    """Makes a producer."""


def peer_id(consumer: Consumer) -> str | None:
    """Return ``appData["peerId"]`` of a consumer, or None if it has none."""
    return cast("str | None", cast("Mapping[str, object]", consumer.appData).get("peerId"))


def attach(
    transport: Transport,
    e2ee: E2EEManager,
    local_id: str,
    remote_id: RemoteId = peer_id,
) -> aiortc.Attachment:
    """Seal everything that *transport* produces and open everything that it consumes. Right after it was made.

    What the transport produces and consumes already is covered too, so a transport whose attachment was detached can
    be attached again, to another manager as well.

    :param transport: a ``Transport`` of pymediasoup, for sending or receiving.
    :param local_id: this side's participant id.
    :param remote_id: names the participant behind a ``Consumer``; by default ``appData["peerId"]``. Frames of one
        without a name are dropped, and so are the bandwidth probes that mediasoup sends to a receiver of their own.
    :raises RuntimeError: the transport is attached already.
    :raises TypeError: no transport, or *e2ee* no manager.
    :raises UnsupportedStack: the hook does not know the version of aiortc under it, or this module that of pymediasoup.

    Producers are marked ``isEncrypted`` in their appData. A consumer whose appData says that it is not encrypted is in
    the state InternalError (reason ``sender_not_encrypted``) until a frame of it opens after all; nothing of it is
    played in the clear. A producer or consumer that is closed is let go of, with its state.
    """
    require("transport", transport, "produce", "a Transport of pymediasoup")
    require("remote_id", remote_id, "__call__", "a function that names the participant behind a consumer")
    if not all(isinstance(getattr(transport, name, None), dict) for name in ("_consumers", "_producers")):
        raise aiortc.UnsupportedStack("this version of pymediasoup does not list its producers and consumers")
    media: _TransportMedia = vars(transport).get(_MEDIA) or _TransportMedia(transport)
    named = functools.partial(media.participant_of, remote_id)
    attachment = aiortc.attach(transport.handler.pc, e2ee, local_id=local_id, remote_id=named)
    setattr(transport, _MEDIA, media)
    media.cover(attachment, e2ee, local_id, remote_id)
    return attachment


def end_consumers(transport: Transport) -> None:
    """Let go of everything that an attached transport consumes. For SDKs that drop consumers unclosed."""
    media: _TransportMedia = getattr(transport, _MEDIA)
    for consumer in list(transport._consumers.values()):
        media.release(consumer)


def media_kind(kind: str) -> Kind:
    """Return the kind of media of a producer or consumer; VideoSDK's may say "share" and "shareAudio"."""
    return "audio" if kind.lower() in _AUDIO else "video"


class _TransportMedia:
    """The producers and consumers of one transport, and the attachment that covers them now."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._ended: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._attachment: aiortc.Attachment | None = None
        self._e2ee: E2EEManager | None = None
        self._local_id = ""
        self._remote_id: RemoteId = lambda consumer: None

    def participant_of(self, remote_id: RemoteId, receiver: Receiver) -> str | None:
        """Name the participant whose media *receiver* has now: that of the latest consumer, if it is not closed."""
        # A consumer does not always know its receiver, but always its track.
        track = receiver.track
        consumers = [each for each in self._transport._consumers.values() if each.track is track]
        open_consumers = [each for each in consumers if not each.closed and each not in self._ended]
        return remote_id(open_consumers[-1]) if open_consumers else None

    def cover(self, attachment: aiortc.Attachment, e2ee: E2EEManager, local_id: str, remote_id: RemoteId) -> None:
        """Cover what the transport has, and whatever comes."""
        is_first = self._attachment is None
        self._attachment, self._e2ee, self._local_id, self._remote_id = attachment, e2ee, local_id, remote_id
        if is_first:
            self._mark_producers()
            for event, handler in (("newproducer", self._release_on_close), ("newconsumer", self._add_consumer)):
                self._transport.observer.on(event, handler)
            self._transport.observer.on("close", self._on_transport_closed)
            for producer in self._transport._producers.values():
                self._release_on_close(producer)
        for consumer in self._transport._consumers.values():
            self._add_consumer(consumer) if is_first else self._check_claim(consumer)

    def release(self, stream: Stream) -> None:
        """Let go of what belongs to a producer or consumer that has ended. Twice is once."""
        if self._attachment is None or self._e2ee is None or stream in self._ended:
            return
        self._ended.add(stream)
        for member in self._members():
            if member in (getattr(stream, "rtpSender", None), getattr(stream, "rtpReceiver", None)) or (
                member.track is not None and member.track is stream.track
            ):
                self._attachment.release(member)
        name = self._local_id if hasattr(stream, "rtpSender") else self._remote_id(stream)
        if name is not None:
            self._e2ee.remove_track(name, media_kind(stream.kind), track_id=stream.track.id)

    def _members(self) -> list[Member]:
        pc = self._transport.handler.pc
        return [*pc.getSenders(), *pc.getReceivers()]

    def _mark_producers(self) -> None:
        produce = self._transport.produce

        @functools.wraps(produce)
        async def marked_produce(*args: object, **options: object) -> object:
            app_data = cast("Mapping[str, object] | None", options.get("appData"))
            options["appData"] = {**(app_data or {}), ENCRYPTED: True}
            return await produce(*args, **options)

        self._transport.produce = marked_produce

    def _release_on_close(self, stream: Stream) -> None:
        stream.observer.on("close", functools.partial(self.release, stream))

    def _add_consumer(self, consumer: Consumer) -> None:
        self._release_on_close(consumer)
        self._check_claim(consumer)

    def _check_claim(self, consumer: Consumer) -> None:
        """Report a consumer whose sender says that it does not encrypt."""
        name = self._remote_id(consumer)
        is_open = not consumer.closed and consumer not in self._ended
        if (
            self._e2ee is not None
            and name is not None
            and is_open
            and not (consumer.appData or {}).get(ENCRYPTED, True)
        ):
            self._e2ee.report_not_encrypted(name, media_kind(consumer.kind), track_id=consumer.track.id)

    def _on_transport_closed(self) -> None:
        if self._attachment is not None:
            self._attachment.detach()
            for member in self._members():
                self._attachment.release(member)
