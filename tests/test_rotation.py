"""Rotation: the new key is everywhere before it is used, the old one opens what is under way, and then goes."""

import asyncio

import pytest

from e2ee_helpers import AUDIO, KEY
from frameseal import Decryptor, Encryptor, KeyProvider, KeyRotator, Profile, UnknownKey


class Room:
    """A sender and a receiver with a provider each, and whatever the sender hands out on its way to the receiver."""

    def __init__(self, participant: str | None, **options) -> None:
        self.participant = participant
        self.here, self.there = KeyProvider(), KeyProvider()
        for provider in (self.here, self.there):
            self.give(provider, KEY, 0)
        self.handed_out: list[tuple[bytes, int]] = []
        self.rotator = KeyRotator(self.here, self.distribute, participant_id=participant, **options)
        self.encryptor = Encryptor(self.here.ring_for(Profile.LIVEKIT, "alice"), "opus")
        self.decryptor = Decryptor(self.there.ring_for(Profile.LIVEKIT, "alice"), "opus")

    def give(self, provider: KeyProvider, key: bytes, key_id: int) -> None:
        if self.participant is None:
            provider.set_shared_key(key, key_id)
        else:
            provider.set_key(self.participant, key, key_id)

    async def distribute(self, key: bytes, key_id: int) -> None:
        self.handed_out.append((key, key_id))
        self.give(self.there, key, key_id)

    def send(self) -> int:
        """Seal a frame, open it, and return the key id that it was sealed with."""
        sealed = self.encryptor.encrypt(AUDIO)
        assert self.decryptor.decrypt(sealed) == AUDIO
        return sealed[-1]


@pytest.mark.parametrize("participant", [None, "alice"])
async def test_a_new_key_is_handed_out_first_and_used_after_the_delay(participant):
    room = Room(participant, delay=0.1, overlap=0.1)
    rotating = asyncio.ensure_future(room.rotator.rotate())
    await asyncio.sleep(0.02)
    assert len(room.handed_out) == 1 and room.send() == 0
    old = room.encryptor.encrypt(AUDIO)
    assert await rotating == 1
    assert room.send() == 1
    assert Decryptor(room.here.ring_for(Profile.LIVEKIT, "alice"), "opus").decrypt(old) == AUDIO
    await asyncio.sleep(0.3)
    assert room.here.key_ids_of(participant) == [1], "the old key is forgotten after the overlap"
    with pytest.raises(UnknownKey):
        Decryptor(room.here.ring_for(Profile.LIVEKIT, "alice"), "opus").decrypt(old)


async def test_keys_are_fresh_random_and_go_round_the_ring():
    room = Room(None, delay=0, overlap=0)
    for number in range(40):
        assert await room.rotator.rotate() == (number + 1) % 16
        assert room.send() == (number + 1) % 16
        await asyncio.sleep(0.001)
    keys = [key for key, _ in room.handed_out]
    assert len(set(keys)) == 40 and {len(key) for key in keys} == {32}


async def test_a_key_that_could_not_be_handed_out_is_not_used():
    room = Room(None, delay=0, overlap=0)

    async def fail(key, key_id):
        raise ConnectionError("the key server is away")

    room.rotator._distribute = fail
    with pytest.raises(ConnectionError):
        await room.rotator.rotate()
    assert room.send() == 0 and room.here.key_ids == [0]


async def test_others_take_over_a_key_that_one_of_them_rotated_to():
    room = Room(None, delay=0, overlap=0)
    other = KeyProvider()
    other.set_shared_key(KEY)
    follower = KeyRotator(other, room.distribute, delay=0.05, overlap=0)
    await room.rotator.rotate()
    adopting = asyncio.ensure_future(follower.adopt(*room.handed_out[0]))
    await asyncio.sleep(0.01)
    receiving = Decryptor(other.ring_for(Profile.LIVEKIT, "alice"), "opus")
    assert receiving.decrypt(room.encryptor.encrypt(AUDIO)) == AUDIO, "it opens at once"
    assert other.sending_key_id() == 0
    await adopting
    assert other.sending_key_id() == 1


async def test_by_itself_it_rotates_by_age_by_count_and_when_somebody_leaves(monkeypatch):
    monkeypatch.setattr("frameseal.rotation.LOOK_EVERY", 0.01)

    async def rotated(room, times=1):
        for _ in range(500):
            if len(room.handed_out) >= times:
                return True
            await asyncio.sleep(0.01)
        return False

    aged = Room(None, delay=0, overlap=0, every=0.05)
    async with aged.rotator:
        assert await rotated(aged, 3)
    counted = Room(None, delay=0, overlap=0, after_frames=10)
    async with counted.rotator:
        for _ in range(9):
            counted.send()
        await asyncio.sleep(0.1)
        assert counted.handed_out == []
        counted.send()
        assert await rotated(counted)
    left = Room(None, delay=0.05, overlap=0)
    async with left.rotator:
        await asyncio.sleep(0.1)
        assert left.handed_out == []
        for _ in range(5):
            left.rotator.participant_left()
        assert await rotated(left)
        await asyncio.sleep(0.2)
        assert len(left.handed_out) == 1, "several who leave together make one rotation"
    assert left.here.key_ids == [1], "what was kept for the overlap goes at the end"
    with pytest.raises(RuntimeError, match="async with"):
        left.rotator.participant_left()


async def test_a_failing_distribution_is_tried_again(monkeypatch, caplog):
    monkeypatch.setattr("frameseal.rotation.LOOK_EVERY", 0.01)
    room, failures = Room(None, delay=0, overlap=0), [ConnectionError("away"), ConnectionError("away")]
    hand_out = room.distribute

    async def sometimes(key, key_id):
        if failures:
            raise failures.pop()
        await hand_out(key, key_id)

    room.rotator._distribute = sometimes
    async with room.rotator:
        room.rotator.participant_left()
        for _ in range(500):
            await asyncio.sleep(0.01)
            if room.handed_out:
                break
    assert len(room.handed_out) == 1 and "tried again" in caplog.text


@pytest.mark.parametrize("options", [{"delay": -1}, {"overlap": -1}, {"every": 0}, {"after_frames": 0}])
def test_times_and_counts_out_of_range_are_refused(options):
    with pytest.raises(ValueError):
        Room(None, **options)


def test_a_ring_of_one_key_cannot_rotate():
    with pytest.raises(ValueError, match="two key ids"):
        KeyRotator(KeyProvider(key_ring_size=1), lambda key, key_id: None)
