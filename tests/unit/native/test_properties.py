"""Properties through the wheel, each one sentence; rust/core/tests/properties.rs has the core's own."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import frameseal
from support import reference

KEY = bytes(range(32))
CODECS = ["opus", "pcmu", "pcma", "g722", "vp8", "vp9", "h264", "h265", None]
HEADS = {"vp8": b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00", "h264": b"\0\0\0\1\x65\x88", "h265": b"\0\0\0\1\x26\x01"}


def ring_with(key: bytes = KEY) -> frameseal.KeyRing:
    ring = frameseal.KeyRing("videosdk")
    ring.set_key(key)
    return ring


RING = ring_with()


def iv_of(sealed: bytes) -> bytes:
    return sealed[-14:-2]


@given(st.sampled_from(CODECS), st.binary(max_size=600))
def test_what_we_encrypt_we_decrypt_and_so_does_the_reference(codec: str | None, body: bytes) -> None:
    frame = HEADS.get(codec or "", b"\x78") + body
    sealed = frameseal.Encryptor(RING, codec).encrypt(frame)
    assert frameseal.Decryptor(RING, codec).decrypt(sealed) == frame
    assert reference.unseal(reference.derive("videosdk", KEY), sealed, codec) == frame


@given(st.sampled_from(CODECS), st.binary(min_size=1, max_size=300))
def test_arbitrary_bytes_give_a_frame_error_and_nothing_else(codec: str | None, data: bytes) -> None:
    with pytest.raises(frameseal.FrameError):
        frameseal.Decryptor(RING, codec).decrypt(data)


@pytest.mark.parametrize("codec", CODECS)
def test_every_truncation_is_a_frame_error(codec: str | None) -> None:
    decryptor = frameseal.Decryptor(RING, codec)
    sealed = frameseal.Encryptor(RING, codec).encrypt(HEADS.get(codec or "", b"\x78") + bytes(range(40)))
    for length in range(1, len(sealed)):
        with pytest.raises(frameseal.FrameError):
            decryptor.decrypt(sealed[:length])
    assert decryptor.stats()["frames"] == 0


@pytest.mark.parametrize("as_buffer", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_any_buffer_is_a_frame(as_buffer: Callable[[bytes], bytes]) -> None:
    sealed = frameseal.Encryptor(RING, "opus").encrypt(as_buffer(b"\x78 a frame"))
    assert frameseal.Decryptor(RING, "opus").decrypt(as_buffer(sealed)) == b"\x78 a frame"


def test_a_frame_larger_than_the_gil_threshold_comes_through() -> None:
    frame = os.urandom(1 << 20)
    assert frameseal.Decryptor(RING).decrypt(frameseal.Encryptor(RING).encrypt(frame)) == frame


def test_many_threads_never_draw_one_iv_twice() -> None:
    encryptors = [frameseal.Encryptor(RING, "opus") for _ in range(8)]
    start = threading.Barrier(len(encryptors))

    def seal(encryptor: frameseal.Encryptor) -> list[bytes]:
        start.wait()
        return [iv_of(encryptor.encrypt(b"x")) for _ in range(5_000)]

    with ThreadPoolExecutor(len(encryptors)) as pool:
        ivs = [iv for batch in pool.map(seal, encryptors) for iv in batch]
    assert len(set(ivs)) == len(ivs) == 40_000


SEAL_IN_ANOTHER_PROCESS = """
import sys, frameseal
ring = frameseal.KeyRing("videosdk"); ring.set_key(bytes(range(32)))
encryptor = frameseal.Encryptor(ring, "opus")
print("\\n".join(encryptor.encrypt(b"x")[-14:-2].hex() for _ in range(5_000)))
"""


def test_two_processes_with_one_key_never_draw_one_iv_twice() -> None:
    command = [sys.executable, "-c", SEAL_IN_ANOTHER_PROCESS]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    ivs = outputs[0] + outputs[1]
    assert len(set(ivs)) == len(ivs) == 10_000


def test_a_forked_child_never_repeats_its_parents_ivs() -> None:
    encryptor = frameseal.Encryptor(RING, "opus")
    encryptor.encrypt(b"x")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"".join(iv_of(encryptor.encrypt(b"x")) for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    ours = [iv_of(encryptor.encrypt(b"x")) for _ in range(100)]
    assert len(theirs) == 1200
    assert {theirs[at : at + 8] for at in range(0, 1200, 12)}.isdisjoint(iv[:8] for iv in ours)


@pytest.mark.parametrize(
    "thing", [frameseal.KeyRing, frameseal.Encryptor, frameseal.Decryptor], ids=lambda cls: cls.__name__
)
def test_nothing_that_holds_a_key_can_be_pickled_or_copied(thing: type) -> None:
    holder = RING if thing is frameseal.KeyRing else thing(RING)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(holder)


def test_no_repr_shows_a_key() -> None:
    ring = frameseal.KeyRing("livekit")
    ring.set_passphrase("hush-hush")
    assert "hush" not in repr(ring)
    assert repr(ring) == 'KeyRing("livekit", key_ids=[0], sending_key_id=0)'


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (lambda ring: ring.set_passphrase(""), "empty"),
        (lambda ring: ring.set_key(b"short"), "16 bytes"),
        (lambda ring: ring.set_key(bytes(16), 16), "key_id must be between 0 and 15, not 16"),
        (lambda ring: ring.ratchet(5), "no key"),
        (lambda ring: setattr(ring, "sending_key_id", 99), "key_id must be between 0 and 15, not 99"),
        (lambda ring: frameseal.Encryptor(ring, "av1"), "av1"),
        (lambda ring: frameseal.Decryptor(ring, "theora"), "unknown codec"),
        (
            lambda ring: frameseal.Decryptor(ring, "vp8", replay_window=1 << 20),
            "replay_window must be between 0 and 65536",
        ),
        (lambda _: frameseal.KeyRing("zoom"), "livekit, videosdk"),
        (lambda _: frameseal.KeyRing("livekit", key_ring_size=0), "key_ring_size must be between 1 and 256, not 0"),
        (lambda _: frameseal.KeyRing("livekit", ratchet_window=17), "ratchet_window must be between 0 and 16"),
        (lambda _: frameseal.KeyRing("livekit", failure_tolerance=-2), "failure_tolerance"),
        (
            lambda _: frameseal.KeyRing("videosdk", key_size=256),
            "no keys of 256 bits here, leave key_size out for 128 bits",
        ),
        (lambda _: frameseal.KeyRing("livekit", key_size=192), "livekit has no keys of 192 bits"),
        (lambda _: frameseal.KeyRing("livekit", key_ring_size=-1), "the number -1 is out of range"),
        (lambda _: frameseal.KeyRing("livekit", ratchet_window=1 << 16), "the number 65536 is out of range"),
        (lambda _: frameseal.KeyRing("livekit", usage_limit=-1), "out of range"),
        (lambda _: frameseal.KeyRing("sframe", suite=-1), "out of range"),
        (lambda ring: ring.set_key(bytes(16), -1), "out of range"),
        (lambda ring: ring.set_passphrase("a passphrase", 1 << 64), "out of range"),
        (lambda ring: ring.set_key(bytes(16), counter=-1), "out of range"),
        (lambda ring: ring.frames_sealed(-1), "out of range"),
        (lambda ring: ring.fingerprint(-1), "out of range"),
        (lambda ring: setattr(ring, "sending_key_id", -1), "out of range"),
        (lambda ring: frameseal.Decryptor(ring, replay_window=-1), "out of range"),
        (lambda ring: frameseal.DataCryptor(ring, replay_window=-1), "out of range"),
        (lambda ring: frameseal.DataCryptor(ring).decrypt(bytes(12), -1, bytes(16)), "out of range"),
        (lambda ring: frameseal.Encryptor(ring).encrypt_batch(b"x", b"", threads=-1), "out of range"),
    ],
)
def test_a_mistake_of_the_caller_is_a_value_error_that_says_which(
    mistake: Callable[[frameseal.KeyRing], object], hint: str
) -> None:
    with pytest.raises(ValueError, match=hint):
        mistake(ring_with())


@pytest.mark.parametrize(
    "frame", ["text", None, 7, [1, 2], memoryview(bytes(8)).cast("I")], ids=["str", "None", "int", "list", "uint32"]
)
def test_what_is_no_bytes_is_a_type_error(frame: object) -> None:
    for takes_bytes in (
        frameseal.Encryptor(RING).encrypt,
        frameseal.Decryptor(RING).decrypt,
        frameseal.DataCryptor(RING).encrypt_packet,
        ring_with().set_key,
    ):
        with pytest.raises(TypeError, match="bytes"):
            takes_bytes(frame)


def test_a_passphrase_given_as_a_raw_key_is_told_apart() -> None:
    with pytest.raises(TypeError, match="set_passphrase"):
        RING.set_key("a passphrase, not bytes")  # type: ignore[arg-type]


def test_frame_errors_name_the_key_id() -> None:
    sealed = bytearray(frameseal.Encryptor(RING, "opus").encrypt(b"\x78 a frame"))
    sealed[-1] = 9
    with pytest.raises(frameseal.UnknownKey) as missing:
        frameseal.Decryptor(RING, "opus").decrypt(sealed)
    assert missing.value.kid == 9
    sealed[-1] = 0
    sealed[3] ^= 1
    with pytest.raises(frameseal.AuthenticationFailed) as failed:
        frameseal.Decryptor(RING, "opus").decrypt(sealed)
    assert failed.value.kid == 0
    with pytest.raises(frameseal.UnknownKey):
        frameseal.Encryptor(frameseal.KeyRing("livekit"), "opus").encrypt(b"x")


def test_a_replay_window_refuses_the_second_copy() -> None:
    sealed = frameseal.Encryptor(RING, "opus").encrypt(b"once")
    decryptor = frameseal.Decryptor(RING, "opus", replay_window=64)
    assert decryptor.decrypt(sealed) == b"once"
    with pytest.raises(frameseal.ReplayedFrame):
        decryptor.decrypt(sealed)
