"""Keys leave no trace: not in what can be printed, pickled or raised, and not in the process's memory once they go."""

import copy
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import frameseal
from frameseal._native import Secret
from support import reference

KEY = b"\xa1\xb2\xc3\xd4" * 8
TEXT = "correct horse battery staple"


def secrets() -> list[object]:
    ring = frameseal.KeyRing("livekit", ratchet_window=2)
    ring.set_key(KEY)
    ring.set_passphrase(TEXT, key_id=1)
    codec = "opus"
    return [
        Secret(KEY),
        Secret(TEXT),
        ring,
        frameseal.Encryptor(ring, codec),
        frameseal.Decryptor(ring, codec),
        frameseal.DataCryptor(ring),
    ]


def shows_a_secret(text: str) -> bool:
    keys = [KEY, reference.derive("livekit", KEY), reference.derive("livekit", TEXT)]
    forms = [form for key in keys for form in (key.hex()[:8], repr(key)[2:10], str(list(key[:4]))[1:-1])]
    return any(form in text.lower() for form in (*forms, TEXT.split(maxsplit=1)[0]))


def test_the_look_finds_what_it_is_for() -> None:
    assert shows_a_secret(repr(KEY))
    assert shows_a_secret(TEXT)
    assert shows_a_secret(KEY.hex())
    assert not shows_a_secret("KeyRing('livekit', key_ids=[0])")


def test_nothing_that_holds_a_key_shows_it() -> None:
    for holder in secrets():
        assert not shows_a_secret(f"{holder!r} {holder} {vars(type(holder))} {dir(holder)}")


def test_nothing_that_holds_a_key_can_be_pickled_copied_or_taken_apart() -> None:
    for holder in secrets():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="pickle"):
                pickle.dumps(holder, protocol)
        for copied in (copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pickle"):
                copied(holder)
        assert not hasattr(holder, "__dict__")
        with pytest.raises(TypeError):
            memoryview(holder)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            holder.key = None  # type: ignore[attr-defined]


def test_no_error_and_no_log_line_shows_a_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ring = frameseal.KeyRing("livekit")
    messages = []
    for call in (
        lambda: ring.set_key(KEY[:15]),
        lambda: ring.set_key(KEY, key_id=99),
        lambda: ring.set_key(TEXT),  # type: ignore[arg-type]
        lambda: ring.set_passphrase(TEXT, key_id=99),
        lambda: frameseal.KeyRing("jitsi").set_passphrase(TEXT),
        lambda: Secret(KEY[:15]),
        lambda: ring.set_secret(KEY),  # type: ignore[arg-type]
    ):
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        messages.append(f"{error.value!r}")
    assert not any(shows_a_secret(message) for message in messages)
    assert not shows_a_secret(caplog.text)


def test_a_callers_buffer_is_left_alone_and_can_be_wiped() -> None:
    for buffer in (bytearray(KEY), memoryview(bytearray(KEY))):
        ring = frameseal.KeyRing("livekit")
        ring.set_key(buffer)
        assert bytes(buffer) == KEY
        buffer[:] = bytes(32)
        assert reference.unseal(reference.derive("livekit", KEY), frameseal.Encryptor(ring).encrypt(b"x"), None) == b"x"
    ring.set_passphrase(bytearray(TEXT.encode()))
    assert reference.unseal(reference.derive("livekit", TEXT), frameseal.Encryptor(ring).encrypt(b"x"), None) == b"x"


KEEPER = """
import os, sys
import frameseal

def read():
    buffer = bytearray(32)
    assert os.readv(0, [buffer]) == 32
    return buffer

def say(word):
    os.write(1, word)
    assert os.read(0, 1)

key, other = read(), read()
ring = frameseal.KeyRing("jitsi", ratchet_window=4)
ring.set_key(key)
key[:] = bytes(32)
sealed = frameseal.Encryptor(ring).encrypt(b"frame")
frameseal.Decryptor(ring).decrypt(sealed)
say(b"A")
if sys.argv[1] == "replace":
    ring.set_key(other)
elif sys.argv[1] == "remove":
    ring.remove_key(0)
elif sys.argv[1] == "ratchet":
    ring.ratchet()
elif sys.argv[1] == "drop":
    del ring
say(b"B")
"""


def memory_of(pid: int) -> bytes:
    """Everything that a process can write to: its heap, stacks and data."""
    regions = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions, *_ = line.split()
            if permissions.startswith("rw"):
                start, end = (int(address, 16) for address in span.split("-"))
                memory.seek(start)
                regions.append(memory.read(end - start))
    return b"".join(regions)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/PID/mem is Linux's")
@pytest.mark.parametrize("how", ["replace", "remove", "ratchet", "drop"])
def test_a_key_that_is_gone_is_nowhere_in_the_process(how: str) -> None:
    """Read a whole process from outside, before and after its key goes.

    The key reaches the other process in a buffer that it wipes, so that the only copies are ours. What is looked for
    is the key as it was given, and the AES key that was derived from it. The first look is the proof that such a look
    finds a key; the second must find neither.

    The profile is Jitsi's, since in the others the AES key of a step is, by their format, the beginning of the next
    step's material: there it stays in memory after a ratchet, and this test would find it.

    Its limits: it sees what is there at one moment in one run, not what registers, swap, a hibernated machine, the
    kernel's pipe buffers or a core dump of an earlier moment hold; a key scattered or transformed (the round keys of an
    AES schedule but the first) is not recognised; what the caller keeps is the caller's.
    """
    key, other = os.urandom(32), os.urandom(32)
    aes_key = HKDF(SHA256(), 16, b"JFrameEncryptionKey", b"").derive(key)
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(key)
        keeper.stdin.write(other)
        assert keeper.stdout.read(1) == b"A"
        before = memory_of(keeper.pid)
        keeper.stdin.write(b".")
        assert keeper.stdout.read(1) == b"B"
        after = memory_of(keeper.pid)
        keeper.stdin.write(b".")
    assert keeper.returncode == 0
    assert before.count(key) == 1, "the look finds a key that is there, and there is no second copy of it"
    assert (after.count(key), after.count(aes_key)) == (0, 0)
