"""Data packets through the wheel: LiveKit's own, ours, and an attacker's."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

import frameseal
import reference

CASES = json.loads((Path(__file__).parent / "vectors/livekit.json").read_text())["data_packets"]
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
    assert cryptor.open(iv, case["key_index"], sealed) == plaintext

    ours_iv, key_index, ours = cryptor.seal(plaintext)
    assert (len(ours_iv), key_index) == (12, case["key_index"])
    assert AESGCM(key).encrypt(ours_iv, plaintext, None) == ours


def test_every_case_of_the_vectors_is_used() -> None:
    rest = [case["name"] for case in CASES if case not in PACKETS]
    assert len(PACKETS) == 4
    assert rest == ["sender one ratchet step ahead, receiver window 8: observed outcome"]


def test_a_sender_that_ratcheted_is_followed_where_the_worker_loses_it() -> None:
    sender, receiver = ring(), ring(ratchet_window=8)
    sender.ratchet()
    iv, key_index, sealed = frameseal.DataCryptor(sender).seal(b"text")
    assert frameseal.DataCryptor(receiver).open(iv, key_index, sealed) == b"text"
    assert receiver.fingerprint() == sender.fingerprint()


@given(payload=st.binary(max_size=300), context=st.binary(max_size=40))
def test_what_is_sealed_opens_in_its_context(payload: bytes, context: bytes) -> None:
    alice, bob = pair(bind_context=True)
    assert bob.open(*alice.seal(payload, context), context) == payload
    packet = alice.seal_packet(payload, context)
    assert len(packet) == len(payload) + 31
    with pytest.raises(frameseal.AuthenticationFailed):
        bob.open_packet(packet, context + b"!")
    assert bob.open_packet(packet, context) == payload


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"\xf5\x01\x00" + tail))
def test_arbitrary_bytes_are_a_frame_error_and_nothing_else(packet: bytes) -> None:
    for bind_context in (False, True):
        with pytest.raises(frameseal.FrameError):
            frameseal.DataCryptor(SHARED, bind_context).open_packet(packet)


def test_the_bound_form_is_the_documented_one() -> None:
    key = reference.derive("livekit", bytes(32))
    alice, _ = pair(bind_context=True)
    iv, _, sealed = alice.seal(b"text", b"to bob")
    aad = b"frameseal data v1" + (6).to_bytes(8, "big") + b"to bob"
    assert AESGCM(key).decrypt(iv, sealed, aad) == b"text"
    packet = alice.seal_packet(b"text", b"to bob")
    assert packet[:3] == b"\xf5\x01\x00"
    assert AESGCM(key).decrypt(packet[3:15], packet[15:], aad) == b"text"


def test_ivs_come_from_the_ring_that_the_media_draws_from() -> None:
    room = ring(usage_limit=6)
    ivs = {frameseal.DataCryptor(room).seal(b"")[0] for _ in range(3)}
    ivs |= {reference.take_apart(frameseal.Encryptor(room).encrypt(b"frame"), None).iv for _ in range(3)}
    assert len(ivs) == 6
    assert room.usage() == 6
    with pytest.raises(frameseal.KeyExhausted):
        frameseal.DataCryptor(room).seal_packet(b"")


def test_a_context_that_would_not_be_looked_at_is_a_mistake() -> None:
    alice, bob = pair()
    packet = alice.seal_packet(b"text")
    for call in (
        lambda: alice.seal(b"text", b"to bob"),
        lambda: alice.seal_packet(b"text", context=b"to bob"),
        lambda: bob.open_packet(packet, b"to bob"),
        lambda: bob.open(packet[3:15], 0, packet[15:], b"to bob"),
    ):
        with pytest.raises(ValueError, match="bind_context"):
            call()
    assert not bob.bind_context


def test_a_packet_opens_once() -> None:
    alice, bob = pair()
    packet = alice.seal_packet(b"pay 10")
    assert bob.open_packet(packet) == b"pay 10"
    with pytest.raises(frameseal.ReplayedFrame):
        bob.open_packet(packet)
    with pytest.raises(frameseal.ReplayedFrame):
        bob.open(packet[3:15], 0, packet[15:])
    forgetful = frameseal.DataCryptor(SHARED, replay_window=0)
    assert {forgetful.open_packet(packet) for _ in range(3)} == {b"pay 10"}
    with pytest.raises(ValueError, match="replay window"):
        frameseal.DataCryptor(SHARED, replay_window=65_537)


def test_keys_that_are_missing_and_parts_that_are_none_are_told() -> None:
    empty = frameseal.DataCryptor(frameseal.KeyRing("livekit"))
    with pytest.raises(frameseal.UnknownKey) as error:
        empty.seal(b"text")
    assert error.value.kid == 0
    with pytest.raises(frameseal.UnknownKey) as error:
        empty.open(bytes(12), 70_000, bytes(16))
    assert error.value.kid == 70_000
    for iv, sealed in [(bytes(11), bytes(16)), (bytes(12), bytes(15)), (b"", b"")]:
        with pytest.raises(frameseal.MalformedFrame):
            empty.open(iv, 0, sealed)
    assert empty.stats()["malformed"] == 3
    assert (empty.stats()["not_sealed"], empty.stats()["unknown_key"]) == (1, 1)


def test_large_messages_and_buffers_go_the_same_way() -> None:
    alice, bob = pair(bind_context=True)
    payload = bytearray(b"x" * 100_000)
    assert bob.open_packet(memoryview(alice.seal_packet(payload, bytearray(b"c"))), b"c") == payload
