"""The hook in aiortc (1.9 and later) and in its fork vsaiortc: the patches, and the test of what they rely on.

The hook stands between codec and packetizer in four places:

* *factories*: a stack makes encoders and decoders through the module-level functions ``get_encoder`` and
  ``get_decoder``. The hook wraps both, so that they return proxies (``proxies.py``).
* *tag*: a factory receives the codec, but not its owner. So ``RTCRtpSender.send`` and ``RTCRtpReceiver.receive`` pass
  on copies of the codecs that refer to the slot of their sender or receiver.
* *guard*: other libraries install encoders of their own. The guard seals or drops every frame of a sender's
  ``_next_encoded_frame`` that the proxy did not seal.
* *gates*: other libraries may replace any of these functions, even in mid-call. So the hook wraps a transport's SRTP
  session and a receiver's decoder queue (``gates.py``). A gate stops frames that bypassed the hook, and closes their
  track. It reports InternalError with the reason ``seam_replaced:`` and the names of the replaced functions.

The hook wraps ``depayload`` too, to note how received frames start. A frame without its start is no sign of a wrong
key.

The IV travels in the frame and is never derived from RTP. A sender does not know the RTP timestamp on the wire, and a
receiver re-bases the timestamp.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from fractions import Fraction
from types import ModuleType
from typing import TypeVar, cast

from frameseal._native import join_payloads, replace_frame
from frameseal.aiortc.attachment import Attachment
from frameseal.aiortc.channels import watch_channels
from frameseal.aiortc.gates import GatedAttribute, IncomingGate, OutgoingGate
from frameseal.aiortc.lock import hook
from frameseal.aiortc.protocols import (
    Codec,
    Decoder,
    DecoderQueue,
    Encoder,
    Member,
    Parameters,
    PeerConnection,
    Receiver,
    ReceiverTrack,
    RtpPacket,
    Sender,
    SrtpSession,
    Transceiver,
    Transport,
)
from frameseal.aiortc.proxies import NEXT_FRAME, NextFrameGuard, OpeningDecoder, SealingEncoder
from frameseal.aiortc.receivers import AnySlot, ReceiverSlot, present_slot
from frameseal.aiortc.rule import process
from frameseal.aiortc.slots import SLOT, SenderSlot
from frameseal.codecs.rtp import media_type
from frameseal.e2ee.manager import E2EEManager
from frameseal.enums import Profile
from frameseal.keys.provider import KeyProvider

__all__ = ["Stack", "UnsupportedStack", "base_of", "call_after_init", "install", "is_attached", "package_of"]

_ATTACHMENT = "_frameseal_attachment"  # the attribute of peer connections that holds the attachment
_FOLLOWED = "_frameseal_followed"  # the attribute of a constructor that the hook has wrapped
_HISTORY = "_RTCRtpSender__rtp_history"  # the packets that a sender keeps to answer NACKs
_DECODER_QUEUE = "_RTCRtpReceiver__decoder_queue"
_TIMESTAMP_MAPPER = "_RTCRtpReceiver__timestamp_mapper"  # re-bases the timestamps of a receiver's frames
_HANDLE_PACKET = "_handle_rtp_packet"
_SRTP_SESSION = "_tx_srtp"

_CLOCK = Fraction(1, 90000)  # any valid time base, since the timestamp of the self-test's packets is not used

Start = Callable[[Member, Parameters], Coroutine[object, object, None]]
Stop = Callable[[Member], Coroutine[object, object, None]]
HandlePacket = Callable[..., Coroutine[object, object, None]]
FunctionT = TypeVar("FunctionT")

stacks: dict[str, Stack] = {}


class UnsupportedStack(RuntimeError):
    """The installed aiortc, or fork of it, lacks a function that the hook needs. The hook changed nothing in it."""


class Stack:
    """One stack, aiortc or vsaiortc, with the hook in it."""

    def __init__(self, package: str) -> None:
        """Test the seams of the stack, then install the hook.

        :raises UnsupportedStack: a seam is missing or has another shape. Nothing was changed.
        """
        self._wrapped: dict[str, Callable[..., object]] = {}
        self._stops: dict[bool, Stop] = {}
        # Weak, and the connection holds its attachment. A `remote_id` callable may refer to the connection. A registry
        # that owned both would keep the call alive for ever.
        # By id, because a subclass may define equality, or a hash of attributes that its constructor sets later.
        self._attached: dict[int, weakref.ref[PeerConnection]] = {}
        self.generation = 0  # the number of attachments; "not attached" may be cached until it changes
        self._follows_packets = False
        try:
            self._senders = importlib.import_module(f"{package}.rtcrtpsender")
            self._receivers = importlib.import_module(f"{package}.rtcrtpreceiver")
            self._transports = importlib.import_module(f"{package}.rtcdtlstransport")
            self._connections = importlib.import_module(f"{package}.rtcpeerconnection")
            self._transceivers = importlib.import_module(f"{package}.rtcrtptransceiver")
            self._channels = importlib.import_module(f"{package}.rtcdatachannel")
            self._codecs = importlib.import_module(f"{package}.codecs")
            self._parameters = importlib.import_module(f"{package}.rtcrtpparameters")
            self._av = importlib.import_module("av")
            self.track_ended: type[Exception] = self._senders.MediaStreamError
            self._self_test()
        except Exception as error:
            version = getattr(sys.modules.get(package), "__version__", "(unknown version)")
            raise UnsupportedStack(
                f"{package} {version} is not built the way frameseal's hook needs ({type(error).__name__}: {error}). "
                "Nothing was changed in it. Its connections cannot be attached: install a supported version"
            ) from error
        connection, transport = self._connections.RTCPeerConnection, self._transports.RTCDtlsTransport
        # The stack's own functions, because a subclass may hide members from its user.
        self._members_of = (connection.getSenders, connection.getReceivers)
        self._sctp_of = connection.sctp.fget
        self.is_rtcp: Callable[[bytes], bool] = self._transports.is_rtcp
        self._hook_life(self._senders.RTCRtpSender, "send")
        self._hook_life(self._receivers.RTCRtpReceiver, "receive")
        self._follow_directions(self._transceivers.RTCRtpTransceiver)
        setattr(transport, _SRTP_SESSION, GatedAttribute(_SRTP_SESSION, self._outgoing_gate))
        setattr(self._receivers.RTCRtpReceiver, _DECODER_QUEUE, GatedAttribute(_DECODER_QUEUE, self._incoming_gate))
        watch_channels(self._channels.RTCDataChannel, self._connection_of_sctp)
        self.wrap_functions()
        self._hooked_seams = self._seams(self._senders.RTCRtpSender) | self._seams(self._receivers.RTCRtpReceiver)

    def wire_timestamp(self, receiver: Receiver, timestamp: int) -> int | None:
        """Return the RTP timestamp of a frame as it arrived. None means that the receiver has delivered no frame.

        :param timestamp: the timestamp as the receiver has re-based it.
        """
        origin: int | None = vars(receiver)[_TIMESTAMP_MAPPER]._origin
        return None if origin is None else (timestamp + origin) % (1 << 32)

    def follow_packets(self) -> None:
        """Note the packets of recorded receivers. A process that records nothing pays nothing for it.

        :raises UnsupportedStack: the stack lacks a function that a recording needs.
        """
        mapper = self._receivers.TimestampMapper() if hasattr(self._receivers, "TimestampMapper") else None
        handle = inspect.unwrap(self._receivers.RTCRtpReceiver._handle_rtp_packet)
        if not hasattr(mapper, "_origin") or _TIMESTAMP_MAPPER not in handle.__code__.co_names:
            raise UnsupportedStack(
                "the installed stack hides the RTP timestamps of received frames, which a recording needs: "
                "install a supported version"
            )
        self._follows_packets = True
        self.wrap_functions()

    def history(self, sender: Sender) -> dict[int, object]:
        """Return the packets that a sender may send again."""
        history: dict[int, object] = vars(sender)[_HISTORY]
        return history

    async def stop(self, owner: Member) -> None:
        """Stop a sender or receiver for good, and the track that a receiver feeds."""
        sends = isinstance(owner, self._senders.RTCRtpSender)
        await self._stops[sends](owner)
        if not sends and owner.track is not None:
            track = cast(ReceiverTrack, owner.track)
            track.stop()
            track._queue.put_nowait(None)  # wake a reader: the decoder thread may have died in other code

    def slot_of(self, owner: Member) -> AnySlot:
        """Return the slot of a sender or receiver."""
        slot = present_slot(owner)
        if slot is None:
            if isinstance(owner, self._senders.RTCRtpSender):
                slot = SenderSlot(cast(Sender, owner), self)
            else:
                slot = ReceiverSlot(cast(Receiver, owner), self)
            slot = vars(owner).setdefault(SLOT, slot)
            if _DECODER_QUEUE in vars(owner):  # the queue is older than the hook
                setattr(owner, _DECODER_QUEUE, vars(owner)[_DECODER_QUEUE])
        return slot

    def attach(self, pc: PeerConnection, attachment: Attachment) -> None:
        """Cover a connection, and put gates around sessions and queues that are older than the hook.

        :raises RuntimeError: the connection is attached, or its media started before the hook was installed.
        :raises UnsupportedStack: the connection is recorded, and the stack lacks a function that a recording needs.
        """
        if attachment.recorder is not None:  # `tee_all` may precede the first connection
            self.follow_packets()
        with hook.lock:
            present: Attachment | None = vars(pc).get(_ATTACHMENT)
            if present is not None and present.is_final:
                raise RuntimeError("pc is attached already: call detach() of its attachment first")
            members = self.members(pc)
            for member in members:
                if self._predates_hook(member):
                    raise RuntimeError(
                        "media of pc started before frameseal.aiortc was imported and can no longer be sealed: "
                        "import frameseal.aiortc before the call starts"
                    )
            if present is not None and not present.detached:  # the rule of `attach_all` made it
                present.detach()
                for member in members:
                    present.release(member)
            vars(pc)[_ATTACHMENT] = attachment
            self._attached[id(pc)] = weakref.ref(pc, functools.partial(self._forget, id(pc)))
            self.generation += 1
            for transport in {member.transport for member in members}:
                setattr(transport, _SRTP_SESSION, vars(transport).get(_SRTP_SESSION))
        for member in members:
            attachment.adopt(self.slot_of(member))

    def _forget(self, key: int, reference: weakref.ref[PeerConnection]) -> None:
        if self._attached.get(key) is reference:
            del self._attached[key]

    def _predates_hook(self, member: Member) -> bool:
        """Return whether media of *member* started before the hook was installed."""
        slot = present_slot(member)
        if slot is not None:
            return slot.predates_hook
        return member.transport.state not in ("new", "connecting")

    @property
    def connection_class(self) -> type:
        """The ``RTCPeerConnection`` of the stack."""
        cls: type = self._connections.RTCPeerConnection
        return cls

    def follow_connections(self) -> None:
        """Apply the rule of the process, or the checks of the adapters, to every connection made from now on.

        The constructor of the class is hooked, because frameworks have imported the class already, and subclasses call
        it. A second call changes nothing, unless other code has replaced the constructor.
        """
        with hook.lock:
            call_after_init(self.connection_class, self._apply_rule)

    def _apply_rule(self, pc: PeerConnection) -> None:
        if _ATTACHMENT in vars(pc):
            return
        rule = process.rule
        attachment: Attachment | None = None
        try:
            if rule is None:
                process.check(pc)
            elif rule.covers(pc):
                attachment = Attachment(rule.manager_of(pc), rule.local_id, rule.remote_id, by_rule=True)
        except BaseException:
            # The constructor raises. Code that continues with the connection all the same sends and decodes nothing.
            attachment = Attachment(E2EEManager(KeyProvider(), Profile.LIVEKIT), "", "")
            attachment.detach()
            raise
        finally:
            if attachment is not None and _ATTACHMENT not in vars(pc):  # a callable may have attached it
                self.wrap_functions()
                self.attach(pc, attachment)

    def refuse_unattached(self) -> None:
        """Put gates around the sessions and queues that are older than the hook, for `require_attached`."""
        transport, receiver = self._transports.RTCDtlsTransport, self._receivers.RTCRtpReceiver
        # Use type(), because isinstance() reads an attribute of the object, which raises for a dead weak proxy.
        for found in gc.get_objects():
            if issubclass(type(found), transport) and _SRTP_SESSION in vars(found):
                setattr(found, _SRTP_SESSION, vars(found)[_SRTP_SESSION])
            elif issubclass(type(found), receiver):
                with hook.lock:
                    predates_hook = self._predates_hook(found)
                    self.slot_of(found).predates_hook = predates_hook

    def members(self, pc: PeerConnection) -> list[Member]:
        """Return all senders and receivers of a connection."""
        return [member for members_of in self._members_of for member in members_of(pc)]

    def adopt(self, owner: Member) -> None:
        """Cover a sender or receiver if its connection is attached."""
        pc = self._connection_with(lambda member: member is owner)
        if pc is not None:
            _attachment_of(pc).adopt(self.slot_of(owner))

    def attachment_of_transport(self, transport: Transport | None) -> Attachment | None:
        """Return the attachment of the connection that a transport belongs to, or None if it is not attached."""
        pc = self._connection_with(lambda member: member.transport is transport)
        return None if pc is None else _attachment_of(pc)

    def adopt_members_of(self, transport: Transport | None) -> None:
        """Cover members that other code started without `send` and `receive`. Call it on the event loop."""
        pc = self._connection_with(lambda member: member.transport is transport)
        if pc is not None:
            for member in self.members(pc):
                _attachment_of(pc).adopt(self.slot_of(member))

    def _connection_of_sctp(self, sctp: object) -> PeerConnection | None:
        with hook.lock:
            covered = (pc for pc in self._connected() if not _attachment_of(pc).detached)
            return next((pc for pc in covered if self._sctp_of(pc) is sctp), None)

    def _connection_with(self, has: Callable[[Member], bool]) -> PeerConnection | None:
        with hook.lock:
            return next((pc for pc in self._connected() if any(map(has, self.members(pc)))), None)

    def _connected(self) -> list[PeerConnection]:
        return [pc for reference in list(self._attached.values()) if (pc := reference()) is not None]

    def wrap_functions(self, sender_class: type | None = None) -> None:
        """Wrap the factories, ``depayload`` and the frame source again if other code has replaced them."""
        with hook.lock:
            self._wrap(self._senders, "get_encoder", _sealing_factory)
            self._wrap(self._receivers, "get_decoder", _opening_factory)
            self._wrap(self._receivers, "depayload", _noting_depayload)
            if self._follows_packets:
                self._wrap(self._receivers.RTCRtpReceiver, _HANDLE_PACKET, _noting_packets)
            sender_class = sender_class or self._senders.RTCRtpSender
            method = inspect.getattr_static(sender_class, NEXT_FRAME)
            if not isinstance(method, NextFrameGuard):
                slot_of = cast(Callable[[Sender], SenderSlot], self.slot_of)
                setattr(sender_class, NEXT_FRAME, NextFrameGuard(method, slot_of))

    def replaced_seams(self, owner: Member) -> str:
        """Name the functions on the way of the owner's frames that other code has replaced."""
        sends = isinstance(owner, self._senders.RTCRtpSender)
        now = self._seams(type(owner)) | {name: None for name in vars(owner) if name in self._hooked_seams}
        left = self._hooked_seams | self._wrapped  # a factory is wrapped again when a call finds it replaced
        names = [name for name, value in now.items() if value is not left[name] and name != NEXT_FRAME]
        if sends and not isinstance(inspect.getattr_static(type(owner), NEXT_FRAME), NextFrameGuard):
            names.insert(0, NEXT_FRAME)
        return ",".join(names) or ("_send_rtp" if sends else "decode")

    def _seams(self, cls: type) -> dict[str, object]:
        sends = issubclass(cls, self._senders.RTCRtpSender)
        module, methods, functions = (
            (self._senders, (NEXT_FRAME, "_run_rtp", "send"), ("get_encoder",))
            if sends
            else (self._receivers, ("receive", "_handle_rtp_packet"), ("get_decoder", "decoder_worker"))
        )
        seams = {name: inspect.getattr_static(cls, name) for name in methods}
        return seams | {name: getattr(module, name) for name in functions}

    def _outgoing_gate(self, transport: Transport, session: SrtpSession) -> OutgoingGate:
        return OutgoingGate.around(session, transport, self)

    def _incoming_gate(self, receiver: Receiver, queue: DecoderQueue | IncomingGate) -> IncomingGate:
        if isinstance(queue, IncomingGate):
            return queue
        return IncomingGate(queue, cast(ReceiverSlot, self.slot_of(receiver)))

    def _wrap(self, module: ModuleType | type, name: str, wrap: Callable[[FunctionT], Callable[..., object]]) -> None:
        """Replace a function of a module or class by its wrapper, unless it is the wrapper already."""
        inner: Callable[..., object] = getattr(module, name)
        if inner is not self._wrapped.get(name):
            self._wrapped[name] = functools.wraps(inner)(wrap(cast(FunctionT, inner)))
            setattr(module, name, self._wrapped[name])

    def _hook_life(self, cls: type, start: str) -> None:
        members = vars(cls)
        original_init: Callable[..., None] = members["__init__"]
        original_start: Start = members[start]
        original_stop: Stop = members["stop"]
        self._stops[cls is self._senders.RTCRtpSender] = original_stop
        started = f"_{cls.__name__}__started"

        @functools.wraps(original_init)
        def init(owner: Member, *args: object, **kwargs: object) -> None:
            original_init(owner, *args, **kwargs)
            self.slot_of(owner)  # shows attach() that the owner is not older than the hook

        @functools.wraps(original_start)
        async def tagging_start(owner: Member, parameters: Parameters) -> None:
            present = present_slot(owner)
            if vars(owner)[started] if present is None else present.predates_hook:
                await original_start(owner, parameters)  # older than the hook: attach() refuses it
                return
            slot = self.slot_of(owner)
            self.wrap_functions(type(owner) if slot.sends else None)
            slot.start()
            if isinstance(slot, ReceiverSlot):
                slot.ssrcs = frozenset(encoding.ssrc for encoding in parameters.encodings)
                slot.codecs = {codec.payloadType: codec for codec in parameters.codecs}
            tagged = copy.copy(parameters)
            tagged.codecs = [copy.copy(codec) for codec in parameters.codecs]
            for codec in tagged.codecs:
                setattr(codec, SLOT, slot)
            await original_start(owner, tagged)

        @functools.wraps(original_stop)
        async def ending_stop(owner: Member) -> None:
            try:
                await original_stop(owner)
            finally:
                slot = present_slot(owner)
                if slot is not None:
                    slot.end()

        for name, function in (("__init__", init), (start, tagging_start), ("stop", ending_stop)):
            setattr(cls, name, function)

    def _follow_directions(self, cls: type) -> None:
        name = "_setCurrentDirection"
        original: Callable[[Transceiver, str], None] = vars(cls)[name]

        @functools.wraps(original)
        def followed(transceiver: Transceiver, direction: str) -> None:
            original(transceiver, direction)
            members: tuple[Member, Member] = (transceiver.sender, transceiver.receiver)
            for member in members:
                slot = present_slot(member)
                if slot is not None:
                    slot.enable(member._enabled)

        setattr(cls, name, followed)

    def _self_test(self) -> None:
        """Test each seam.

        :raises Exception: of any class, if a seam is missing or has another shape.
        """
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
                raise LookupError(f"{function.__qualname__} does not accept ({', '.join(names)})")
        for mime, frame in (
            ("video/VP8", bytes(range(256)) * 20),
            ("video/H264", b"\0\0\0\1\x67\x01\x02" + b"\0\0\0\1\x65" + bytes(range(1, 256)) * 20),
        ):
            codec = self._parameters.RTCRtpCodecParameters(mimeType=mime, clockRate=90000, payloadType=97)
            name = media_type(mime).codec
            packet = self._av.Packet(frame)
            packet.pts, packet.time_base = 0, _CLOCK
            payloads = self._codecs.get_encoder(codec).pack(packet)[0]
            split = replace_frame(name, payloads, frame)
            if join_payloads(name, payloads) != frame:
                raise LookupError(f"the payloads of {mime} do not add up to the frame")
            if b"".join(self._receivers.depayload(codec, payload) for payload in split) != frame:
                raise LookupError(f"the stack reads payloads of {mime} in another way")


