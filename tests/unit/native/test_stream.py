"""The profile `stream` through the wheel: frames, batches, call and inspection, beside the vectors of Stream's worker.

`rust/core/tests/stream.rs` reads the other groups of the vectors.
"""

import hashlib
import json
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import frameseal
from frameseal import Decryptor, E2EEManager, Encryptor, ExternalE2EEKeyProvider, KeyProvider, KeyRing, Profile
from frameseal.aiortc import seal_data_channel
from frameseal.codecs.plain import excerpt
from frameseal.frame_cryptor import CallCryptor
from frameseal.inspection import readings, shapes
from support.paths import VECTORS
from unit.test_datachannel import Pipe

STREAM = json.loads((VECTORS / "stream.json").read_text())
FRAMES = [case for case in STREAM["published"] + STREAM["frames"] if "wire_hex" in case]


def ring_of(case: dict[str, Any]) -> KeyRing:
    ring = KeyRing("stream")
    ring.set_key(bytes.fromhex(case["key_hex"]), case["key_index"])
    ring.sending_key_id = case["key_index"]
    return ring


@pytest.mark.parametrize("case", FRAMES, ids=lambda case: case["name"])
def test_every_frame_of_theirs_opens_and_is_read_as_it_was_made(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["wire_hex"])
    decryptor = Decryptor(ring_of(case), case["codec"])
    assert decryptor.decrypt(sealed).hex() == case["clear_hex"]
    assert decryptor.key_id_of(sealed) == readings.key_id(sealed, "stream", case["codec"]) == case["key_index"]
    with pytest.raises(frameseal.ReplayedFrame):
        decryptor.decrypt(sealed)
    reading = readings.readings(sealed)[0]
    parts = {part.name: part for part in reading.parts}
    assert (reading.layout, reading.likely) == ("stream", True)
    assert parts["clear bytes (AAD)"].end == case["clear_len"]
    assert parts["IV prefix"].data.hex() == case["iv_prefix_hex"]
    assert parts["counter"].note == str(case["counter"])
    (opener,) = readings.openers(sealed, bytes.fromhex(case["key_hex"]))
    assert (opener.profile, opener.suite.name[4:7]) == ("stream", str(case["key_bits"]))


@pytest.mark.parametrize("case", STREAM["unescaping"], ids=lambda case: case["escaped_hex"])
def test_inspection_removes_escapes_as_they_do(case: dict[str, Any]) -> None:
    front, run = b"\x01" + bytes(case["seed_zeros"]), bytes.fromhex(case["escaped_hex"])
    assert shapes.without_escapes(front, run).hex() == case["raw_hex"]


@pytest.mark.parametrize("case", STREAM["fingerprints"], ids=lambda case: case["fingerprint_hex"])
def test_their_fingerprint_is_a_bare_hash_and_ours_is_another(case: dict[str, Any]) -> None:
    key = bytes.fromhex(case["key_hex"])
    assert hashlib.sha256(key).hexdigest()[:16] == case["fingerprint_hex"]
    ring = KeyRing("stream")
    ring.set_key(key)
    assert case["fingerprint_hex"] not in str(ring.fingerprint())


@pytest.mark.parametrize("codec", ["opus", "vp8", "vp9", "h264", None])
def test_batches_and_single_calls_agree(codec: str | None) -> None:
    ring = KeyRing("stream")
    ring.set_key(bytes(range(32)))
    frames = [b"\0\0\0\1\x65\xb8" + bytes([n]) * (n * 7 + 9) for n in range(40)]
    data = np.frombuffer(b"".join(frames), np.uint8)
    offsets = np.cumsum([0, *map(len, frames)])
    encryptor, batches, singles = Encryptor(ring, codec), Decryptor(ring, codec), Decryptor(ring, codec)
    sealed, sealed_offsets = encryptor.encrypt_batch(data, offsets, threads=2)
    opened, opened_offsets, ok = batches.decrypt_batch(sealed, sealed_offsets, threads=2)
    assert (ok.all(), opened.tobytes(), opened_offsets.tolist()) == (True, data.tobytes(), offsets.tolist())
    pieces = [sealed[a:b].tobytes() for a, b in pairwise(sealed_offsets)]
    assert [singles.decrypt(piece) for piece in pieces] == frames
    assert not batches.decrypt_batch(sealed, sealed_offsets, threads=2)[2].any(), "a replay"
    assert shapes.shape([excerpt(piece) for piece in pieces[:16]], codec) is shapes.Shape.FOOTER


