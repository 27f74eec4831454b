"""The parts of the hook without a call: the gate before a decoder, what an encoder is owed."""

import importlib
import inspect
import sys
from itertools import pairwise
from types import FunctionType, ModuleType, SimpleNamespace

import pytest

import frameseal.aiortc
import frameseal.aiortc.receivers
from frameseal._native import SealedPayloads, join_payloads, replace_frame
from frameseal.aiortc import UnsupportedStack, attach
from frameseal.aiortc.gates import GatedAttribute
from frameseal.aiortc.proxies import NextFrameGuard, OpeningDecoder, SealingEncoder
from frameseal.aiortc.receivers import MAX_STARTS, ReceiverSlot
from frameseal.aiortc.slots import SLOT, SenderSlot
from frameseal.aiortc.stack import Stack, stacks
from frameseal.codecs import CODECS
from support.calls import (
    manager,
    part,
    picture_track,
)

VP8_KEY, VP8_DELTA = b"\x10key", b"\x11delta"


# --- the gate before a decoder ---------------------------------------------------------------------------------------


class Receiving:
    """A decoder proxy over a stand-in decoder, with scripted outcomes of opening and a clock that is set by hand."""

    def __init__(self, monkeypatch, mime: str = "video/VP8") -> None:
        self.now = 100.0
        self.opens: object = VP8_KEY
        self.decoded: list[bytes] = []
        self.fault: Exception | None = None
        self.held = self.missing_key = False
        monkeypatch.setattr(frameseal.aiortc.receivers.time, "monotonic", lambda: self.now)
        self.slot = ReceiverSlot(self, None)
        self.slot.encryption = SimpleNamespace(detached=False)
        self.slot.transform = lambda encryption, codec: self
        self.decoder = OpeningDecoder(SimpleNamespace(decode=self._decode), SimpleNamespace(mimeType=mime), self.slot)

    def open(self, sealed: bytes, tag: object, *, whole: bool) -> list:
        if isinstance(self.opens, BaseException):
            raise self.opens
        return [(self.opens, tag)] if self.opens else []

    def _decode(self, frame) -> list:
        if self.fault:
            raise self.fault
        self.decoded.append(frame.data)
        return ["picture"]

    def frame(self, opens: object, data: bytes = b"sealed") -> list:
        self.opens = opens
        return self.decoder.decode(SimpleNamespace(data=data, timestamp=0))

    @property
    def requests(self) -> int:
        return self.slot.counters.keyframe_requests


@pytest.fixture
def receiving(monkeypatch) -> Receiving:
    return Receiving(monkeypatch)


def test_a_receiver_knows_which_frames_begin_where_a_frame_begins(receiving):
    slot, vp8 = receiving.slot, SimpleNamespace(mimeType="video/VP8")
    frame, other = bytes(range(60)), bytes(range(100, 160))
    assert slot.is_whole(CODECS["vp8"], frame), "as long as no packet has told"
    slot.note_packet(vp8, b"\x90\x80\x01", frame[:30])
    slot.note_packet(vp8, b"\x80\x80\x01", frame[30:])  # goes on: no S
    slot.note_packet(vp8, b"\x91\x80\x01", other)  # begins a partition, and no frame
    assert slot.is_whole(CODECS["vp8"], frame) and slot.is_whole(CODECS["vp8"], frame[:17])
    assert not any(slot.is_whole(CODECS["vp8"], tail) for tail in (frame[1:], frame[30:], other, frame[:15]))
    for number in range(3000):
        slot.note_packet(vp8, b"\x10", number.to_bytes(20, "little"))
    assert len(slot._starts) == MAX_STARTS
    assert slot.is_whole(CODECS["vp8"], (2999).to_bytes(20, "little")) and not slot.is_whole(CODECS["vp8"], frame)
    assert slot.is_whole(CODECS["h264"], b"\0\0\0\1\x65\x88") and not slot.is_whole(CODECS["h264"], b"\x88\0\0\0\1\x65")
    assert slot.is_whole(CODECS["opus"], frame)


def test_when_packets_are_no_longer_noted_no_frame_counts_as_one_that_lost_its_head(receiving):
    """Other code replaces `depayload` in mid-call: what is remembered says nothing of the frames from then on."""
    slot, vp8 = receiving.slot, SimpleNamespace(mimeType="video/VP8")
    frame = bytes(range(60))
    slot.note_packet(vp8, b"\x90\x80\x01", frame[:30])
    assert slot.admits((vp8, frame))
    assert slot.is_whole(CODECS["vp8"], frame) and not slot.is_whole(CODECS["vp8"], frame[30:])
    assert slot.admits((vp8, frame))
    assert slot.is_whole(CODECS["vp8"], b"of a frame that nobody has noted")


