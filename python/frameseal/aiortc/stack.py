"""The hook: end-to-end encryption for the calls of aiortc (1.9 and later) and of its fork vsaiortc.

How it gets between codec and packetizer:

* *factories*: a stack makes encoders and decoders through one module-level function each, ``get_encoder`` and
  ``get_decoder``. These are wrapped to return proxies that seal after encoding and open before decoding.
* *tag*: a factory is told the codec, but not whose. So ``RTCRtpSender.send`` and ``RTCRtpReceiver.receive`` hand on
  copies of the codecs that carry a reference to the sender's or receiver's slot.
* *guard*: other libraries put in encoders of their own. What a sender's ``_next_encoded_frame`` returns is sealed
  there, or dropped, unless the proxy sealed it.
* *gates*: other libraries replace any of these, in mid-call too. So a transport's SRTP session and a receiver's decoder
  queue are wrapped when they are made (``gates.py``). They stop what got past the hook, close its track, and
  report InternalError (``seam_replaced:`` and the names of what was replaced).

``depayload`` is wrapped too, to note how received frames begin: one that has lost its head is no sign of a wrong key.

The IV travels in the frame and never comes from RTP: a sender does not know the RTP timestamp that goes out, and a
receiver re-bases it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

from frameseal.aiortc.attachment import Attachment
from frameseal.aiortc.channels import watch_channels
from frameseal.aiortc.gates import SLOT, GatedAttribute, IncomingGate, OutgoingGate
from frameseal.aiortc.lock import hook
from frameseal.aiortc.proxies import NEXT_FRAME, NextFrameGuard, OpeningDecoder, SealingEncoder
from frameseal.aiortc.receivers import ReceiverSlot
from frameseal.aiortc.slots import CLOCK, MediaSlot, SenderSlot

__all__ = ["ATTACHMENT", "Stack", "UnsupportedStack", "install", "package_of"]

ATTACHMENT = "_frameseal_attachment"  # set on peer connections
_HISTORY = "_RTCRtpSender__rtp_history"  # packets that a sender keeps, to send them again on a NACK
_DECODER_QUEUE = "_RTCRtpReceiver__decoder_queue"

stacks: dict[str, Stack] = {}


class UnsupportedStack(RuntimeError):
    """This aiortc (or fork of it) is not built the way the hook needs; nothing was changed in it."""


class Stack:
    """aiortc or vsaiortc, with the hook in it."""

    def __init__(self, package: str) -> None:
        """Test the stack's seams, then put the hook in. :raises UnsupportedStack: if one is not there."""
        self._wrapped: dict[str, Callable[..., Any]] = {}
        self._stops: dict[bool, Callable[[Any], Coroutine[Any, Any, None]]] = {}
        # Weak, and the attachment hangs on its connection: a `remote_id` callable may well refer to the connection,
        # and a registry that owned both would keep the call alive for ever.
        self._attached: weakref.WeakSet[Any] = weakref.WeakSet()
        self.generation = 0  # counts attachments; "not attached" may be cached until it changes
        try:
            self._senders = importlib.import_module(f"{package}.rtcrtpsender")
            self._receivers = importlib.import_module(f"{package}.rtcrtpreceiver")
            self._transports = importlib.import_module(f"{package}.rtcdtlstransport")
            self._connections = importlib.import_module(f"{package}.rtcpeerconnection")
            self._transceivers = importlib.import_module(f"{package}.rtcrtptransceiver")
            self._channels = importlib.import_module(f"{package}.rtcdatachannel")
            self._codecs = importlib.import_module(f"{package}.codecs")
            self._parameters = importlib.import_module(f"{package}.rtcrtpparameters")
            self.av = importlib.import_module("av")
            self.track_ended: type[Exception] = self._senders.MediaStreamError
            self._self_test()
        except Exception as error:
            version = getattr(sys.modules.get(package), "__version__", "(unknown version)")
            raise UnsupportedStack(
                f"{package} {version} is not built the way frameseal's hook needs ({type(error).__name__}: {error}). "
                "Nothing was changed in it, and none of its connections can be attached"
            ) from error
        connection, transport = self._connections.RTCPeerConnection, self._transports.RTCDtlsTransport
        # The stack's own: a subclass may show its user fewer than there are.
        self._members_of = (connection.getSenders, connection.getReceivers)
        self._sctp_of = connection.sctp.fget
        self.is_rtcp: Callable[[bytes], bool] = self._transports.is_rtcp
        self._hook_life(self._senders.RTCRtpSender, "send")
        self._hook_life(self._receivers.RTCRtpReceiver, "receive")
        self._follow_directions(self._transceivers.RTCRtpTransceiver)
        transport._tx_srtp = GatedAttribute(
            "_tx_srtp", lambda owner, session: OutgoingGate.around(session, owner, self)
        )
        setattr(self._receivers.RTCRtpReceiver, _DECODER_QUEUE, GatedAttribute(_DECODER_QUEUE, self._incoming_gate))
        watch_channels(self._channels.RTCDataChannel, self._connection_of_sctp)
        self.wrap_functions()
        self._hooked_seams = self._seams(self._senders.RTCRtpSender) | self._seams(self._receivers.RTCRtpReceiver)

    def depayload(self, codec: Any, payload: bytes) -> bytes:
        """Strip the RTP payload descriptor."""
        # Looked up each time: code that registers a codec of its own replaces it.
        data: bytes = self._receivers.depayload(codec, payload)
        return data

    def packer(self, codec: Any) -> Any:
        """Make an encoder that will only ever pack."""
        return self._codecs.get_encoder(codec)

    def history(self, sender: Any) -> dict[int, Any]:
        """Return the packets that a sender may send again."""
        history: dict[int, Any] = vars(sender)[_HISTORY]
        return history

    async def stop(self, owner: Any) -> None:
        """Stop a sender or receiver for good, and the track that a receiver feeds."""
        sends = isinstance(owner, self._senders.RTCRtpSender)
        await self._stops[sends](owner)
        if not sends and owner.track is not None:
            owner.track.stop()
            owner.track._queue.put_nowait(None)  # wakes a reader, as the decoder thread may have died in other code

    def slot_of(self, owner: Any) -> Any:
        """Return the slot of a sender or receiver."""
        slot = vars(owner).get(SLOT)
        if slot is None:
            make = SenderSlot if isinstance(owner, self._senders.RTCRtpSender) else ReceiverSlot
            slot = vars(owner).setdefault(SLOT, make(owner, self))
            if _DECODER_QUEUE in vars(owner):  # made before the hook was in
                setattr(owner, _DECODER_QUEUE, vars(owner)[_DECODER_QUEUE])
        return slot

    def cover(self, pc: Any) -> None:
        """Note that a connection is attached, and put gates where it was connected before the hook was in."""
        self._attached.add(pc)
        self.generation += 1
        for transport in {member.transport for member in self.members(pc)}:
            transport._tx_srtp = vars(transport).get("_tx_srtp")

    def members(self, pc: Any) -> list[Any]:
        """Return all senders and receivers of a connection."""
        return [member for members_of in self._members_of for member in members_of(pc)]

    def attachment_of(self, slot: MediaSlot) -> Attachment | None:
        """Find the attachment of the connection that the slot's owner belongs to."""
        owner = slot.owner()
        pc = self._connection_with(lambda member: member is owner)
        return None if pc is None else getattr(pc, ATTACHMENT)

    def attachment_of_transport(self, transport: Any) -> Attachment | None:
        """Find the attachment of the connection that a transport belongs to."""
        pc = self._connection_with(lambda member: member.transport is transport)
        return None if pc is None else getattr(pc, ATTACHMENT)

    def adopt_members_of(self, transport: Any) -> None:
        """Cover what other code started past `send` and `receive`, on a transport's connection; on the event loop."""
        pc = self._connection_with(lambda member: member.transport is transport)
        for member in self.members(pc) if pc is not None else ():
            getattr(pc, ATTACHMENT).adopt(self.slot_of(member))

    def _connection_of_sctp(self, sctp: Any) -> Any:
        with hook.lock:
            covered = (pc for pc in self._attached if not getattr(pc, ATTACHMENT).detached)
            return next((pc for pc in covered if self._sctp_of(pc) is sctp), None)

    def _connection_with(self, has: Callable[[Any], bool]) -> Any:
        with hook.lock:
            return next((pc for pc in self._attached if any(map(has, self.members(pc)))), None)

    def wrap_functions(self, sender_class: Any = None) -> None:
        """Wrap what is not wrapped: other code may have replaced a factory or the method since the last time."""
        with hook.lock:
            self._wrap_factory(self._senders, "get_encoder", _sealing_encoder)
            self._wrap_factory(self._receivers, "get_decoder", _opening_decoder)
            self._watch_packets()
            sender_class = sender_class or self._senders.RTCRtpSender
            method = inspect.getattr_static(sender_class, NEXT_FRAME)
            if not isinstance(method, NextFrameGuard):
                setattr(sender_class, NEXT_FRAME, NextFrameGuard(method, self))

    def replaced_seams(self, slot: MediaSlot) -> str:
        """Name the functions on the way of the slot's frames that other code has replaced."""
        owner = slot.owner()
        now = self._seams(type(owner)) | {name: None for name in vars(owner) if name in self._hooked_seams}
        left = self._hooked_seams | self._wrapped  # factories are wrapped anew when a call finds them replaced
        names = [name for name, value in now.items() if value is not left[name] and name != NEXT_FRAME]
        if slot.sends and not isinstance(inspect.getattr_static(type(owner), NEXT_FRAME), NextFrameGuard):
            names.insert(0, NEXT_FRAME)
        return ",".join(names) or ("_send_rtp" if slot.sends else "decode")

    def _seams(self, cls: Any) -> dict[str, Any]:
        sends = issubclass(cls, self._senders.RTCRtpSender)
        module, methods, functions = (
            (self._senders, (NEXT_FRAME, "_run_rtp", "send"), ("get_encoder",))
            if sends
            else (self._receivers, ("receive", "_handle_rtp_packet"), ("get_decoder", "decoder_worker"))
        )
        seams = {name: inspect.getattr_static(cls, name) for name in methods}
        return seams | {name: getattr(module, name) for name in functions}

    def _incoming_gate(self, receiver: Any, queue: Any) -> IncomingGate:
        return queue if isinstance(queue, IncomingGate) else IncomingGate(queue, self.slot_of(receiver))

    def _wrap(self, module: ModuleType, name: str, wrap: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a function of the stack, unless it is ours already."""
        inner = getattr(module, name)
        if inner is not self._wrapped.get(name):
            self._wrapped[name] = functools.wraps(inner)(wrap(inner))
            setattr(module, name, self._wrapped[name])

    def _wrap_factory(self, module: ModuleType, name: str, proxy: Callable[[Any, Any, Any], Any]) -> None:
        def wrap(inner: Any) -> Callable[[Any], Any]:
            def factory(codec: Any) -> Any:
                slot = getattr(codec, SLOT, None)
                return inner(codec) if slot is None else proxy(inner, codec, slot)

            return factory

        self._wrap(module, name, wrap)

    def _watch_packets(self) -> None:
        def wrap(inner: Any) -> Callable[[Any, bytes], bytes]:
            def depayload(codec: Any, payload: bytes) -> bytes:
                data: bytes = inner(codec, payload)
                slot = getattr(codec, SLOT, None)
                if slot is not None and not slot.sends:
                    slot.note_packet(codec, payload, data)
                return data

            return depayload

        self._wrap(self._receivers, "depayload", wrap)

    def _hook_life(self, cls: Any, start: str) -> None:
        original_init, original_start, original_stop = cls.__init__, getattr(cls, start), cls.stop
        self._stops[cls is self._senders.RTCRtpSender] = original_stop
        started = f"_{cls.__name__}__started"

        @functools.wraps(original_init)
        def init(owner: Any, *args: Any, **kwargs: Any) -> None:
            original_init(owner, *args, **kwargs)
            self.slot_of(owner)  # tells attach() that the owner did not start before the hook was in

        @functools.wraps(original_start)
        async def tagging_start(owner: Any, parameters: Any) -> None:
            if SLOT not in vars(owner) and vars(owner)[started]:
                await original_start(owner, parameters)  # media started before the hook was in: attach() refuses it
                return
            slot = self.slot_of(owner)
            self.wrap_functions(type(owner) if slot.sends else None)
            slot.start()
            if not slot.sends:
                slot.ssrcs = frozenset(encoding.ssrc for encoding in parameters.encodings)
            tagged = copy.copy(parameters)
            tagged.codecs = [copy.copy(codec) for codec in parameters.codecs]
            for codec in tagged.codecs:
                setattr(codec, SLOT, slot)
            await original_start(owner, tagged)

        @functools.wraps(original_stop)
        async def ending_stop(owner: Any) -> None:
            try:
                await original_stop(owner)
            finally:
                slot = vars(owner).get(SLOT)
                if slot is not None:
                    slot.end()

        cls.__init__, cls.stop = init, ending_stop
        setattr(cls, start, tagging_start)

    def _follow_directions(self, cls: Any) -> None:
        original = cls._setCurrentDirection

        @functools.wraps(original)
        def followed(transceiver: Any, direction: str) -> None:
            original(transceiver, direction)
            for member in (transceiver.sender, transceiver.receiver):
                slot = vars(member).get(SLOT)
                if slot is not None:
                    slot.enable(member._enabled)

        cls._setCurrentDirection = followed

    def _self_test(self) -> None:
        """Raise anything if a seam is not as the hook expects it."""
        sender, receiver = self._senders.RTCRtpSender, self._receivers.RTCRtpReceiver
        transport, connection = self._transports.RTCDtlsTransport, self._connections.RTCPeerConnection
        for function, names in (
            (sender._next_encoded_frame, ["get_encoder"]),
            (sender._run_rtp, [NEXT_FRAME, _HISTORY, "transport", "_send_rtp"]),
            (sender._retransmit, [_HISTORY, "transport", "_send_rtp"]),
            (sender.send, ["_run_rtp", "_RTCRtpSender__started"]),
            (self._receivers.decoder_worker, ["get_decoder", "get", "decode"]),
            (receiver.receive, ["decoder_worker", _DECODER_QUEUE, "_track", "_queue", "_RTCRtpReceiver__started"]),
            (receiver._handle_rtp_packet, ["depayload", _DECODER_QUEUE, "put"]),
            (getattr(transport, "_setup_srtp", transport.start), ["_tx_srtp"]),  # aiortc 1.9 has one method for both
            (transport._send_rtp, ["is_rtcp", "_tx_srtp", "protect"]),
            (self._transceivers.RTCRtpTransceiver._setCurrentDirection, ["_enabled"]),
        ):
            present = inspect.unwrap(function).__code__.co_names
            for name in names:
                if name not in present:
                    raise LookupError(f"{function.__qualname__} does not use {name}")
        for function, names in (
            (sender._next_encoded_frame, ["self", "codec"]),
            (sender._run_rtp, ["self", "codec"]),
            (sender._send_keyframe, ["self"]),
            (sender.send, ["self", "parameters"]),
            (sender.stop, ["self"]),
            (self._senders.RTCEncodedFrame, ["payloads", "timestamp", "audio_level"]),
            (receiver._send_rtcp_pli, ["self", "media_ssrc"]),
            (receiver.getSynchronizationSources, ["self"]),
            (receiver.receive, ["self", "parameters"]),
            (receiver.stop, ["self"]),
            (self._transceivers.RTCRtpTransceiver._setCurrentDirection, ["self", "direction"]),
            (transport._send_rtp, ["self", "data"]),
            (self._channels.RTCDataChannel.send, ["self", "data"]),
            (connection.sctp.fget, ["self"]),
            (connection.getSenders, ["self"]),
            (connection.getReceivers, ["self"]),
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
        slot.attachment.report_error(slot, codec.mimeType.lower().partition("/")[0], error, "no_decoder")
        decoder = None
    return decoder if isinstance(decoder, OpeningDecoder) else OpeningDecoder(decoder, codec, slot)


def install(package: str) -> Stack:
    """Return the stack of a package, and put the hook in the first time.

    :raises UnsupportedStack: the package is not built the way the hook needs.
    """
    with hook.lock:
        if package not in stacks:
            stacks[package] = Stack(package)
        return stacks[package]


def package_of(pc: Any) -> str:
    """Return the name of the package that a peer connection is from.

    :raises TypeError: *pc* is no peer connection.
    """
    for cls in type(pc).__mro__:
        if cls.__name__ == "RTCPeerConnection":
            return cls.__module__.rpartition(".")[0]
    raise TypeError(f"pc must be an RTCPeerConnection of aiortc or vsaiortc, not {type(pc).__name__}")


# At import, so that a connection made from now on can be attached at any time. A stack that fails its self-test is
# left alone here, because the other may be the one in use; attach() says what is wrong with it.
for _package in ("aiortc", "vsaiortc"):
    if importlib.util.find_spec(_package) is not None:
        with contextlib.suppress(UnsupportedStack):
            install(_package)
