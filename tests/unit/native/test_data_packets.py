"""Data packets through the wheel: LiveKit's own, ours, plain SFrames, and an attacker's."""

import json
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

import frameseal
from support import reference
from support.paths import VECTORS

CASES = json.loads((VECTORS / "livekit.json").read_text())["data_packets"]
PACKETS = [case for case in CASES if "iv_hex" in case]
PASSPHRASE = "my-shared-secret"


def ring(**options: Any) -> frameseal.KeyRing:
    made = frameseal.KeyRing("livekit", **options)
    made.set_key(bytes(32))
    return made


SHARED = ring()


def pair(bind_context: bool = False) -> tuple[frameseal.DataCryptor, frameseal.DataCryptor]:
    return frameseal.DataCryptor(SHARED, bind_context), frameseal.DataCryptor(SHARED, bind_context)


@pytest.mark.parametrize("case", PACKETS, ids=lambda case: case["name"])
def test_the_workers_packets_open_and_ours_are_as_it_would_have_made_them(case: dict[str, Any]) -> None:
    key, plaintext = bytes.fromhex(case["aes_key_hex"]), bytes.fromhex(case["plaintext_hex"])
    room = frameseal.KeyRing("livekit", key_size=len(key) * 8)
    room.set_passphrase(PASSPHRASE, case["key_index"])
    cryptor = frameseal.DataCryptor(room)
    iv, sealed = bytes.fromhex(case["iv_hex"]), bytes.fromhex(case["encrypted_value_hex"])
    assert AESGCM(key).encrypt(iv, plaintext, None) == sealed
    assert cryptor.decrypt(iv, case["key_index"], sealed) == plaintext

    ours_iv, key_index, ours = cryptor.encrypt(plaintext)
    assert (len(ours_iv), key_index) == (12, case["key_index"])
    assert AESGCM(key).encrypt(ours_iv, plaintext, None) == ours


def test_every_case_of_the_vectors_is_used() -> None:
    rest = [case["name"] for case in CASES if case not in PACKETS]
    assert len(PACKETS) == 4
    assert rest == ["sender one ratchet step ahead, receiver window 8: observed outcome"]


def test_a_sender_that_ratcheted_is_followed_where_the_worker_loses_it() -> None:
    sender, receiver = ring(), ring(ratchet_window=8)
    sender.ratchet()
    iv, key_index, sealed = frameseal.DataCryptor(sender).encrypt(b"text")
    assert frameseal.DataCryptor(receiver).decrypt(iv, key_index, sealed) == b"text"
    assert receiver.fingerprint() == sender.fingerprint()


@given(payload=st.binary(max_size=300), context=st.binary(max_size=40))
def test_what_is_sealed_opens_in_its_context(payload: bytes, context: bytes) -> None:
    alice, bob = pair(bind_context=True)
    assert bob.decrypt(*alice.encrypt(payload, context), context) == payload
    packet = alice.encrypt_packet(payload, context)
    assert len(packet) == len(payload) + 31
    with pytest.raises(frameseal.AuthenticationFailed):
        bob.decrypt_packet(packet, context + b"!")
    assert bob.decrypt_packet(packet, context) == payload


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"\xf5\x01\x00" + tail))
def test_arbitrary_bytes_are_a_frame_error_and_nothing_else(packet: bytes) -> None:
    for bind_context in (False, True):
        with pytest.raises(frameseal.FrameError):
            frameseal.DataCryptor(SHARED, bind_context).decrypt_packet(packet)


def test_the_bound_form_is_the_documented_one() -> None:
    key = reference.derive("livekit", bytes(32))
    alice, _ = pair(bind_context=True)
    iv, _, sealed = alice.encrypt(b"text", b"to bob")
    aad = b"frameseal data v1" + (6).to_bytes(8, "big") + b"to bob"
    assert AESGCM(key).decrypt(iv, sealed, aad) == b"text"
    packet = alice.encrypt_packet(b"text", b"to bob")
    assert packet[:3] == b"\xf5\x01\x00"
    assert AESGCM(key).decrypt(packet[3:15], packet[15:], aad) == b"text"


