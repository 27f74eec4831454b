"""The hook: end-to-end encryption for the calls of aiortc (1.9 and later) and of its fork vsaiortc.

How it gets between codec and packetizer without touching a private attribute of the stack:

* *factories*: a stack makes encoders and decoders through one module-level function each, ``get_encoder`` and
  ``get_decoder``. These are wrapped to return proxies that seal after encoding and open before decoding.
* *tag*: a factory is told the codec, but not whose. So ``RTCRtpSender.send`` and ``RTCRtpReceiver.receive`` hand on
  copies of the codecs that carry a reference to the sender's or receiver's slot.
* *guard*: other libraries put in encoders of their own. What a sender's ``_next_encoded_frame`` returns is sealed
  there, or dropped, unless the proxy sealed it.

``depayload`` is wrapped too, to note how received frames begin: one that has lost its head is no sign of a wrong key.

The IV travels in the frame and never comes from RTP: a sender does not know the RTP timestamp that goes out, and a
receiver re-bases it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from frameseal._native import DataCryptor
from frameseal._rtc_proxies import NEXT_FRAME, Guard, OpeningDecoder, SealingEncoder
from frameseal._rtc_track import CLOCK, ReceiverSlot, SenderSlot, Slot, TrackCounters
from frameseal.datachannel import DataChannel, SealedDataChannel, wrap
from frameseal.e2ee import E2EEManager, ReceiverTransform, SenderTransform

__all__ = ["attach", "seal_data_channel", "Attachment", "TrackCounters", "UnsupportedStack"]

RemoteId = str | Callable[[Any], str | None]

_SLOT = "_frameseal_slot"  # set on senders, receivers and our copies of codecs
_ATTACHMENT = "_frameseal_attachment"  # set on peer connections

# Weak, and the attachment hangs on its connection: a `remote_id` callable may well refer to the connection, and a
# registry that owned both would keep the call alive for ever.
_attached: weakref.WeakSet[Any] = weakref.WeakSet()
_stacks: dict[str, Stack] = {}
_lock = threading.RLock()


class UnsupportedStack(RuntimeError):
    """This aiortc (or fork of it) is not built the way the hook needs; nothing was changed in it."""


def attach(pc: Any, e2ee: E2EEManager, local_id: str = "alice", remote_id: RemoteId = "bob") -> Attachment:
    """Seal everything that *pc* sends and open everything that it receives.

    Covers every sender and receiver of the connection, present and future, and fails closed: from here on no frame
    leaves unsealed and none that did not open reaches a decoder, whatever is missing.

    :param pc: an ``RTCPeerConnection`` of aiortc or vsaiortc.
    :param e2ee: where keys come from and states go to.
    :param local_id: the participant whose key seals.
    :param remote_id: the participant whose key opens; or a callable that names the participant behind an
        ``RTCRtpReceiver``. It is called on the event loop; while it answers None the receiver's frames are dropped
        quietly, and it is asked again.
    :raises RuntimeError: *pc* is attached already; or its media started before ``frameseal.aiortc`` was imported.
    :raises UnsupportedStack: the hook does not know this version of the stack.
    :raises TypeError: *pc* is not a peer connection, or *e2ee* no manager, such as the provider of its keys.
    """
    if not hasattr(e2ee, "receiver_transform"):
        raise TypeError(f"expected an E2EEManager, made with a provider of keys, got {type(e2ee).__name__}")
    stack = _install(_package_of(pc))
    stack.arm()
    attachment = Attachment(e2ee, local_id, remote_id)
    with _lock:
        present: Attachment | None = getattr(pc, _ATTACHMENT, None)
        if present is not None and not present.detached:
            raise RuntimeError("this peer connection is attached already; detach it first")
        members = [*pc.getSenders(), *pc.getReceivers()]
        for member in members:
            if _SLOT not in vars(member) and member.transport.state not in ("new", "connecting"):
                raise RuntimeError(
                    "media of this peer connection started before frameseal.aiortc was imported and can no longer "
                    "be sealed: import frameseal.aiortc before the call starts"
                )
        setattr(pc, _ATTACHMENT, attachment)
        _attached.add(pc)
    for member in members:
        attachment.adopt(stack.slot(member))
    return attachment


def seal_data_channel(
    channel: DataChannel, e2ee: E2EEManager, local_id: str = "alice", remote_id: str = "bob"
) -> SealedDataChannel:
    """Put a sealed channel around *channel*, with the keys that the call's media have. See docs/data-packets.md.

    Do it at once when the channel is made or announced, before messages can come, and send on what this returns. A
    message opens only in a channel of this label, and as one of the participant who sent it.
    """
    sealer, opener = (
        DataCryptor(e2ee.provider.ring_for(e2ee.profile, who), bind_context=True) for who in (local_id, remote_id)
    )
    return wrap(channel, sealer, opener=opener, local_id=local_id, remote_id=remote_id)


class Attachment:
    """The encryption of one peer connection, made by `attach`.

    It lives as long as the connection, whether or not a reference is kept.
    """

    def __init__(self, e2ee: E2EEManager, local_id: str, remote_id: RemoteId) -> None:
        """Use `attach`."""
        self._e2ee = e2ee
        self._local_id = local_id
        self._remote_id = remote_id
        self._detached = False
        self._slots: list[Slot] = []
        self._transforms: dict[tuple[Slot, str], SenderTransform | ReceiverTransform | None] = {}
        with contextlib.suppress(RuntimeError):  # no loop is running yet: send() or receive() will be inside one
            e2ee.bind_loop(asyncio.get_running_loop())

    @property
    def detached(self) -> bool:
        """Whether `detach` was called."""
        return self._detached

    def detach(self) -> None:
        """Stop sealing and opening, fail closed: from here on the connection neither sends nor decodes any media.

        There is no way back to unsealed media. `attach` the connection again to go on.
        """
        self._detached = True

    @property
    def counters(self) -> list[TrackCounters]:
        """A copy of the counters of every sender and receiver that was covered so far."""
        with _lock:
            return [replace(slot.counters) for slot in self._slots]

    def adopt(self, slot: Slot) -> None:
        """Cover *slot*. For the hook itself, on the event loop."""
        with _lock:
            if slot.attachment is not self:
                slot.counters.participant_id = None
                slot.attachment = self
                self._slots.append(slot)
        if slot.loop is not None:
            self._e2ee.bind_loop(slot.loop)
            self._identify(slot)

    def transform(self, slot: Slot, codec: Any) -> Any:
        """Return the slot's transform for *codec*; None means that its frames are dropped. For the hook itself."""
        kind, _, name = codec.mimeType.lower().partition("/")
        slot.counters.kind, slot.counters.codec = kind, name
        participant_id = slot.counters.participant_id
        if self._detached:
            return None
        if participant_id is None:
            if not slot.identifying:
                slot.identifying = True
                slot.on_loop(self._identify, slot)
            return None
        if (slot, name) not in self._transforms:
            # Made with the first frame, so that a receiver which never gets one (the bandwidth probe of a
            # mediasoup client is such a receiver) has no state.
            make = self._e2ee.sender_transform if slot.sends else self._e2ee.receiver_transform
            track = getattr(slot.owner(), "track", None)
            try:
                self._transforms[slot, name] = make(participant_id, kind, name, track_id=getattr(track, "id", None))
            except Exception as error:
                self._transforms[slot, name] = None
                self.refuse(slot, kind, error, "unsupported_codec")
        return self._transforms[slot, name]

    def refuse(self, slot: Slot, kind: str, error: Exception, reason: str) -> None:
        """Note and report that nothing can be done for this codec. For the hook itself."""
        slot.failed(error)
        self._e2ee.report_internal_error(slot.counters.participant_id or "", kind, reason)

    def _identify(self, slot: Slot) -> None:
        slot.identifying = False
        owner = slot.owner()
        if slot.attachment is not self or slot.counters.participant_id is not None or owner is None:
            return
        named = self._local_id if slot.sends else self._remote_id
        try:
            slot.counters.participant_id = named(owner) if callable(named) else named
        except Exception as error:
            slot.failed(error)


