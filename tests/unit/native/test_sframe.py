"""SFrame (RFC 9605) through the wheel: the working group's vectors, keys and their lives (docs/formats/sframe.md)."""

import json
import os
from typing import Any

import pytest

import frameseal
from frameseal import (
    AuthenticationFailed,
    CipherSuite,
    Decryptor,
    Encryptor,
    KeyRing,
    MalformedFrame,
    ReplayedFrame,
    UnknownKey,
)
from support.paths import VECTORS

RFC = json.loads((VECTORS / "sframe-rfc9605.json").read_text())
DRAFT = json.loads((VECTORS / "sframe-aes256-ctr-hmac.json").read_text())
KEYS = json.loads((VECTORS / "sframe-keys.json").read_text())
BASE_KEY = bytes(range(16))


def number(case: dict[str, Any]) -> str:
    return f"suite {case['cipher_suite']}"


def ring_with(kid: int, base_key: bytes = BASE_KEY, *, counter: int | None = None, **options: Any) -> KeyRing:
    ring = KeyRing("sframe", allow_draft=True, **options)
    ring.set_key(base_key, kid, counter=counter)
    return ring


def shared_ring(key: str | bytes = "the room's") -> KeyRing:
    ring = KeyRing("sframe", shared=True)
    ring.set_secret(frameseal._native.Secret(key), 3)
    return ring


def kid_of(sealed: bytes) -> int:
    """Read the KID of a header whose KID has an extended form."""
    assert sealed[0] & 0x80
    return int.from_bytes(sealed[1 : 2 + (sealed[0] >> 4 & 7)])


@pytest.mark.parametrize("case", RFC["sframe"] + DRAFT["sframe_aes_256_ctr_hmac"], ids=number)
def test_every_suite_seals_and_opens_as_the_working_group_has_it(case: dict[str, Any]) -> None:
    ring = ring_with(case["kid"], bytes.fromhex(case["base_key"]), counter=case["ctr"], suite=case["cipher_suite"])
    plain, metadata = bytes.fromhex(case["pt"]), bytes.fromhex(case["metadata"])
    assert Encryptor(ring).encrypt(plain, metadata).hex() == case["ct"]
    assert Decryptor(ring, "vp8").decrypt(bytes.fromhex(case["ct"]), metadata=metadata) == plain
    with pytest.raises(frameseal.AuthenticationFailed) as failed:
        Decryptor(ring).decrypt(bytes.fromhex(case["ct"]))
    assert failed.value.kid == case["kid"]


def test_every_header_goes_in_front_of_a_frame() -> None:
    for case in RFC["header"]:
        ring = ring_with(case["kid"], counter=case["ctr"])
        sealed = Encryptor(ring).encrypt(b"x")
        assert sealed[:-17].hex() == case["encoded"]
        assert Decryptor(ring).decrypt(sealed) == b"x"


@pytest.mark.parametrize("chain", KEYS["ratchet"], ids=number)
def test_sender_keys_ratchet_and_receivers_follow(chain: dict[str, Any]) -> None:
    first = chain["steps"][0]
    options = {"suite": chain["cipher_suite"], "ratchet_bits": chain["ratchet_bits"]}
    sender, receiver = (
        ring_with(first["kid"], bytes.fromhex(first["base_key"]), ratchet_window=2, **options) for _ in range(2)
    )
    encryptor, decryptor = Encryptor(sender), Decryptor(receiver)
    for step in chain["steps"]:
        if step is not first:
            assert sender.ratchet(sender.sending_key_id) == step["kid"]
        # The vector's own base key of this step opens what the chain has come to.
        alone = ring_with(step["kid"], bytes.fromhex(step["base_key"]), **options)
        sealed = encryptor.encrypt(b"step")
        assert Decryptor(alone).decrypt(sealed) == decryptor.decrypt(sealed) == b"step"
    assert decryptor.stats()["ratchets"] == len(chain["steps"]) - 1


@pytest.mark.parametrize("case", KEYS["mls_kid"], ids=lambda case: f"kid {case['kid']}")
def test_mls_key_ids_are_those_of_the_rfc(case: dict[str, Any]) -> None:
    fields = {name: case[name] for name in ("epoch_bits", "sender_bits", "sender_index", "context")}
    ring = KeyRing("sframe")
    assert ring.set_epoch(case["epoch"], BASE_KEY, **fields) == case["kid"]
    assert Decryptor(ring).decrypt(Encryptor(ring).encrypt(b"to all")) == b"to all"


def test_members_of_an_epoch_open_each_other_until_it_is_erased() -> None:
    alice, bob = KeyRing("sframe"), KeyRing("sframe")
    opened = Decryptor(bob)
    sealed = []
    for epoch in range(4):
        for index, ring in enumerate((alice, bob)):
            ring.set_epoch(epoch, bytes([epoch]) * 16, epoch_bits=4, sender_bits=1, sender_index=index, retain=1)
        sealed.append(Encryptor(alice).encrypt(b"epoch"))
    assert opened.decrypt(sealed[3]) == opened.decrypt(sealed[2]) == b"epoch"
    with pytest.raises(frameseal.UnknownKey):
        opened.decrypt(sealed[1])