def test_ivs_come_from_the_ring_that_the_media_draws_from() -> None:
    room = ring(usage_limit=6)
    ivs = {frameseal.DataCryptor(room).encrypt(b"")[0] for _ in range(3)}
    ivs |= {reference.take_apart(frameseal.Encryptor(room).encrypt(b"frame"), None).iv for _ in range(3)}
    assert len(ivs) == 6
    assert room.frames_sealed() == 6
    with pytest.raises(frameseal.KeyExhausted):
        frameseal.DataCryptor(room).encrypt_packet(b"")


def test_a_context_that_would_not_be_looked_at_is_a_mistake() -> None:
    alice, bob = pair()
    packet = alice.encrypt_packet(b"text")
    for call in (
        lambda: alice.encrypt(b"text", b"to bob"),
        lambda: alice.encrypt_packet(b"text", context=b"to bob"),
        lambda: bob.decrypt_packet(packet, b"to bob"),
        lambda: bob.decrypt(packet[3:15], 0, packet[15:], b"to bob"),
    ):
        with pytest.raises(ValueError, match="bind_context"):
            call()
    assert not bob.bind_context


def test_a_packet_opens_once() -> None:
    alice, bob = pair()
    packet = alice.encrypt_packet(b"pay 10")
    assert bob.decrypt_packet(packet) == b"pay 10"
    with pytest.raises(frameseal.ReplayedFrame):
        bob.decrypt_packet(packet)
    with pytest.raises(frameseal.ReplayedFrame):
        bob.decrypt(packet[3:15], 0, packet[15:])
    forgetful = frameseal.DataCryptor(SHARED, replay_window=0)
    assert {forgetful.decrypt_packet(packet) for _ in range(3)} == {b"pay 10"}
    with pytest.raises(ValueError, match="replay_window must be between 0 and 65536"):
        frameseal.DataCryptor(SHARED, replay_window=65_537)


def test_keys_that_are_missing_and_parts_that_are_none_are_told() -> None:
    empty = frameseal.DataCryptor(frameseal.KeyRing("livekit"))
    with pytest.raises(frameseal.UnknownKey) as error:
        empty.encrypt(b"text")
    assert error.value.kid == 0
    with pytest.raises(frameseal.UnknownKey) as error:
        empty.decrypt(bytes(12), 70_000, bytes(16))
    assert error.value.kid == 70_000
    for iv, sealed in [(bytes(11), bytes(16)), (bytes(12), bytes(15)), (b"", b"")]:
        with pytest.raises(frameseal.MalformedFrame):
            empty.decrypt(iv, 0, sealed)
    assert empty.stats()["malformed"] == 3
    assert (empty.stats()["not_sealed"], empty.stats()["unknown_key"]) == (1, 1)


def test_large_messages_and_buffers_go_the_same_way() -> None:
    alice, bob = pair(bind_context=True)
    payload = bytearray(b"x" * 100_000)
    assert bob.decrypt_packet(memoryview(alice.encrypt_packet(payload, bytearray(b"c"))), b"c") == payload


# --- sframe ----------------------------------------------------------------------------------------------------------


def sframe(*keys: tuple[int, bytes], **options: Any) -> frameseal.KeyRing:
    """Make a ring with these base keys, by KID; it seals with the first."""
    made = frameseal.KeyRing("sframe", **options)
    for kid, base_key in keys:
        made.set_key(base_key, kid)
    return made


def fresh() -> bytes:
    return os.urandom(16)


SFRAME = sframe((0, bytes(16)), shared=True)


@pytest.mark.parametrize("suite", frameseal.CipherSuite)
def test_an_sframe_packet_is_a_plain_sframe(suite: frameseal.CipherSuite) -> None:
    room = sframe((7, fresh()), suite=suite, allow_draft=True)
    cryptor, opener = frameseal.DataCryptor(room), frameseal.Decryptor(room)
    for ctr, payload in enumerate([b"", b"text", bytes(100_000)]):
        packet = cryptor.encrypt_packet(payload)
        assert packet[0] == 7 << 4 | ctr
        assert opener.decrypt(packet) == cryptor.decrypt_packet(packet) == payload
    assert room.frames_sealed(7) == 3


