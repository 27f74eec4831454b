"""Nothing opens twice: whatever becomes of the keys, however many senders a forwarder mixes, and in calls."""

import os
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from calls.test_key_calls import doctored
from frameseal import DataCryptor, Decryptor, E2EEManager, Encryptor, FrameError, KeyProvider, KeyRing
from frameseal.aiortc import attach
from support.calls import connect, peers, tone_track, until
from support.recording import recorded

FRAMES = 100


def opened(take: Callable[[bytes], bytes], sealed: list[bytes]) -> int:
    def opens(frame: bytes) -> bool:
        try:
            take(frame)
        except FrameError:
            return False
        return True

    return sum(opens(frame) for frame in sealed)


def set_again(ring: KeyRing, key: bytes) -> None:
    ring.set_key(key)


def set_after_another(ring: KeyRing, key: bytes) -> None:
    ring.set_key(os.urandom(32))
    ring.set_key(key)


def set_after_it_was_removed(ring: KeyRing, key: bytes) -> None:
    ring.remove_key(0)
    ring.set_key(key)


def set_after_steps(ring: KeyRing, key: bytes) -> None:
    ring.ratchet(ring.ratchet(0))
    ring.set_key(key)


AGAIN = [set_again, set_after_another, set_after_it_was_removed, set_after_steps]
RINGS = {
    "livekit": lambda: KeyRing("livekit"),
    "jitsi": lambda: KeyRing("jitsi"),
    "sframe": lambda: KeyRing("sframe", ratchet_bits=4),
    "shared": lambda: KeyRing("sframe", shared=True),
}


@pytest.mark.parametrize(
    ("kind", "again"),
    [(kind, again) for kind in RINGS for again in AGAIN if (kind, again) != ("shared", set_after_steps)],
)
def test_a_key_that_goes_and_comes_back_opens_nothing_again(kind: str, again: Callable[[KeyRing, bytes], None]) -> None:
    key, sender, receiver = os.urandom(32), RINGS[kind](), RINGS[kind]()
    sender.set_key(key)
    receiver.set_key(key)
    encrypt, seal = Encryptor(sender, "opus").encrypt, DataCryptor(sender).encrypt_packet
    decryptor, data = Decryptor(receiver, "opus", replay_window=1024), DataCryptor(receiver)
    frames, packets = [encrypt(b"\x78 frame") for _ in range(FRAMES)], [seal(b"packet") for _ in range(FRAMES)]
    assert opened(decryptor.decrypt, frames) == opened(data.decrypt_packet, packets) == FRAMES
    for _ in range(3):
        again(receiver, key)
        assert opened(decryptor.decrypt, frames) == opened(data.decrypt_packet, packets) == 0
    assert decryptor.stats()["replayed"] == data.stats()["replayed"] == 3 * FRAMES
    assert decryptor.decrypt(encrypt(b"\x78 new")) == b"\x78 new"


@pytest.mark.parametrize("senders", [64, 200])
def test_a_forwarder_without_a_key_mixes_senders_and_replays_nothing(senders: int) -> None:
    key = os.urandom(32)

    def ring() -> KeyRing:
        made = RINGS["shared"]()
        made.set_key(key)
        return made

    target, receiver = ring(), ring()
    encrypt, seal = Encryptor(target).encrypt, DataCryptor(target).encrypt_packet
    decrypt, decrypt_packet = Decryptor(receiver).decrypt, DataCryptor(receiver).decrypt_packet
    frames, packets = [encrypt(b"frame") for _ in range(200)], [seal(b"packet") for _ in range(200)]
    assert opened(decrypt, frames) == opened(decrypt_packet, packets) == 200
    rings = [ring() for _ in range(senders)]
    assert opened(decrypt, [Encryptor(of_another).encrypt(b"x") for of_another in rings]) == senders
    assert opened(decrypt_packet, [DataCryptor(of_another).encrypt_packet(b"x") for of_another in rings]) == senders
    assert opened(decrypt, frames) == opened(decrypt_packet, packets) == 0
    assert decrypt(encrypt(b"it goes on")) == decrypt_packet(seal(b"it goes on")) == b"it goes on"


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
async def test_in_a_call_whose_key_goes_and_comes_back_no_frame_is_opened_twice(stack: str, profile: str) -> None:
    key, numbers, sent = os.urandom(32), count(), []

    def repeat(sealed: bytes) -> bytes:
        """Every other frame is one from before, each of them twice."""
        sent.append(sealed)
        number = next(numbers)
        return sent[number // 4 * 2] if number % 2 else sealed

    managers = []
    for _ in range(2):
        provider = KeyProvider()
        provider.set_key("alice", key)
        managers.append(E2EEManager(provider, profile, replay_window=1024))
    ours, theirs = managers
    received = recorded(theirs)
    doctored(theirs, repeat)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(tone_track(stack))
        await connect(alice, bob)
        for step in range(1, 5):
            await until(lambda: len(received) > 30 * step)  # noqa: B023 - awaited here
            theirs.provider.remove("alice")
            theirs.provider.set_key("alice", key)
        await until(lambda: len(received) > 150)
    times = Counter(sealed for sealed, _ in received)
    opens = Counter(sealed for sealed, became in received if became is not None)
    assert sum(time > 1 for time in times.values()) > 20, "frames were repeated"
    assert len(opens) > 50 and set(opens.values()) == {1}
