"""End-to-end encryption for pymediasoup (1.5), and for the copy of it inside VideoSDK's Python SDK.

A transport makes its peer connection at once. `attach` covers that connection before the transport produces or consumes
media. A sender starts inside ``produce()``, before the server has answered and a ``Producer`` exists. Code that waits
for the producer therefore sends unsealed frames. A sender outlives its producer, and stays covered.
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
"""The key in a producer's ``appData`` that tells others that it encrypts, as in VideoSDK's JavaScript SDK."""

_MEDIA: Final = "_frameseal_media"  # the attribute of a transport that holds its `_TransportMedia`

# The kinds of audio in pymediasoup and in VideoSDK's copy, in lower case. Every other kind is video.
_AUDIO: Final = frozenset({"audio", "shareaudio"})

# The parameter is Any, because applications annotate the Consumer of pymediasoup or of VideoSDK's copy.
ParticipantOf = Callable[[Any], str | None]


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
        """The data that the application's signalling attached to it."""


class Consumer(Stream, Protocol):
    """A ``Consumer`` of pymediasoup."""

    @property
    def closed(self) -> bool:
        """True after the consumer was closed."""


class Handler(Protocol):
    """The handler of a transport, which holds its peer connection."""

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
        """The handler, which holds the peer connection."""

    @property
    def observer(self) -> Observer:
        """Emits "newproducer", "newconsumer" and "close"."""

    produce: Callable[..., Awaitable[object]]
    """Makes a producer."""


def peer_id(consumer: Consumer) -> str | None:
    """Return ``appData["peerId"]`` of a consumer. None means that the consumer has no peer id."""
    return cast("str | None", cast("Mapping[str, object]", consumer.appData).get("peerId"))


def attach(
    transport: Transport,
    e2ee: E2EEManager,
    *,
    local_id: str,
    remote_id: str | ParticipantOf = peer_id,
) -> aiortc.Attachment:
    """Seal everything that *transport* produces and open everything that it consumes.

    Call it when the transport is made, before it produces or consumes. The attachment covers present producers and
    consumers too. So a transport can be attached again after ``detach()``, also to another manager. A producer or
    consumer that is closed is released with its state.

    Producers are marked ``isEncrypted`` in their appData. A consumer whose appData denies encryption is in the state
    InternalError, with the reason ``sender_not_encrypted``, until one of its frames opens. It plays nothing until then.

    :param transport: a ``Transport`` of pymediasoup, for sending or receiving.
    :param e2ee: the manager of the call, which has the keys and reports the states.
    :param local_id: the id of the participant whose key seals.
    :param remote_id: the id of the participant whose key opens, or a callable that returns the id for a ``Consumer``.
        The default returns ``appData["peerId"]``, where VideoSDK's SDK stores the id. While the callable returns None,
        the frames of the consumer are dropped. The bandwidth probes of mediasoup have a receiver without a consumer,
        and are dropped too.
    :raises RuntimeError: the transport is attached already.
    :raises TypeError: *transport* is no transport, *e2ee* is no manager, or an id is of another type.
    :raises UnsupportedStack: the installed aiortc or pymediasoup lacks a function that the adapter needs.
    """
    require("transport", transport, "produce", "a Transport of pymediasoup")
    if not callable(remote_id):
        require("remote_id", remote_id, str, "a str, or a callable that returns the participant id of a Consumer")
    if not all(isinstance(getattr(transport, name, None), dict) for name in ("_consumers", "_producers")):
        raise aiortc.UnsupportedStack(
            "transport lists no producers and consumers: install a supported version of pymediasoup (1.5)"
        )
    media: _TransportMedia = vars(transport).get(_MEDIA) or _TransportMedia(transport)
    participant_of: ParticipantOf = remote_id if callable(remote_id) else lambda consumer: remote_id
    of_receiver = functools.partial(media.participant_of, participant_of)
    attachment = aiortc.attach(transport.handler.pc, e2ee, local_id=local_id, remote_id=of_receiver)
    setattr(transport, _MEDIA, media)
    media.cover(attachment, e2ee, local_id, participant_of)
    return attachment


def end_consumers(transport: Transport) -> None:
    """Release everything that an attached transport consumes. For SDKs that drop consumers without closing them."""
    media: _TransportMedia = getattr(transport, _MEDIA)
    for consumer in list(transport._consumers.values()):
        media.release(consumer)


def media_kind(kind: str) -> Kind:
    """Return the kind of media of a producer's or consumer's kind. VideoSDK adds "share" and "shareAudio"."""
    return "audio" if kind.lower() in _AUDIO else "video"


class _TransportMedia:
    """The producers and consumers of one transport, and the attachment that covers them at present."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._ended: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._attachment: aiortc.Attachment | None = None
        self._e2ee: E2EEManager | None = None
        self._local_id = ""
        self._participant_of: ParticipantOf = lambda consumer: None

    def participant_of(self, participant_of: ParticipantOf, receiver: Receiver) -> str | None:
        """Return the participant of the latest open consumer of *receiver*. None means that no consumer is open."""
        # A consumer may lack its receiver, but always has its track.
        track = receiver.track
        consumers = [each for each in self._transport._consumers.values() if each.track is track]
        open_consumers = [each for each in consumers if not each.closed and each not in self._ended]
        return participant_of(open_consumers[-1]) if open_consumers else None

    def cover(
        self, attachment: aiortc.Attachment, e2ee: E2EEManager, local_id: str, participant_of: ParticipantOf
    ) -> None:
        """Cover the present and future producers and consumers of the transport."""
        is_first = self._attachment is None
        self._attachment, self._e2ee = attachment, e2ee
        self._local_id, self._participant_of = local_id, participant_of
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
        """Release the members and state of a producer or consumer that has ended. A second call does nothing."""
        if self._attachment is None or self._e2ee is None or stream in self._ended:
            return
        self._ended.add(stream)
        for member in self._members():
            if member in (getattr(stream, "rtpSender", None), getattr(stream, "rtpReceiver", None)) or (
                member.track is not None and member.track is stream.track
            ):
                self._attachment.release(member)
        name = self._local_id if hasattr(stream, "rtpSender") else self._participant_of(stream)
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
        """Report a consumer whose sender declares that it does not encrypt."""
        name = self._participant_of(consumer)
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