def test_packets_are_watched_again_when_other_code_has_registered_a_codec(monkeypatch, stack):
    receivers, noted = part(stack, "rtcrtpreceiver"), []
    before = receivers.depayload
    monkeypatch.setattr(receivers, "depayload", lambda codec, payload: payload[1:])
    stacks[stack].wrap_functions()
    codec = SimpleNamespace(mimeType="video/VP8")
    slot = ReceiverSlot(receivers, None)
    slot.note_packet = lambda *packet: noted.append(packet)
    setattr(codec, SLOT, slot)
    assert receivers.depayload(codec, b"\x10data") == b"data"
    assert noted == [(codec, b"\x10data", b"data")]
    setattr(codec, SLOT, SenderSlot(receivers, None))
    assert receivers.depayload(codec, b"\x10data") == b"data" and len(noted) == 1
    monkeypatch.undo()
    stacks[stack].wrap_functions()
    assert receivers.depayload.__wrapped__ in (before, getattr(before, "__wrapped__", None))


def test_a_frame_that_waits_for_its_key_is_not_lost_and_asks_for_nothing(receiving):
    assert receiving.frame(VP8_KEY) == ["picture"]
    receiving.held = True
    assert receiving.frame(None) == []
    assert (receiving.requests, receiving.slot.counters.dropped) == (0, 0)
    assert receiving.frame(VP8_DELTA) == ["picture"], "what refers to it can still be decoded"


def test_after_a_frame_that_does_not_open_pictures_are_withheld_until_a_keyframe(receiving):
    assert receiving.frame(VP8_KEY) == receiving.frame(VP8_DELTA) == ["picture"]
    assert receiving.frame(None) == receiving.frame(VP8_DELTA) == receiving.frame(VP8_DELTA) == []
    assert receiving.frame(VP8_KEY) == receiving.frame(VP8_DELTA) == ["picture"]
    assert receiving.decoded == [VP8_KEY, VP8_DELTA] * 2
    assert receiving.slot.counters.dropped == 3


def test_a_stream_that_is_joined_in_the_middle_waits_for_a_keyframe_and_asks_for_it(receiving):
    assert receiving.frame(VP8_DELTA) == []
    assert receiving.requests == 1
    assert receiving.frame(VP8_KEY) == ["picture"]


def test_audio_is_not_gated(monkeypatch):
    receiving = Receiving(monkeypatch, "audio/opus")
    assert receiving.frame(None) == []
    assert receiving.frame(b"\xf8sound") == ["picture"]
    assert receiving.requests == 0


def test_keyframes_are_asked_for_every_half_second_while_frames_open(receiving):
    for _ in range(2 * 32 + 1):  # two seconds at 32 pictures a second, the first and the last included
        receiving.frame(VP8_DELTA)
        receiving.now += 1 / 32
    assert receiving.requests == 4 + 1


def test_keyframes_are_asked_for_ever_less_while_nothing_opens_and_at_once_when_something_does(receiving):
    asked = []
    for _ in range(30 * 20):
        before = receiving.requests
        receiving.frame(None)
        if receiving.requests > before:
            asked.append(round(receiving.now - 100, 1))
        receiving.now += 1 / 30
    gaps = [b - a for a, b in pairwise(asked)]
    assert gaps == pytest.approx([0.5, 1, 2, 4, 5, 5], abs=0.15)
    before = receiving.requests
    receiving.frame(VP8_DELTA)
    assert receiving.requests == before + 1


def test_empty_frames_are_ignored_and_not_counted(receiving):
    assert receiving.frame(VP8_KEY) == ["picture"]
    assert receiving.frame(None, data=b"") == []
    assert receiving.frame(VP8_DELTA) == ["picture"]
    assert receiving.slot.counters.frames_in == 2
    assert receiving.requests == 0


@pytest.mark.parametrize("fault", [ValueError("bug"), BaseException("a panic of the native module")])
def test_nothing_that_opening_may_raise_ends_the_decoder_thread(receiving, fault):
    assert receiving.frame(fault) == []
    assert str(fault) in receiving.slot.counters.last_error
    assert receiving.frame(VP8_KEY) == ["picture"]


def test_an_interpreter_exit_is_not_swallowed(receiving):
    with pytest.raises(SystemExit):
        receiving.frame(SystemExit())