def test_senders_of_a_shared_key_draw_a_key_id_each() -> None:
    rings = [shared_ring() for _ in range(3)]
    receiver = Decryptor(rings[0])
    sealed = [Encryptor(ring).encrypt(b"x") for ring in rings]
    assert [receiver.decrypt(frame) for frame in sealed] == [b"x"] * 3
    assert len({kid_of(frame) for frame in sealed}) == 3
    assert {kid_of(frame) & 0xFF for frame in sealed} == {3}
    with pytest.raises(frameseal.AuthenticationFailed):
        Decryptor(shared_ring("another room's")).decrypt(sealed[0])


def test_a_base_key_seals_once_under_a_key_id_unless_the_counter_is_given() -> None:
    assert Encryptor(ring_with(5, b"used up by the first")).encrypt(b"x")[-17:] != b""
    again = ring_with(5, b"used up by the first")
    with pytest.raises(frameseal.KeyExhausted) as used_up:
        Encryptor(again).encrypt(b"x")
    assert used_up.value.kid == 5
    again.set_key(b"used up by the first", 5, counter=1)
    assert Encryptor(again).encrypt(b"x")[0] == 0x51
    assert again.frames_sealed(5) == 1


@pytest.mark.parametrize("counter", [None, 0])
def test_a_key_that_is_set_again_goes_on_in_its_ring_and_no_used_counter_is_taken(counter: int | None) -> None:
    key = os.urandom(16)
    ring = ring_with(5, key, counter=counter)
    encrypt = Encryptor(ring).encrypt
    assert [encrypt(b"x")[0] for _ in range(3)] == [0x50, 0x51, 0x52]
    ring.set_key(key, 5)
    assert encrypt(b"x")[0] == 0x53
    ring.remove_key(5)
    ring.set_key(key, 5)
    assert encrypt(b"x")[0] == 0x54
    for used in (0, 4):
        with pytest.raises(ValueError, match=f"counter must be at least 5, not {used}: this process has used it"):
            ring.set_key(key, 5, counter=used)
    assert encrypt(b"x")[0] == 0x55
    for other in (ring_with(5, key), KeyRing("sframe")):
        if not other.key_ids:
            assert other.set_epoch(1, key, epoch_bits=2, sender_bits=1, sender_index=1) == 5
        with pytest.raises(frameseal.KeyExhausted):
            Encryptor(other).encrypt(b"x")


def test_a_group_made_anew_seals_under_its_new_secret_and_who_has_left_opens_nothing() -> None:
    alice, bob, carol = rings = [KeyRing("sframe") for _ in range(3)]
    alice.set_key(os.urandom(16), 1)
    for bits, secret, members in ((4, os.urandom(16), rings), (8, os.urandom(16), rings[:2])):
        for index, ring in enumerate(members):
            ring.set_epoch(1, secret, epoch_bits=bits, sender_bits=2, sender_index=index, retain=1)
    sealed, packet = Encryptor(alice).encrypt(b"new"), frameseal.DataCryptor(alice).encrypt_packet(b"new")
    assert Decryptor(bob).decrypt(sealed) == frameseal.DataCryptor(bob).decrypt_packet(packet) == b"new"
    for take, closed in ((Decryptor(carol).decrypt, sealed), (frameseal.DataCryptor(carol).decrypt_packet, packet)):
        with pytest.raises(frameseal.FrameError):
            take(closed)
    assert alice.fingerprint() == bob.fingerprint() != carol.fingerprint()
    assert (alice.frames_sealed(1), alice.key_ids, bob.frames_sealed(1)) == (2, [1], 0)
    alice.remove_key(1)
    assert not alice.can_encrypt and alice.key_ids == []