def test_a_bound_sframe_packet_has_the_documented_metadata() -> None:
    room = sframe((1, fresh()))
    bound = frameseal.DataCryptor(room, bind_context=True)
    packet = bound.encrypt_packet(b"text", b"to bob")
    metadata = b"frameseal data v1" + (6).to_bytes(8, "big") + b"to bob"
    assert frameseal.Decryptor(room).decrypt(packet, metadata) == b"text"
    frame = frameseal.Encryptor(room).encrypt(b"picture")
    for call in (
        lambda: frameseal.Decryptor(room).decrypt(packet),
        lambda: bound.decrypt_packet(packet, b"to carol"),
        lambda: bound.decrypt_packet(packet),
        lambda: bound.decrypt_packet(frame),
    ):
        with pytest.raises(frameseal.AuthenticationFailed):
            call()
    assert bound.decrypt_packet(packet, b"to bob") == b"text"


@pytest.mark.parametrize("shared", [False, True])
def test_two_sframe_senders_each_have_counters_of_their_own(shared: bool) -> None:
    a, b = fresh(), fresh()
    if shared:
        rings = [sframe((0, a), shared=True) for _ in range(2)]
    else:
        rings = [sframe((1, a), (2, b)), sframe((2, b), (1, a))]
    alice, bob = (frameseal.DataCryptor(ring) for ring in rings)
    packets = []
    for number in range(3):
        payload = number.to_bytes(1, "big")
        packets += [alice.encrypt_packet(payload), bob.encrypt_packet(payload)]
        assert bob.decrypt_packet(packets[-2]) == alice.decrypt_packet(packets[-1]) == payload
    assert len(set(packets)) == 6
    for packet in packets[::2]:
        with pytest.raises(frameseal.ReplayedFrame):
            bob.decrypt_packet(packet)
    forgetful = frameseal.DataCryptor(rings[1], replay_window=0)
    assert {forgetful.decrypt_packet(packets[0]) for _ in range(3)} == {b"\0"}


def test_an_sframe_packet_under_a_wrong_or_missing_key_does_not_open() -> None:
    key = fresh()
    packet = frameseal.DataCryptor(sframe((1, key))).encrypt_packet(b"text")
    for ring, expected in [
        (sframe((1, fresh())), frameseal.AuthenticationFailed),
        (sframe((1, key), suite=frameseal.CipherSuite.AES_256_GCM_SHA512_128), frameseal.AuthenticationFailed),
        (sframe((2, key)), frameseal.UnknownKey),
        (sframe(), frameseal.UnknownKey),
    ]:
        cryptor = frameseal.DataCryptor(ring)
        with pytest.raises(expected) as error:
            cryptor.decrypt_packet(packet)
        assert error.value.kid == 1
        assert cryptor.stats()["opened"] == 0
    with pytest.raises(frameseal.UnknownKey):
        frameseal.DataCryptor(sframe()).encrypt_packet(b"text")


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_no_sframe_packet(packet: bytes) -> None:
    cryptor = frameseal.DataCryptor(SFRAME)
    with pytest.raises(frameseal.FrameError):
        cryptor.decrypt_packet(packet)
    assert cryptor.stats()["opened"] == 0


def test_an_sframe_sender_that_ratcheted_is_followed() -> None:
    key = fresh()
    sender, receiver = (sframe((0, key), ratchet_bits=4, ratchet_window=4) for _ in range(2))
    assert sender.ratchet() == 1
    assert (
        frameseal.DataCryptor(receiver).decrypt_packet(frameseal.DataCryptor(sender).encrypt_packet(b"text")) == b"text"
    )
    assert receiver.key_ids == [0, 1]


def test_media_between_two_messages_does_not_make_the_late_one_look_replayed() -> None:
    room = sframe((1, fresh()))
    cryptor, encryptor = frameseal.DataCryptor(room), frameseal.Encryptor(room, "opus")
    late = cryptor.encrypt_packet(b"first")
    for _ in range(5_000):
        encryptor.encrypt(b"voice")
    assert cryptor.decrypt_packet(cryptor.encrypt_packet(b"second")) == b"second"
    assert cryptor.decrypt_packet(late) == b"first"


def test_an_sframe_packet_has_no_parts() -> None:
    cryptor = frameseal.DataCryptor(sframe((1, fresh())))
    for call in (lambda: cryptor.encrypt(b"text"), lambda: cryptor.decrypt(bytes(12), 1, bytes(16))):
        with pytest.raises(ValueError, match="encrypt_packet and decrypt_packet"):
            call()
    assert cryptor.stats()["sealed"] == cryptor.stats()["malformed"] == 0