@pytest.mark.parametrize("size", [16, 32])
def test_a_provider_holds_keys_of_both_lengths_and_has_no_ratchet(size: int) -> None:
    provider = KeyProvider()
    provider.set_key("alice", bytes(range(size)))
    ring = provider.ring_for("stream", "alice")
    assert Decryptor(ring, "opus").decrypt(Encryptor(ring, "opus").encrypt(b"a frame")) == b"a frame"
    with pytest.raises(ValueError, match="no ratchet"):
        ring.ratchet()
    with pytest.raises(ValueError, match="no password KDF"):
        ring.set_passphrase("a passphrase")
    with pytest.raises(ValueError, match="exactly 16 or 32 bytes"):
        ring.set_key(bytes(24))
    with pytest.raises(ValueError, match="ratchet_window"):
        KeyRing("stream", ratchet_window=1)
    with pytest.raises(ValueError, match="ring: profile stream has no data packets"):
        frameseal.DataCryptor(ring)


@pytest.mark.parametrize("provider", [KeyProvider(ratchet_window=1), ExternalE2EEKeyProvider(ratchet_window_size=1)])
def test_a_provider_that_searches_for_ratchet_steps_is_refused_before_there_is_a_call(provider: KeyProvider) -> None:
    for make in (lambda: E2EEManager(provider, "stream"), lambda: CallCryptor(provider, "stream")):
        with pytest.raises(ValueError, match="ratchet_window: profile stream does not support this option"):
            make()
    E2EEManager(provider, "livekit")


def test_a_data_channel_is_refused_before_a_message_is_sent() -> None:
    provider = KeyProvider()
    provider.set_shared_key(bytes(range(16)))
    pipe = Pipe()
    with pytest.raises(ValueError, match="ring: profile stream has no data packets"):
        seal_data_channel(pipe, E2EEManager(provider, "stream"), local_id="alice", remote_id="bob")
    assert pipe.sent == []


def test_a_key_of_another_length_changes_nothing_in_any_ring() -> None:
    provider = KeyProvider()
    provider.set_key("alice", bytes(range(16)))
    rings = [provider.ring_for(profile, "alice") for profile in (Profile.LIVEKIT, Profile.STREAM)]
    before = [ring.fingerprint() for ring in rings]
    for refused, error in ((bytes(24), "exactly 16 or 32 bytes"), ("a passphrase", "no password KDF")):
        for set_key in (partial(provider.set_key, "alice"), provider.set_shared_key):
            provider.ring_for(Profile.STREAM, "alice")
            with pytest.raises(ValueError, match=error):
                set_key(refused)
    with pytest.raises(ValueError, match="no ratchet"):
        provider.ratchet("alice")
    assert [ring.fingerprint() for ring in rings] == before


def test_a_receiver_without_a_key_or_with_another_gets_nothing_and_a_late_key_opens() -> None:
    sender, receiver = KeyProvider(), KeyProvider()
    sender.set_key("alice", bytes(range(16)))
    seals, opens = CallCryptor(sender, "stream"), CallCryptor(receiver, "stream")
    track = {"participant_id": "alice", "kind": "audio", "codec": "opus"}
    for key, opened in ((None, None), (bytes(16), None), (bytes(32), None), (bytes(range(16)), b"\x78 frame")):
        if key is not None:
            receiver.set_key("alice", key)
        assert opens.decrypt(seals.encrypt(b"\x78 frame", **track), **track) == opened
    sender.remove("alice")
    assert seals.encrypt(b"\x78 frame", **track) is None, "without a key nothing is sent"


def test_what_they_forward_in_the_clear_is_malformed() -> None:
    ring = KeyRing("stream")
    ring.set_key(bytes(16))
    decryptor = Decryptor(ring, "opus")
    sealed = Encryptor(ring, "opus").encrypt(b"a frame")
    for plain in (b"\x78 plain", b"\x78" * 100, sealed[:-1], sealed + b"\0", sealed[:-5] + b"\x02" + sealed[-4:]):
        with pytest.raises(frameseal.MalformedFrame):
            decryptor.decrypt(plain)
    assert decryptor.decrypt(sealed) == b"a frame"