def test_nothing_that_a_decoder_raises_ends_its_thread_and_it_asks_for_a_keyframe(receiving):
    receiving.fault = ValueError("cannot decode")
    assert receiving.frame(VP8_KEY) == []
    assert receiving.requests == 1
    assert receiving.slot.counters.last_error == "ValueError: cannot decode"
    receiving.fault = None
    assert receiving.frame(VP8_DELTA) == ["picture"]


def test_without_an_attachment_a_decoder_is_the_stacks_own(receiving):
    receiving.slot.encryption = None
    assert receiving.frame(None, data=b"plain") == ["picture"]
    assert receiving.decoded == [b"plain"]
    receiving.fault = ValueError("cannot decode")
    with pytest.raises(ValueError, match="cannot decode"):
        receiving.frame(None, data=b"plain")


# --- encoders --------------------------------------------------------------------------------------------------------


class Sending:
    """An encoder proxy over a stand-in encoder, with a slot of a real stack and scripted outcomes of sealing."""

    def __init__(self, stack: str) -> None:
        self.seals = True
        self.forced: list[bool] = []
        self.picture_id = 7
        codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("video/VP8", 90000, payloadType=97)
        self.codec = codec
        self.pc = part(stack).RTCPeerConnection()
        self.slot = vars(self.pc.addTransceiver("video").sender)["_frameseal_slot"]
        attach(self.pc, manager(), local_id="alice", remote_id="bob")
        self.slot.transform = lambda encryption, codec: self
        self.slot.counters.codec = "vp8"  # which finding the real transform notes
        self.encoder = SealingEncoder(self, codec, self.slot)
        self.depayload = lambda payload: part(stack, "codecs").depayload(codec, payload)
        vp8 = part(stack, "codecs.vpx").VpxPayloadDescriptor
        self.descriptor = lambda picture_id, start: bytes(vp8(start, 0, picture_id=picture_id))

    def encrypt_payloads(self, payloads: list[bytes], sealed: SealedPayloads) -> list[bytes] | None:
        return replace_frame("vp8", payloads, b"sealed " + join_payloads("vp8", payloads)) if self.seals else None

    def encode(self, frame, force_keyframe):
        self.forced.append(force_keyframe)
        payloads = [self.descriptor(self.picture_id, start) + text for start, text in ((1, b"pl"), (0, b"ain"))]
        self.picture_id = (self.picture_id + 1) % (1 << 15)
        return payloads, 1234


async def test_a_frame_that_is_dropped_owes_the_receivers_a_keyframe(stack):
    sending = Sending(stack)
    assert sending.encoder.encode("frame", False)[0]
    sending.seals = False
    assert sending.encoder.encode("frame", False) == ([], 1234)
    sending.seals = True
    for _ in range(2):
        payloads, timestamp = sending.encoder.encode("frame", False)
        assert [sending.depayload(payload) for payload in payloads] == [b"sealed plain"]
        assert timestamp == 1234
    assert sending.forced == [False, False, True, False]
    await sending.pc.close()


async def test_picture_ids_follow_the_encoder_that_made_the_pictures(stack):
    sending = Sending(stack)
    parse = part(stack, "codecs.vpx").VpxPayloadDescriptor.parse
    ids = [parse(sending.encoder.encode("frame", False)[0][0])[0].picture_id for _ in range(3)]
    sending.seals = False
    sending.encoder.encode("frame", False)
    sending.seals = True
    sending.picture_id = (1 << 15) - 1  # the encoder counts to the end, and starts again
    ids += [parse(sending.encoder.encode("frame", False)[0][0])[0].picture_id]
    assert ids == [7, 8, 9, (1 << 15) - 1]
    await sending.pc.close()


@pytest.mark.parametrize("picture_id", [7, 300])
@pytest.mark.parametrize("length", [1, 1267, 1268, 1300, 5000])
async def test_a_sealed_picture_is_dealt_out_as_the_stack_would(stack, picture_id, length):
    sending = Sending(stack)
    encoder = part(stack, "codecs.vpx").Vp8Encoder
    picture = bytes(n % 251 for n in range(length))
    expected = encoder._packetize(b"sealed " + picture, picture_id)
    payloads = encoder._packetize(picture, picture_id)
    assert sending.slot.seal(sending.slot.encryption, sending.codec, payloads) == expected
    await sending.pc.close()


async def test_payloads_under_unlike_descriptors_have_that_of_the_first(stack):
    sending = Sending(stack)
    unlike = [sending.descriptor(7, 1) + b"pl", sending.descriptor(300, 0) + b"ain"]
    payloads = sending.slot.seal(sending.slot.encryption, sending.codec, unlike)
    assert payloads == [sending.descriptor(7, 1) + b"sealed plain"]
    await sending.pc.close()