def _sealing_factory(inner: Callable[[Codec], Encoder]) -> Callable[[Codec], Encoder | SealingEncoder]:
    def get_encoder(codec: Codec) -> Encoder | SealingEncoder:
        slot: SenderSlot | None = getattr(codec, SLOT, None)
        encoder = inner(codec)
        return encoder if slot is None or isinstance(encoder, SealingEncoder) else SealingEncoder(encoder, codec, slot)

    return get_encoder


def _opening_factory(inner: Callable[[Codec], Decoder]) -> Callable[[Codec], Decoder | OpeningDecoder]:
    def get_decoder(codec: Codec) -> Decoder | OpeningDecoder:
        slot: ReceiverSlot | None = getattr(codec, SLOT, None)
        if slot is None:
            return inner(codec)
        try:
            decoder = inner(codec)
        except Exception as error:
            # vsaiortc negotiates G722 without a decoder for it, and the error ends its decoder thread. That is the
            # stack's own behaviour, so it stays while the connection is not attached.
            if slot.encryption is None:
                raise
            slot.report_error(slot.encryption, media_type(codec.mimeType).kind, error, "no_decoder")
            return OpeningDecoder(None, codec, slot)
        return decoder if isinstance(decoder, OpeningDecoder) else OpeningDecoder(decoder, codec, slot)

    return get_decoder


