"""What a frame claims is nobody's word until it authenticates: not even that it is an old one."""

import secrets

import pytest

from frameseal import AuthenticationFailed, DataCryptor, Decryptor, E2EEManager, Encryptor, KeyRing, ReplayedFrame
from frameseal.aiortc import attach
from support.calls import connect, peers, picture_track, shows, until


@pytest.fixture
def key() -> bytes:
    """A key of one test: a counter of SFrame starts once for each key of a process."""
    return secrets.token_bytes(16)


def ring(key: bytes, profile: str = "sframe") -> KeyRing:
    made = KeyRing(profile, failure_tolerance=10)
    made.set_key(key, key_id=7)
    return made


class Rings:
    """A provider of one ring for everybody."""

    discard_frame_when_cryptor_not_ready = True

    def __init__(self, made: KeyRing) -> None:
        self._ring = made

    def ring_for(self, profile, participant_id):
        return self._ring


def test_a_sender_who_counts_from_0_again_under_a_key_that_has_not_come_has_a_wrong_key(key):
    sender, held = Encryptor(ring(key), "opus"), ring(key)
    e2ee = E2EEManager(Rings(held), "sframe")
    track = e2ee.receiver_transform("alice", "audio", "opus")
    assert all(track.decrypt(sender.encrypt(b"frame")) for _ in range(3000))
    fresh = secrets.token_bytes(16)
    returned = Encryptor(ring(fresh), "opus")
    late = [returned.encrypt(b"frame") for _ in range(100)]
    assert not any(track.decrypt(frame) for frame in late[:50])
    assert (track.track.state, track.track.reason) == ("InvalidKey", "authentication_failed")
    assert track.stats()["replayed"] == 0
    held.set_key(fresh, key_id=7)
    assert all(track.decrypt(frame) for frame in late[50:])
    assert track.track.state == "DecryptionSuccess"


async def test_in_a_call_a_sender_who_returns_with_a_key_that_has_not_come_has_a_wrong_key(stack, key):
    held, sender = ring(key), ring(key)
    opening, changes = E2EEManager(Rings(held), "sframe"), []
    opening.on("e2ee-state-change", changes.append)
    async with peers(stack, stack) as (alice, bob):
        sealing = attach(alice.pc, E2EEManager(Rings(sender), "sframe"), local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        sealing.detach()
        fresh = secrets.token_bytes(16)
        attach(alice.pc, E2EEManager(Rings(ring(fresh)), "sframe"), local_id="alice", remote_id="bob")
        await until(lambda: opening.state("alice", "video") == "InvalidKey")
        held.set_key(fresh, key_id=7)
        sink.clear()
        await until(lambda: shows(sink), 40)
    assert opening.state("alice", "video") == "DecryptionSuccess"
    assert {change.reason for change in changes} == {None, "authentication_failed"}


@pytest.mark.parametrize(
    ("profile", "window"), [("sframe", None), ("livekit", 100), ("nextcloud", 100), ("stream", None)]
)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_what_claims_to_be_an_old_frame_is_one_only_if_it_authenticates(key, profile, window, threads):
    import numpy as np

    opener = Decryptor(ring(key, profile), "opus", window)
    sealed = Encryptor(ring(key, profile), "opus").encrypt(b"a frame of some bytes")
    forged = bytearray(sealed)
    forged[12] ^= 1
    assert opener.decrypt(sealed)
    for _ in range(3):
        if threads is None:
            with pytest.raises(ReplayedFrame):
                opener.decrypt(sealed)
            with pytest.raises(AuthenticationFailed):
                opener.decrypt(forged)
        else:
            both = [sealed, bytes(forged)] * 100
            opener.decrypt_batch(b"".join(both), np.cumsum([0, *map(len, both)]), threads)
    stats = opener.stats()
    assert stats["frames"] == 1
    assert stats["replayed"] == stats["authentication_failed"] == (3 if threads is None else 300)


@pytest.mark.parametrize("profile", ["sframe", "livekit"])
def test_so_with_data_packets(key, profile):
    opener = DataCryptor(ring(key, profile))
    packet = DataCryptor(ring(key, profile)).encrypt_packet(b"a message")
    forged = bytearray(packet)
    forged[-1] ^= 1
    assert opener.decrypt_packet(packet) == b"a message"
    with pytest.raises(ReplayedFrame):
        opener.decrypt_packet(packet)
    with pytest.raises(AuthenticationFailed):
        opener.decrypt_packet(forged)
