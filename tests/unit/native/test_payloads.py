"""Sealing of frames in their RTP payloads, and the memory of the payloads that were sealed."""

import os
from fractions import Fraction

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameseal import Decryptor, Encryptor, KeyRing, MalformedFrame, UnknownKey
from frameseal._native import SealedPayloads, join_payloads, replace_frame
from support.calls import part
from support.plain_media import video

HEADER = b"\x80\x60\x12\x34" + bytes(8)  # RTP without CSRCs and extension


def ring(profile="livekit") -> KeyRing:
    made = KeyRing(profile)
    made.set_key(os.urandom(32))  # only one ring may count under a key of SFrame
    return made


def packet_of(frame: bytes) -> av.Packet:
    packet = av.Packet(frame)
    packet.pts, packet.time_base = 0, Fraction(1, 90000)
    return packet


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_the_payloads_are_those_of_the_stack_for_the_sealed_frame(stack, codec, profile):
    parameters = part(stack, "rtcrtpparameters").RTCRtpCodecParameters(f"video/{codec.upper()}", 90000, payloadType=97)
    packer, keys, sealed = part(stack, "codecs").get_encoder(parameters), ring(profile), SealedPayloads(256)
    encryptor, decryptor = Encryptor(keys, codec), Decryptor(keys, codec)
    for frame in video(codec)[:12]:
        packer.picture_id = 77
        payloads = packer.pack(packet_of(frame))[0]
        plain = join_payloads(codec, payloads)
        assert plain == b"".join(part(stack, "codecs").depayload(parameters, payload) for payload in payloads)
        made = encryptor.encrypt_payloads(payloads, sealed)
        whole = b"".join(part(stack, "codecs").depayload(parameters, payload) for payload in made)
        packer.picture_id = 77
        assert made == packer.pack(packet_of(whole))[0]
        assert decryptor.decrypt(whole) in (plain, without_sei(plain))
        assert sealed.holds(made) and not sealed.holds(payloads)


def without_sei(frame: bytes) -> bytes:
    start, *units = frame.split(b"\0\0\0\1")
    return start + b"".join(b"\0\0\0\1" + unit for unit in units if not unit or unit[0] & 0x1F != 6)


@settings(deadline=None)
@given(st.lists(st.integers(2, 4000), min_size=1, max_size=14), st.integers(0, 7))
def test_nal_units_are_dealt_out_as_the_stack_does(lengths, flags):
    parameters = part("aiortc", "rtcrtpparameters").RTCRtpCodecParameters("video/H264", 90000, payloadType=97)
    packer = part("aiortc", "codecs").get_encoder(parameters)
    frame = b"".join(
        b"\0\0\0\1" + bytes([(flags + n) % 8 << 5 | 1 + n % 23]) + b"\xab" * (length - 1)
        for n, length in enumerate(lengths)
    )
    expected = packer.pack(packet_of(frame))[0]
    assert replace_frame("h264", [b"\x65ab"], frame) == expected
    assert join_payloads("h264", expected) == frame


def test_a_packet_of_audio_stays_one_payload():
    keys, sealed = ring(), SealedPayloads(4)
    (payload,) = Encryptor(keys, "opus").encrypt_payloads([b"\x78 one packet"], sealed)
    assert Decryptor(keys, "opus").decrypt(payload) == b"\x78 one packet"
    assert sealed.holds([payload])
    with pytest.raises(ValueError, match=r"^payloads of this codec carry one frame each: pass one payload, not 2$"):
        Encryptor(keys, "opus").encrypt_payloads([b"\x78one", b"\x78two"], sealed)


def test_any_buffer_is_a_payload_and_an_empty_frame_has_none():
    keys, sealed = ring("sframe"), SealedPayloads(4)
    (payload,) = Encryptor(keys, "opus").encrypt_payloads([bytearray(b"\x78packet")], sealed, b"metadata")
    assert Decryptor(keys, "opus").decrypt(payload, b"metadata") == b"\x78packet"
    assert Encryptor(keys, "opus").encrypt_payloads([b""], sealed) == []
    assert Encryptor(keys, "vp8").encrypt_payloads([b"\x10"], sealed) == []
    assert len(sealed) == 1