def _noting_depayload(inner: Callable[[Codec, bytes], bytes]) -> Callable[[Codec, bytes], bytes]:
    def depayload(codec: Codec, payload: bytes) -> bytes:
        data = inner(codec, payload)
        slot = getattr(codec, SLOT, None)
        if isinstance(slot, ReceiverSlot):
            slot.note_packet(codec, payload, data)
        return data

    return depayload


def _noting_packets(inner: HandlePacket) -> HandlePacket:
    def handle(
        receiver: Receiver, packet: RtpPacket, *args: object, **options: object
    ) -> Coroutine[object, object, None]:
        slot = present_slot(receiver)
        if isinstance(slot, ReceiverSlot) and receiver._enabled:
            slot.note_rtp(packet)
        return inner(receiver, packet, *args, **options)

    return handle


def _attachment_of(pc: PeerConnection) -> Attachment:
    attachment: Attachment = getattr(pc, _ATTACHMENT)
    return attachment


def install(package: str) -> Stack:
    """Return the stack of a package. The first call installs the hook.

    :raises UnsupportedStack: the package lacks a function that the hook needs.
    """
    with hook.lock:
        if package not in stacks:
            stacks[package] = Stack(package)
        return stacks[package]


def call_after_init(connection: type, then: Callable[[PeerConnection], None]) -> None:
    """Call *then* with each connection after the constructor of its class, unless *connection* is hooked already."""
    original: Callable[..., None] = inspect.getattr_static(connection, "__init__")
    if getattr(original, _FOLLOWED, False):
        return

    @functools.wraps(original)
    def init(pc: PeerConnection, *args: object, **options: object) -> None:
        original(pc, *args, **options)
        then(pc)

    setattr(init, _FOLLOWED, True)  # `functools.wraps` of other code copies it, and its wrapper calls this one
    connection.__init__ = init  # type: ignore[misc]


def base_of(cls: type) -> type | None:
    """Return the ``RTCPeerConnection`` of a stack that *cls* is or extends. None means that it extends none."""
    # The last, because an application's own subclass may have the same name.
    return next((each for each in reversed(cls.__mro__) if each.__name__ == "RTCPeerConnection"), None)


def is_attached(pc: object) -> bool:
    """Return whether a connection is attached, by the application or by the rule."""
    return _ATTACHMENT in vars(pc)


def package_of(pc: object) -> str:
    """Return the name of the package that a peer connection is from.

    :raises TypeError: *pc* is no ``RTCPeerConnection`` of aiortc or vsaiortc.
    """
    base = base_of(type(pc))
    if base is not None:
        return base.__module__.rpartition(".")[0]
    raise TypeError(f"pc must be an RTCPeerConnection of aiortc or vsaiortc, not {type(pc).__name__}")


# Install the hook at import, so that a connection made later can be attached at any time. A stack that fails its
# self-test is skipped here, because the application may use the other one. attach() raises the error.
for _package in ("aiortc", "vsaiortc"):
    if importlib.util.find_spec(_package) is not None:
        with contextlib.suppress(UnsupportedStack):
            install(_package)