async def test_the_stacks_bitrate_reaches_the_real_encoder(stack):
    sending = Sending(stack)
    sending.encoder.target_bitrate = 400_000
    assert sending.target_bitrate == sending.encoder.target_bitrate == 400_000
    assert not hasattr(sending.encoder, "no_such_attribute")
    await sending.pc.close()


async def test_sealing_that_raises_drops_the_frame(stack):
    sending = Sending(stack)

    def encrypt(payloads, sealed):
        raise BaseException("a panic of the native module")

    sending.encrypt_payloads = encrypt
    assert sending.encoder.encode("frame", False) == ([], 1234)
    assert sending.slot.counters.dropped == 1
    assert "panic" in sending.slot.counters.last_error
    await sending.pc.close()


async def test_an_assignment_to_the_senders_frame_source_can_be_taken_back(stack):
    connection = part(stack).RTCPeerConnection()
    sender = connection.addTrack(picture_track(stack))

    async def other(codec):
        return None

    sender._next_encoded_frame = other
    assert sender._next_encoded_frame.args == (other,)
    del sender._next_encoded_frame
    assert sender._next_encoded_frame.args != (other,)
    await connection.close()


# --- the arguments of `attach` ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [frameseal.aiortc.attach, frameseal.aiortc.seal_data_channel])
@pytest.mark.parametrize("missing", ["local_id", "remote_id"])
def test_both_ids_are_required_and_passed_by_keyword(function, missing):
    ids = {"local_id": "alice", "remote_id": "bob"}
    given = ids.pop(missing)
    with pytest.raises(TypeError, match=rf"missing 1 required keyword-only argument: '{missing}'"):
        function(None, manager(), **ids)
    with pytest.raises(TypeError, match="positional arguments"):
        function(None, manager(), given, **ids)


@pytest.mark.parametrize("wrong", [None, 5, b"alice"])
@pytest.mark.parametrize("name", ["local_id", "remote_id"])
async def test_an_id_of_another_type_is_refused_by_its_name(stack, name, wrong):
    pc = part(stack).RTCPeerConnection()
    with pytest.raises(TypeError, match=rf"^{name} must be a str") as refusal:
        attach(pc, manager(), **{"local_id": "alice", "remote_id": "bob", name: wrong})
    assert "alice" not in str(refusal.value)
    attach(pc, manager(), local_id="alice", remote_id=lambda receiver: "bob")
    await pc.close()


# --- stacks ----------------------------------------------------------------------------------------------------------


def first_shape(cls):
    """A class of the stack as it was before the hook was put in: the hook in the classes is shared with aiortc."""
    members = {}
    for name, value in vars(cls).items():
        if isinstance(value, NextFrameGuard):
            members[name] = value._method
        elif not isinstance(value, GatedAttribute) and name not in ("__dict__", "__weakref__"):
            members[name] = inspect.unwrap(value) if inspect.isfunction(value) else value
    return type(cls.__name__, (), members)


@pytest.fixture
def stranger(monkeypatch):
    """A copy of aiortc under another name, for a test to break; returns a function that gets a part of it."""
    names = ["codecs", "rtcrtpparameters", *(f"rtc{n}" for n in ("rtpsender", "rtpreceiver", "dtlstransport"))]
    for name in ["", *(f".{name}" for name in (*names, "rtcdatachannel", "rtcpeerconnection", "rtcrtptransceiver"))]:
        original = importlib.import_module(f"aiortc{name}")
        copied = ModuleType(f"stranger{name}")
        vars(copied).update({k: v for k, v in vars(original).items() if not k.startswith("__")}, __version__="9.9")
        monkeypatch.setitem(sys.modules, f"stranger{name}", copied)
    for module, name in (
        ("rtcrtpsender", "RTCRtpSender"),
        ("rtcrtpreceiver", "RTCRtpReceiver"),
        ("rtcdtlstransport", "RTCDtlsTransport"),
        ("rtcdatachannel", "RTCDataChannel"),
        ("rtcrtptransceiver", "RTCRtpTransceiver"),
    ):
        copied = sys.modules[f"stranger.{module}"]
        setattr(copied, name, first_shape(getattr(copied, name)))
    connection = type("RTCPeerConnection", (), {"__module__": "stranger.rtcpeerconnection"})
    return lambda name: sys.modules[f"stranger.{name}"], connection