class Stack:
    """aiortc or vsaiortc, with the hook in it."""

    def __init__(self, package: str) -> None:
        """Test the stack's seams, then put the hook in. :raises UnsupportedStack: if one is not there."""
        self._wrapped: dict[str, Callable[..., Any]] = {}
        try:
            self._senders = importlib.import_module(f"{package}.rtcrtpsender")
            self._receivers = importlib.import_module(f"{package}.rtcrtpreceiver")
            self._codecs = importlib.import_module(f"{package}.codecs")
            self._parameters = importlib.import_module(f"{package}.rtcrtpparameters")
            self.av = importlib.import_module("av")
            self._self_test()
        except Exception as error:
            version = getattr(sys.modules.get(package), "__version__", "(unknown version)")
            raise UnsupportedStack(
                f"{package} {version} is not built the way frameseal's hook needs ({type(error).__name__}: {error}). "
                "Nothing was changed in it, and none of its connections can be attached"
            ) from error
        self._hook(self._senders.RTCRtpSender, "send")
        self._hook(self._receivers.RTCRtpReceiver, "receive")
        self.arm()

    def depayload(self, codec: Any, payload: bytes) -> bytes:
        """Strip the RTP payload descriptor."""
        # Looked up each time: code that registers a codec of its own replaces it.
        data: bytes = self._receivers.depayload(codec, payload)
        return data

    def packer(self, codec: Any) -> Any:
        """Make an encoder that will only ever pack."""
        return self._codecs.get_encoder(codec)

    def slot(self, owner: Any) -> Any:
        """Return the slot of a sender or receiver."""
        slot = vars(owner).get(_SLOT)
        if slot is None:
            make = SenderSlot if isinstance(owner, self._senders.RTCRtpSender) else ReceiverSlot
            slot = vars(owner).setdefault(_SLOT, make(owner, self))
        return slot

    def attachment_of(self, slot: Slot) -> Attachment | None:
        """Find the attachment of the connection that the slot's owner belongs to."""
        owner = slot.owner()
        with _lock:
            for pc in list(_attached):
                if any(member is owner for member in (pc.getSenders() if slot.sends else pc.getReceivers())):
                    attachment: Attachment = getattr(pc, _ATTACHMENT)
                    return attachment
        return None

    def arm(self, sender_class: Any = None) -> None:
        """Wrap what is not wrapped: other code may have replaced a factory or the method since the last time."""
        with _lock:
            self._wrap_factory(self._senders, "get_encoder", _sealing_encoder)
            self._wrap_factory(self._receivers, "get_decoder", _opening_decoder)
            self._watch_packets()
            sender_class = sender_class or self._senders.RTCRtpSender
            method = inspect.getattr_static(sender_class, NEXT_FRAME)
            if not isinstance(method, Guard):
                setattr(sender_class, NEXT_FRAME, Guard(method, self))

    def _wrap(self, module: ModuleType, name: str, wrap: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a function of the stack, unless it is ours already."""
        inner = getattr(module, name)
        if inner is not self._wrapped.get(name):
            self._wrapped[name] = functools.wraps(inner)(wrap(inner))
            setattr(module, name, self._wrapped[name])

    def _wrap_factory(self, module: ModuleType, name: str, proxy: Callable[[Any, Any, Any], Any]) -> None:
        def wrap(inner: Any) -> Callable[[Any], Any]:
            def factory(codec: Any) -> Any:
                slot = getattr(codec, _SLOT, None)
                return inner(codec) if slot is None else proxy(inner, codec, slot)

            return factory

        self._wrap(module, name, wrap)

    def _watch_packets(self) -> None:
        def wrap(inner: Any) -> Callable[[Any, bytes], bytes]:
            def depayload(codec: Any, payload: bytes) -> bytes:
                data: bytes = inner(codec, payload)
                slot = getattr(codec, _SLOT, None)
                if slot is not None and not slot.sends:
                    slot.note_packet(codec, payload, data)
                return data

            return depayload

        self._wrap(self._receivers, "depayload", wrap)

    def _hook(self, cls: Any, start: str) -> None:
        original_init, original_start = cls.__init__, getattr(cls, start)

        @functools.wraps(original_init)
        def init(owner: Any, *args: Any, **kwargs: Any) -> None:
            original_init(owner, *args, **kwargs)
            self.slot(owner)  # tells attach() that the owner did not start before the hook was in

        @functools.wraps(original_start)
        async def tagging_start(owner: Any, parameters: Any) -> None:
            slot = self.slot(owner)
            self.arm(type(owner) if slot.sends else None)
            slot.start()
            if not slot.sends:
                slot.ssrcs = frozenset(encoding.ssrc for encoding in parameters.encodings)
            tagged = copy.copy(parameters)
            tagged.codecs = [copy.copy(codec) for codec in parameters.codecs]
            for codec in tagged.codecs:
                setattr(codec, _SLOT, slot)
            await original_start(owner, tagged)

        cls.__init__ = init
        setattr(cls, start, tagging_start)

    def _self_test(self) -> None:
        """Raise anything if a seam is not as the hook expects it."""
        sender, receiver = self._senders.RTCRtpSender, self._receivers.RTCRtpReceiver
        for function, calls in (
            (sender._next_encoded_frame, "get_encoder"),
            (self._receivers.decoder_worker, "get_decoder"),
        ):
            if calls not in inspect.unwrap(function).__code__.co_names:
                raise LookupError(f"{function.__qualname__} does not call {calls}")
        for function, names in (
            (sender._next_encoded_frame, ["self", "codec"]),
            (sender._send_keyframe, ["self"]),
            (sender.send, ["self", "parameters"]),
            (self._senders.RTCEncodedFrame, ["payloads", "timestamp", "audio_level"]),
            (receiver._send_rtcp_pli, ["self", "media_ssrc"]),
            (receiver.getSynchronizationSources, ["self"]),
            (receiver.receive, ["self", "parameters"]),
        ):
            if list(inspect.signature(function).parameters) != names:
                raise LookupError(f"{function.__qualname__} does not take ({', '.join(names)})")
        for mime, frame in (
            ("video/VP8", bytes(range(256)) * 20),
            ("video/H264", b"\0\0\0\1\x67\x01\x02" + b"\0\0\0\1\x65" + bytes(range(1, 256)) * 20),
        ):
            codec = self._parameters.RTCRtpCodecParameters(mimeType=mime, clockRate=90000, payloadType=97)
            packet = self.av.Packet(frame)
            packet.pts, packet.time_base = 0, CLOCK
            payloads = self._codecs.get_encoder(codec).pack(packet)[0]
            if b"".join(self.depayload(codec, payload) for payload in payloads) != frame:
                raise LookupError(f"the payloads of {mime} do not add up to the frame")


def _sealing_encoder(inner: Callable[[Any], Any], codec: Any, slot: SenderSlot) -> Any:
    encoder = inner(codec)
    return encoder if isinstance(encoder, SealingEncoder) else SealingEncoder(encoder, codec, slot)


def _opening_decoder(inner: Callable[[Any], Any], codec: Any, slot: ReceiverSlot) -> Any:
    try:
        decoder = inner(codec)
    except Exception as error:
        # vsaiortc negotiates G722 and has no decoder for it, which ends the thread. Unattached that is its own affair.
        if slot.attachment is None:
            raise
        slot.attachment.refuse(slot, codec.mimeType.lower().partition("/")[0], error, "no_decoder")
        decoder = None
    return decoder if isinstance(decoder, OpeningDecoder) else OpeningDecoder(decoder, codec, slot)


def _install(package: str) -> Stack:
    with _lock:
        if package not in _stacks:
            _stacks[package] = Stack(package)
        return _stacks[package]


def _package_of(pc: Any) -> str:
    for cls in type(pc).__mro__:
        if cls.__name__ == "RTCPeerConnection":
            return cls.__module__.rpartition(".")[0]
    raise TypeError(f"expected an RTCPeerConnection of aiortc or vsaiortc, got {type(pc).__name__}")


# At import, so that a connection made from now on can be attached at any time. A stack that fails its self-test is
# left alone here, because the other may be the one in use; attach() says what is wrong with it.
for _package in ("aiortc", "vsaiortc"):
    if importlib.util.find_spec(_package) is not None:
        with contextlib.suppress(UnsupportedStack):
            _install(_package)