def in_a_forked_child(encryptor: Encryptor) -> bytes:
    """What a fork of this process seals; empty where it may not."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, encryptor.encrypt(b"x"))
        except frameseal.KeyExhausted:
            pass
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


def test_a_forked_child_repeats_no_counter_it_gets_none_or_a_key_id_of_its_own() -> None:
    own, shared = Encryptor(ring_with(5, b"of a parent and its child")), Encryptor(shared_ring("forked"))
    assert own.encrypt(b"x")[0] == 0x50
    parents = kid_of(shared.encrypt(b"x"))
    assert in_a_forked_child(own) == b""
    child_kid = kid_of(in_a_forked_child(shared))
    assert child_kid != parents and child_kid & 0xFF == parents & 0xFF == 3
    assert own.encrypt(b"x")[0] == 0x51, "the parent goes on"
    assert kid_of(shared.encrypt(b"x")) == parents


def test_replays_are_refused_by_default_and_reordering_is_not() -> None:
    ring = ring_with(1, b"replay and reorder")
    encryptor, decryptor = Encryptor(ring), Decryptor(ring)
    sealed = [encryptor.encrypt(bytes([n])) for n in range(5)]
    assert [decryptor.decrypt(sealed[n])[0] for n in (3, 0, 4, 1)] == [3, 0, 4, 1]
    with pytest.raises(frameseal.ReplayedFrame):
        decryptor.decrypt(sealed[3])
    assert Decryptor(ring, replay_window=0).decrypt(sealed[3]) == b"\x03"


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_for_a_packetiser_of_nal_units_the_frame_is_one_nal_unit(codec: str) -> None:
    ring = shared_ring()
    frame = b"\0\0\0\1\x67\x42\0\0\1\x65\x88" + bytes(3000)
    sealed = Encryptor(ring, codec).encrypt(frame)
    assert sealed.startswith(b"\0\0\0\1")
    assert sealed[4:].find(b"\0\0\1") == -1
    assert sealed[-1] == 0x80
    assert Decryptor(ring, codec).decrypt(sealed) == frame


def test_every_codec_is_sealed_whole_and_av1_too() -> None:
    for codec in ("opus", "pcmu", "pcma", "g722", "vp8", "vp9", "av1", None):
        ring = shared_ring()
        sealed = Encryptor(ring, codec).encrypt(b"\x10readable" * 4)
        assert b"readable" not in sealed
        assert Decryptor(ring, codec).decrypt(sealed) == b"\x10readable" * 4


@pytest.mark.parametrize("suite", CipherSuite)
def test_suites_have_the_names_and_numbers_of_the_registry(suite: CipherSuite) -> None:
    if suite >= 6:
        with pytest.raises(ValueError, match="allow_draft"):
            KeyRing("sframe", suite=suite)
    ring = KeyRing("sframe", suite=suite, allow_draft=True)
    assert ring.suite == suite
    tag = {"80": 10, "64": 8, "32": 4, "128": 16}[suite.name.rsplit("_", 1)[1]]
    ring.set_key(b"a name and a number", 1)
    assert len(Encryptor(ring).encrypt(b"")) == 1 + tag
    assert len(Encryptor(ring).encrypt(b"x")) == 1 + 1 + tag


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda: KeyRing("sframe", suite=99), "99"),
        (lambda: KeyRing("livekit", shared=True), "livekit"),
        (lambda: KeyRing("sframe", shared=True, ratchet_bits=4), "ratchet"),
        (lambda: KeyRing("sframe", ratchet_bits=64), "ratchet_bits"),
        (lambda: KeyRing("videosdk", suite=CipherSuite.AES_256_GCM_SHA512_128), "videosdk"),
        (lambda: ring_with(1).ratchet(1), "ratchet_bits"),
        (lambda: KeyRing("livekit").set_key(bytes(16), counter=4), "counter"),
        (lambda: KeyRing("sframe").set_epoch(1, bytes(16), epoch_bits=60, sender_bits=8, sender_index=0), "bits"),
        (
            lambda: KeyRing("sframe").set_epoch(1, bytes(16), epoch_bits=4, sender_bits=2, sender_index=4),
            "sender_index",
        ),
        (lambda: ring_with(1).frames_sealed(2), "no key"),
        (lambda: Encryptor(KeyRing("livekit")).encrypt(b"x", b"metadata"), "metadata"),
        (lambda: Decryptor(KeyRing("livekit")).decrypt(b"x", metadata=b"metadata"), "metadata"),
    ],
)
def test_a_mistake_of_the_caller_is_a_value_error_that_says_which(mistake: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        mistake()


# --- frames of no bytes (RFC 9605, section 4.4.3) --------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["opus", "vp8", "vp9", "h264", "h265", "av1", None])
@pytest.mark.parametrize("metadata", [b"", b"metadata"])
def test_an_empty_frame_is_sealed_like_any_other(codec: str | None, metadata: bytes) -> None:
    ring = ring_with(1, b"frames of no bytes, %s, %b" % (str(codec).encode(), metadata))
    encryptor, decryptor = Encryptor(ring, codec), Decryptor(ring, codec)
    sealed = encryptor.encrypt(b"", metadata)
    assert len(sealed) > 16
    assert decryptor.decrypt(sealed, metadata) == b""
    with pytest.raises(ReplayedFrame):
        decryptor.decrypt(sealed, metadata)
    with pytest.raises(AuthenticationFailed):
        Decryptor(ring, codec).decrypt(encryptor.encrypt(b"", metadata), b"other metadata")
    for missing in (b"", bytearray(), memoryview(b"")):
        with pytest.raises(MalformedFrame):
            decryptor.decrypt(missing, metadata)
    assert (encryptor.stats()["frames"], encryptor.stats()["empty"]) == (2, 0)
    assert (decryptor.stats()["frames"], decryptor.stats()["empty"], decryptor.stats()["malformed"]) == (1, 0, 3)


def test_an_empty_frame_takes_a_counter_and_needs_a_key() -> None:
    ring = ring_with(1, b"an empty frame counts")
    encryptor = Encryptor(ring, "opus")
    assert [encryptor.encrypt(frame)[0] & 0x0F for frame in (b"", b"x", b"", b"y")] == [0, 1, 2, 3]
    with pytest.raises(UnknownKey):
        Encryptor(KeyRing("sframe"), "opus").encrypt(b"")
