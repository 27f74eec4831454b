"""Pass whole numbers to the native module. It accepts each, or raises an error that names the argument."""

import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from typing import Any

import pytest

import frameseal
from frameseal import DataCryptor, Decryptor, Encryptor, KeyRing

KEY = bytes(range(32))
NUMBERS = [-1, 0, 1, 2**8, 2**16, 2**31, 2**32, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30, -(10**30), 10**5000]
OFFSETS = array("q", range(0, 1501, 5))
NO_NUMBERS = [True, False, 1.0, float("nan"), None, "1", b"1", [1], object()]


def keyed(profile: str = "livekit", **options: Any) -> KeyRing:
    ring = KeyRing(profile, **options)
    ring.set_key(KEY)
    return ring


def epoch(**fields: Any) -> None:
    KeyRing("sframe").set_epoch(
        **{"epoch": 1, "exported_secret": KEY, "epoch_bits": 4, "sender_bits": 2, "sender_index": 1, **fields}
    )


# By the name of the argument: what takes it, and what else says None.
TAKEN: list[tuple[str, Callable[[Any], object], bool]] = [
    ("suite", lambda n: KeyRing("sframe", suite=n), True),
    ("key_size", lambda n: KeyRing("livekit", key_size=n), True),
    ("key_ring_size", lambda n: KeyRing("livekit", key_ring_size=n), False),
    ("ratchet_window", lambda n: KeyRing("livekit", ratchet_window=n), False),
    ("ratchet_bits", lambda n: KeyRing("sframe", ratchet_bits=n), False),
    ("ratchet_bits", lambda n: KeyRing("livekit", ratchet_bits=n), False),
    ("failure_tolerance", lambda n: KeyRing("livekit", failure_tolerance=n), False),
    ("usage_limit", lambda n: KeyRing("livekit", usage_limit=n), True),
    ("key_id", lambda n: KeyRing("livekit").set_key(KEY, n), False),
    ("key_id", lambda n: KeyRing("sframe").set_key(KEY, n), False),
    ("key_id", lambda n: KeyRing("sframe", shared=True).set_key(KEY, n), False),
    ("key_id", lambda n: KeyRing("sframe").set_passphrase("passphrase", n), False),
    ("key_id", lambda n: KeyRing("livekit").set_secret(frameseal._native.Secret(KEY), n), False),
    # A key of its own: after `counter`, the process lets no other ring seal with the key.
    ("counter", lambda n: KeyRing("sframe").set_key(os.urandom(32), counter=n), True),
    ("epoch", lambda n: epoch(epoch=n), False),
    ("epoch_bits", lambda n: epoch(epoch_bits=n), False),
    ("sender_bits", lambda n: epoch(sender_bits=n, sender_index=0), False),
    ("sender_index", lambda n: epoch(sender_index=n), False),
    ("context", lambda n: epoch(context=n), False),
    ("retain", lambda n: epoch(retain=n), False),
    ("key_id", lambda n: keyed().ratchet(n), False),
    ("key_id", lambda n: keyed("sframe", ratchet_bits=63).ratchet(n), False),
    ("key_id", lambda n: keyed().remove_key(n), False),
    ("key_id", lambda n: keyed(ratchet_window=2).derive_ratchet_step(n), False),
    ("key_id", lambda n: keyed().frames_sealed(n), False),
    ("key_id", lambda n: keyed().fingerprint(n), True),
    ("key_id", lambda n: keyed(allow_export=True).export_key(n), True),
    ("sending_key_id", lambda n: setattr(KeyRing("sframe"), "sending_key_id", n), False),
    ("key_id", lambda n: setattr(KeyRing("livekit"), "sending_key_id", n), False),
    ("replay_window", lambda n: Decryptor(keyed(), replay_window=n), True),
    ("replay_window", lambda n: Decryptor(keyed("sframe"), replay_window=n), True),
    ("replay_window", lambda n: DataCryptor(keyed(), replay_window=n), True),
    ("threads", lambda n: Encryptor(keyed()).encrypt_batch(b"frame" * 300, OFFSETS, n), True),
    ("threads", lambda n: Decryptor(keyed()).decrypt_batch(b"frame" * 300, OFFSETS, n), True),
]
CASES = pytest.mark.parametrize(
    ("name", "take", "or_none"), TAKEN, ids=[f"{n}-{case[0]}" for n, case in enumerate(TAKEN)]
)


