"""Fingerprints: the same for the same keys, different for everything else, and derived as docs/verification.md says."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import frameseal
import reference
from frameseal.fingerprint import combine, short_code

KDF = json.loads((Path(__file__).parent / "vectors/livekit.json").read_text())["kdf"]
SECRET = "my-shared-secret"


def ring(secret: str | bytes = SECRET, profile: str = "livekit", **options: int) -> frameseal.KeyRing:
    made = frameseal.KeyRing(profile, **options)
    (made.set_passphrase if isinstance(secret, str) else made.set_key)(secret)
    return made


def test_the_derivation_is_the_documented_one() -> None:
    expected = HKDF(SHA256(), 32, b"", b"frameseal fingerprint v1").derive(reference.derive("livekit", SECRET))
    assert ring().fingerprint() == ring().fingerprint(0) == expected
    assert short_code(expected) == "89113 07522 39009 86627 28509 80814"


def test_both_ends_under_one_key_say_the_same() -> None:
    alice, bob = ring(b"k" * 32), ring(b"k" * 32, ratchet_window=4)
    assert short_code(alice.fingerprint()) == short_code(bob.fingerprint())
    alice.ratchet()
    assert alice.fingerprint() != bob.fingerprint()
    opened = frameseal.Decryptor(bob, "opus").decrypt(frameseal.Encryptor(alice, "opus").encrypt(b"\x78frame"))
    assert opened == b"\x78frame"
    assert alice.fingerprint() == bob.fingerprint()


def test_a_wrong_kdf_salt_or_size_shows_as_a_wrong_key_does() -> None:
    rings = [
        ring(),
        ring("my-shared-secret "),
        ring(SECRET.encode()),
        ring(SECRET.encode(), "videosdk"),
        ring(SECRET.encode(), "jitsi"),
        ring(profile="videosdk"),
        ring(key_size=256),
    ]
    assert len({short_code(each.fingerprint()) for each in rings}) == len(rings)


def sframe(secret: str | bytes = SECRET, key_id: int = 0, **options: Any) -> frameseal.KeyRing:
    made = frameseal.KeyRing("sframe", **options)
    if isinstance(secret, str):
        made.set_passphrase(secret, key_id)
    else:
        made.set_key(secret, key_id)
    return made


def of_base_key(base_key: bytes, key_id: int, suite: int = 4) -> bytes:
    label = b"frameseal sframe fingerprint v1" + suite.to_bytes(2, "big") + key_id.to_bytes(8, "big")
    return HKDF(SHA256(), 32, b"", label).derive(base_key)


@pytest.mark.parametrize("suite", frameseal.CipherSuite)
def test_of_an_sframe_key_it_is_the_documented_one_of_the_base_key(suite: frameseal.CipherSuite) -> None:
    key, options = bytes(range(40)), {"suite": suite, "allow_draft": True}
    assert sframe(key, 300, **options).fingerprint() == of_base_key(key, 300, suite)
    assert sframe(key, 3, shared=True, **options).fingerprint(3) == of_base_key(key, 3, suite)


def test_an_sframe_passphrase_is_the_base_key_that_it_gives() -> None:
    assert sframe().fingerprint() == sframe().fingerprint() != sframe(SECRET.encode()).fingerprint()


def test_all_who_share_an_sframe_key_or_an_epoch_say_the_same() -> None:
    shared = [sframe(b"k" * 16, 9, shared=True) for _ in range(2)]
    epochs = [frameseal.KeyRing("sframe") for _ in range(2)]
    kids = [ring.set_epoch(25, b"k" * 16, epoch_bits=4, sender_bits=2, sender_index=n) for n, ring in enumerate(epochs)]
    assert kids[0] != kids[1]
    for alice, bob in (shared, epochs):
        assert bob.key_ids == [9]
        frameseal.Decryptor(bob).decrypt(frameseal.Encryptor(alice).encrypt(b"frame"))
        assert alice.fingerprint() == bob.fingerprint() == of_base_key(b"k" * 16, 9)
    epochs[0].set_epoch(26, b"n" * 16, epoch_bits=4, sender_bits=2, sender_index=0)
    assert epochs[0].fingerprint() == of_base_key(b"n" * 16, 10) != epochs[1].fingerprint()


def test_of_a_sender_key_it_is_that_of_the_current_step() -> None:
    step = json.loads((Path(__file__).parent / "vectors/sframe-keys.json").read_text())["ratchet"][0]
    first, second = step["steps"][:2]
    key = bytes.fromhex(first["base_key"])
    suite, bits = step["cipher_suite"], step["ratchet_bits"]
    sender = sframe(key, first["kid"], suite=suite, ratchet_bits=bits, allow_draft=True)
    assert sender.fingerprint() == of_base_key(key, first["kid"], suite)
    sender.ratchet(first["kid"])
    assert sender.fingerprint() == of_base_key(bytes.fromhex(second["base_key"]), second["kid"], suite)


def test_it_is_that_of_the_sending_key_unless_one_is_named() -> None:
    two = ring()
    two.set_key(b"k" * 16, key_id=1)
    assert two.fingerprint() == two.fingerprint(0) != two.fingerprint(1)
    two.sending_key_id = 1
    assert two.fingerprint() == two.fingerprint(1)
    two.sending_key_id = 2
    with pytest.raises(ValueError, match="no key is set under id 2"):
        two.fingerprint()


def test_no_part_of_any_key_is_in_it() -> None:
    for case in KDF:
        if case["product"] != "livekit" or case["kdf"] != "HKDF" or case["key_bits"] != 128:
            continue
        fingerprint = ring(bytes.fromhex(case["input_hex"])).fingerprint()
        key = bytes.fromhex(case["aes_key_hex"])
        assert len(fingerprint) == 32
        assert not any(key[start : start + 4] in fingerprint for start in range(13))


def test_a_room_of_many_keys_has_one_code_whatever_order_they_came_in() -> None:
    keys = {"alice": bytes(32), "bob": b"b" * 32, "ågot": b"c" * 32}
    backwards = dict(reversed(keys.items()))
    assert combine(keys) == combine(backwards)
    assert short_code(combine(keys)) == "70785 61596 83713 64702 74056 09923"


@pytest.mark.parametrize(
    "other",
    [
        {"alice": bytes(32)},
        {"alice": b"b" * 32, "bob": bytes(32)},
        {"alice": bytes(32), "bob": b"b" * 31 + b"a"},
        {"alic": bytes(32), "ebob": b"b" * 32},
        {"alice": bytes(32), "bob": b"b" * 32, "eve": bytes(32)},
    ],
)
def test_another_room_has_another_code(other: dict[str, bytes]) -> None:
    assert combine(other) != combine({"alice": bytes(32), "bob": b"b" * 32})


def test_a_code_has_six_groups_of_five_digits_with_their_zeros() -> None:
    assert short_code(bytes(32)) == " ".join(["00000"] * 6)
    assert short_code((99_999).to_bytes(5, "big") + (100_007).to_bytes(5, "big") + bytes(22)).startswith("99999 00007 ")


def test_what_is_no_fingerprint_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        short_code(bytes(16))
    with pytest.raises(ValueError, match="32 bytes, not 0"):
        combine({"alice": b""})
    with pytest.raises(ValueError, match="nobody"):
        combine({})


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_the_two_sides_of_a_call_read_the_same_code_and_others_another(profile: str) -> None:
    def call(**keys: bytes) -> frameseal.E2EEManager:
        provider = frameseal.KeyProvider()
        for name, key in keys.items():
            provider.set_shared_key(key) if name == "shared" else provider.set_key(name, key)
        return frameseal.E2EEManager(provider, profile)

    a, b = bytes(32), bytes(range(32))
    assert call(shared=a).short_code() == call(shared=a).short_code() != call(shared=b).short_code()
    ours, theirs = call(alice=a, bob=b), call(bob=b, alice=a)
    assert ours.short_code(["alice", "bob"]) == theirs.short_code(["bob", "alice"])
    assert ours.short_code(["alice", "bob"]) != call(alice=b, bob=a).short_code(["alice", "bob"])
    with pytest.raises(ValueError, match="no key"):
        call(alice=a).short_code(["alice", "carol"])
    with pytest.raises(TypeError, match="several ids"):
        ours.short_code("alice")