def test_parameter_sets_alone_wait_for_a_picture():
    sets, picture = b"\x67\x42\x00\x1f", b"\x65\x88" + bytes(range(1, 200))
    keys, sealed = ring(), SealedPayloads(4)
    encryptor = Encryptor(keys, "h264")
    assert encryptor.encrypt_payloads([sets], sealed) == []
    made = encryptor.encrypt_payloads([picture], sealed)
    opened = Decryptor(keys, "h264").decrypt(join_payloads("h264", made))
    assert opened == b"\0\0\0\1" + sets + b"\0\0\0\1" + picture


def test_a_frame_that_cannot_be_sealed_leaves_nothing():
    sealed = SealedPayloads(4)
    with pytest.raises(UnknownKey):
        Encryptor(KeyRing("livekit"), "opus").encrypt_payloads([b"\x78packet"], sealed)
    with pytest.raises(MalformedFrame):
        Encryptor(ring(), "vp8").encrypt_payloads([b"\x10\x01"], sealed)
    with pytest.raises(ValueError, match="metadata"):
        Encryptor(ring(), "opus").encrypt_payloads([b"\x78packet"], sealed, b"metadata")
    with pytest.raises(ValueError, match="no format that is known"):
        Encryptor(ring("sframe"), "av1").encrypt_payloads([b"\x78packet"], sealed)
    with pytest.raises(TypeError, match=r"^payloads must be a list of bytes$"):
        Encryptor(ring(), "opus").encrypt_payloads(["text"], sealed)
    assert len(sealed) == 0


def test_the_codecs_without_a_format_are_named():
    for call in (lambda: join_payloads("vp9", [b"a"]), lambda: replace_frame("vp9", [b"a"], b"b")):
        with pytest.raises(ValueError, match="no format that is known"):
            call()
    with pytest.raises(ValueError, match=r"^unknown codec"):
        join_payloads("theora", [b"a"])


# --- the memory of sealed payloads -----------------------------------------------------------------------------------


def filled(*frames: bytes, capacity: int = 4) -> tuple[SealedPayloads, list[bytes]]:
    sealed = SealedPayloads(capacity)
    encryptor = Encryptor(ring(), "opus")
    return sealed, [encryptor.encrypt_payloads([frame], sealed)[0] for frame in frames]


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        b"\x82" + HEADER[1:] + bytes(8),  # two CSRCs
        b"\x90" + HEADER[1:] + b"\xbe\xde\0\2" + bytes(8),  # an extension of two words
        b"\x91" + HEADER[1:] + bytes(4) + b"\xbe\xde\0\0",
        HEADER + b"\x12\x34",  # a retransmission
    ],
)
def test_a_packet_with_a_sealed_payload_is_admitted(header):
    sealed, (payload,) = filled(b"\x78packet")
    assert sealed.admits(header + payload)
    for other in (
        b"\x78packet",
        payload[1:],
        payload + b"\0",
        bytes([payload[0] ^ 1]) + payload[1:],
        payload[:-1] + b"a",
    ):
        assert not sealed.admits(header + other)
        assert not sealed.holds([payload, other])


def test_a_packet_without_a_payload_is_admitted_and_part_of_a_header_is_not():
    sealed = SealedPayloads(1)
    assert sealed.admits(HEADER) and sealed.admits(b"\x90" + HEADER[1:] + b"\xbe\xde\0\0")
    assert sealed.holds([])
    for cut in (b"", HEADER[:-1], b"\x81" + HEADER[1:], b"\x90" + HEADER[1:], b"\x90" + HEADER[1:] + b"\xbe\xde\0\1"):
        assert not sealed.admits(cut)


def test_the_oldest_payloads_are_forgotten_and_those_of_one_frame_never():
    sealed, payloads = filled(*(b"\x78packet %d" % n for n in range(7)), capacity=4)
    assert [sealed.holds([payload]) for payload in payloads] == [False] * 2 + [True] * 5
    long = Encryptor(ring(), "vp8").encrypt_payloads(replace_frame("vp8", [b"\x10"], b"\x01" * 9000), sealed)
    assert len(long) > 4 and sealed.holds(long) and sealed.holds(tuple(long))
    sealed.clear()
    assert len(sealed) == 0 and not sealed.holds(long)


def test_what_is_no_payload_is_not_held():
    sealed, (payload,) = filled(b"\x78packet")
    assert not sealed.holds([bytearray(payload)]) and not sealed.holds(payload)
    with pytest.raises(TypeError, match="not iterable"):
        sealed.holds(5)
    for wrong in (-1, 1 << 70):
        with pytest.raises(ValueError, match="capacity"):
            SealedPayloads(wrong)