def outcome(take: Callable[[Any], object], number: Any) -> Exception | None:
    try:
        take(number)
    except (ValueError, TypeError) as error:
        return error
    return None


@CASES
def test_a_number_is_taken_or_refused_by_name(name: str, take: Callable[[Any], object], or_none: bool) -> None:
    refused = 0
    for number in NUMBERS:
        error = outcome(take, number)
        if error is not None:
            refused += 1
            assert isinstance(error, ValueError) and name in str(error), (number, error)
    # What no type of the core holds is refused everywhere.
    assert refused >= sum(abs(number) > 2**64 for number in NUMBERS)


@CASES
def test_what_is_no_number_is_a_type_error_that_names_the_argument(
    name: str, take: Callable[[Any], object], or_none: bool
) -> None:
    for other in NO_NUMBERS:
        error = outcome(take, other)
        if other is None and or_none:
            assert error is None
        else:
            assert isinstance(error, TypeError) and name in str(error), (other, error)


def test_a_key_index_that_is_no_number_of_a_key_opens_nothing() -> None:
    cryptor = DataCryptor(keyed())
    iv, key_index, ciphertext = cryptor.encrypt(b"message")
    for number in NUMBERS:
        if number == key_index:
            assert cryptor.decrypt(iv, number, ciphertext) == b"message"
        elif 0 <= number < 2**64:
            with pytest.raises(frameseal.UnknownKey):
                cryptor.decrypt(iv, number, ciphertext)
        else:
            with pytest.raises(ValueError, match="key_index"):
                cryptor.decrypt(iv, number, ciphertext)
    for other in NO_NUMBERS:
        with pytest.raises(TypeError, match="key_index"):
            cryptor.decrypt(iv, other, ciphertext)


def test_a_chain_of_fallbacks_is_bounded_and_one_within_the_bound_works_through() -> None:
    first = keyed()
    chain = [first]
    with pytest.raises(ValueError, match="fallback"):
        for _ in range(300_000):
            chain.append(KeyRing("livekit", fallback=chain[-1]))
    last, rings = chain[-1], len(chain)
    assert rings == 17
    sealed = Encryptor(first).encrypt(b"frame")
    assert Decryptor(last).decrypt(sealed) == b"frame"
    before = last.generation
    first.set_key(KEY, 1)
    assert (last.generation, last.key_ids, last.can_encrypt, last.frames_sealed()) == (before + 1, [0, 1], True, 1)


def test_deep_chains_and_large_numbers_end_no_process() -> None:
    """In a process of its own: what overflows a stack ends the one it happens in."""
    script = """
from frameseal import KeyRing
ring = KeyRing("sframe")
for _ in range(300_000):
    try:
        ring = KeyRing("sframe", fallback=ring)
    except ValueError:
        pass
ring.set_key(bytes(16))
del ring
try:
    KeyRing("sframe").set_epoch(1, bytes(16), epoch_bits=4, sender_bits=1, sender_index=0, retain=2**64 - 1)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert "retain" in done.stdout
    assert done.stderr == ""


def test_every_number_of_epochs_that_a_ring_may_retain_is_retained() -> None:
    for retain in (0, 1, 255):
        ring = KeyRing("sframe")
        for number in range(300):
            fields = {"epoch_bits": 16, "sender_bits": 1, "sender_index": 0, "retain": retain}
            ring.set_epoch(number, number.to_bytes(16), **fields)
        assert ring.key_ids == list(range(299 - retain, 300))