OF_SENDER = ("_next_encoded_frame", "_run_rtp", "_retransmit", "send", "stop", "_send_keyframe")
OF_RECEIVER = ("receive", "stop", "_handle_rtp_packet", "_send_rtcp_pli", "getSynchronizationSources")
SEAMS = [
    *(("rtcrtpsender", "RTCRtpSender", name) for name in OF_SENDER),
    ("rtcrtpsender", None, "RTCEncodedFrame"),
    *(("rtcrtpreceiver", "RTCRtpReceiver", name) for name in OF_RECEIVER),
    ("rtcrtpreceiver", None, "decoder_worker"),
    ("rtcdtlstransport", "RTCDtlsTransport", "_send_rtp"),
    ("rtcpeerconnection", "RTCPeerConnection", "getSenders"),
    ("rtcpeerconnection", "RTCPeerConnection", "getReceivers"),
    ("rtcdatachannel", "RTCDataChannel", "send"),
    ("rtcrtptransceiver", "RTCRtpTransceiver", "_setCurrentDirection"),
]


def test_a_stack_that_has_every_seam_is_hooked(stranger):
    Stack("stranger")


async def test_a_subclass_with_the_name_of_its_base_can_be_attached(stack):
    pc = type("RTCPeerConnection", (part(stack).RTCPeerConnection,), {"__module__": "framework.connections"})()
    attach(pc, manager(), local_id="alice", remote_id="bob")
    await pc.close()


@pytest.mark.parametrize("change", ["gone", "of another shape"])
@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam[2])
def test_a_stack_that_lacks_a_seam_is_refused_by_name_and_left_alone(stranger, monkeypatch, seam, change):
    (get, connection), (module, cls, name) = stranger, seam
    owner = getattr(get(module), cls) if cls else get(module)
    if change == "gone":
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, lambda *, nothing: None)
    parts = [
        get(f"rtc{part}") for part in ("rtpsender", "rtpreceiver", "dtlstransport", "datachannel", "rtptransceiver")
    ]
    shapes = [vars(each) for each in parts]
    shapes += [vars(each) for shape in shapes for each in shape.values() if isinstance(each, type)]
    before = [dict(shape) for shape in shapes]
    with pytest.raises(UnsupportedStack, match=name if change == "gone" else "does not (accept|use)") as refusal:
        attach(connection(), manager(), local_id="alice", remote_id="bob")
    assert str(refusal.value).startswith("stranger 9.9 is not built the way")
    assert [dict(shape) for shape in shapes] == before
    assert "stranger" not in stacks


def test_a_stack_whose_payloads_do_not_add_up_is_refused(stranger, monkeypatch):
    get, connection = stranger
    monkeypatch.setattr(get("rtcrtpreceiver"), "depayload", lambda codec, payload: payload)
    with pytest.raises(UnsupportedStack, match="the stack reads payloads of video/VP8 in another way"):
        attach(connection(), manager(), local_id="alice", remote_id="bob")


@pytest.mark.parametrize(
    "seam",
    [
        ("rtcrtpsender", "RTCRtpSender", "_run_rtp", "_RTCRtpSender__rtp_history"),
        ("rtcrtpsender", "RTCRtpSender", "_retransmit", "_RTCRtpSender__rtp_history"),
        ("rtcrtpsender", "RTCRtpSender", "send", "_RTCRtpSender__started"),
        ("rtcrtpreceiver", "RTCRtpReceiver", "receive", "_RTCRtpReceiver__started"),
        ("rtcrtpreceiver", "RTCRtpReceiver", "receive", "_RTCRtpReceiver__decoder_queue"),
        ("rtcrtpreceiver", "RTCRtpReceiver", "_handle_rtp_packet", "_RTCRtpReceiver__decoder_queue"),
        ("rtcdtlstransport", "RTCDtlsTransport", "_send_rtp", "_tx_srtp"),
    ],
)
def test_a_stack_that_keeps_things_under_other_names_is_refused(stranger, monkeypatch, seam):
    """What the gates are put around is named in the methods that use it, and nowhere before a call starts."""
    (get, connection), (module, cls, name, private) = stranger, seam
    method = vars(getattr(get(module), cls))[name]
    code = method.__code__
    renamed = code.replace(co_names=tuple("renamed" if each == private else each for each in code.co_names))
    monkeypatch.setattr(getattr(get(module), cls), name, FunctionType(renamed, method.__globals__))
    with pytest.raises(UnsupportedStack, match=f"does not use {private}"):
        attach(connection(), manager(), local_id="alice", remote_id="bob")
