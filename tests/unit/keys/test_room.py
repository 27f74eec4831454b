"""The rules of a room on an event loop, in simulated time, with rings that seal and open."""

import asyncio
import dataclasses

import pytest

from frameseal import Decryptor, Encryptor, KeyProvider, Profile, UnknownKey
from frameseal.exceptions import FrameError
from frameseal.keys.policies import JITSI, MATRIX_RTC, RoomPolicy
from frameseal.keys.room import RoomRotator
from support.e2ee_helpers import AUDIO, KEY
from support.simulated_time import run


class Member:
    """A receiver with a provider of their own, in which each key that arrives is set."""

    def __init__(self, profile: Profile) -> None:
        self.keys = KeyProvider(ratchet_window=8)
        self.ring = self.keys.ring_for(profile, "alice")
        self.decryptor = Decryptor(self.ring, "opus")

    def opens(self, sealed: bytes) -> bool:
        try:
            return self.decryptor.decrypt(sealed) == AUDIO
        except (FrameError, UnknownKey):
            return False


class Room:
    """Alice, who sends, and members who receive her keys unless they are unreachable."""

    def __init__(self, policy: RoomPolicy, *names: str, profile: Profile = Profile.LIVEKIT, **options) -> None:
        self.keys = KeyProvider(allow_export=True)
        self.encryptor = Encryptor(self.keys.ring_for(profile, "alice"), "opus")
        self.profile, self.members = profile, {name: Member(profile) for name in names}
        self.sent: list[tuple[str, int]] = []
        self.values: set[bytes] = set()
        self.unreachable: set[str] = set()
        self.rotator = RoomRotator(
            self.keys, self.distribute, policy, participant_id="alice", participant_ids=names, **options
        )

    async def distribute(self, key: bytes, key_id: int, participant_id: str) -> None:
        self.sent.append((participant_id, key_id))
        if participant_id in self.unreachable:
            raise ConnectionError("away")
        self.values.add(key)
        self.members[participant_id].keys.set_key("alice", key, key_id)

    def join(self, name: str) -> None:
        self.members[name] = Member(self.profile)
        self.rotator.joined(name)

    def openers(self) -> set[str]:
        sealed = self.encryptor.encrypt(AUDIO)
        return {name for name, member in self.members.items() if member.opens(sealed)}

    @property
    def key_id(self) -> int:
        return self.keys.sending_key_id("alice")


def test_joins_and_leaves_change_who_can_open():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol")
        async with room.rotator:
            await asyncio.sleep(1)
            assert room.openers() == {"bob", "carol"} and room.rotator.unconfirmed == {"bob", "carol"}
            room.rotator.left("carol")
            await asyncio.sleep(4.9)
            assert room.openers() == {"bob", "carol"}, "within the delay"
            room.join("dave")
            await asyncio.sleep(0.2)
            assert room.openers() == {"bob", "dave"}
            assert room.keys.key_ids_of("alice") == [1, 2], "the previous key opens frames under way"
            room.rotator.confirmed("bob", 2)
            room.rotator.confirmed("dave", 1)
            assert room.rotator.unconfirmed == {"dave"}
            await asyncio.sleep(10)
            assert room.keys.key_ids_of("alice") == [2]
            await asyncio.sleep(100)
            old = room.encryptor.encrypt(AUDIO)
            room.join("eve")
            await asyncio.sleep(6)
            assert room.openers() == {"bob", "dave", "eve"} and not room.members["eve"].opens(old)
        assert len(room.values) == 3 and {len(key) for key in room.values} == {32}
        assert room.sent == [
            *(("bob", 1), ("carol", 1), ("bob", 2), ("dave", 2)),
            *(("bob", 3), ("dave", 3), ("eve", 3)),
        ]

    run(main())


@pytest.mark.parametrize("profile", [Profile.JITSI, Profile.LIVEKIT])
def test_newcomers_receive_the_ratcheted_key_and_the_others_follow(profile):
    async def main():
        room = Room(JITSI, "bob", profile=profile)
        async with room.rotator:
            await asyncio.sleep(1)
            assert room.openers() == {"bob"}
            old = room.encryptor.encrypt(AUDIO)
            room.join("carol")
            await asyncio.sleep(6)
            assert room.openers() == {"bob", "carol"} and not room.members["carol"].opens(old)
            assert room.sent == [("bob", 1), ("carol", 1)], "bob needs no message"
            room.rotator.left("bob")
            await asyncio.sleep(11)
            assert room.openers() == {"carol"}

    run(main())


def test_where_a_profile_has_no_ratchet_newcomers_receive_a_fresh_key():
    async def main():
        room = Room(JITSI, "bob", profile=Profile.SFRAME)
        async with room.rotator:
            room.join("carol")
            await asyncio.sleep(16)
            assert {name for name, _ in room.sent} == {"bob", "carol"}
            assert room.members["carol"].keys.key_ids_of("alice") == [2]

    run(main())


def test_a_key_that_has_reached_nobody_does_not_seal_and_the_next_one_does():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol", attempts=1)
        events = []
        room.rotator.on("key-undelivered", events.append)
        async with room.rotator:
            await asyncio.sleep(1)
            room.unreachable = {"bob"}
            room.rotator.left("carol")
            await asyncio.sleep(0.5)
            assert room.keys.key_ids_of("alice") == [1], "a key that was abandoned is removed"
            await asyncio.sleep(60)
            assert room.key_id == 1 and room.openers() == {"bob", "carol"}
            assert events and {event.in_use for event in events} == {False}
            assert room.rotator.without_key == {"bob"}
            room.unreachable = set()
            await asyncio.sleep(8)
            assert room.openers() == {"bob"} and room.rotator.without_key == frozenset()

    run(main())


@pytest.mark.parametrize("policy", [MATRIX_RTC, RoomPolicy(delay=0)])
def test_after_a_key_that_the_provider_refuses_another_one_is_made(policy):
    async def main():
        room = Room(policy, "bob", "carol")
        set_key, refused = room.keys.set_key, []

        def refuse_once(*args, **kwargs):
            if not refused:
                refused.append(args)
                raise ValueError("full")
            set_key(*args, **kwargs)

        async with room.rotator:
            await asyncio.sleep(1)
            room.keys.set_key = refuse_once
            room.rotator.left("carol")
            await asyncio.sleep(0.5)
            assert refused and room.openers() == {"bob", "carol"}, "the previous key stays in use"
            await asyncio.sleep(6)
            assert room.openers() == {"bob"}

    run(main())


def test_a_provider_that_refuses_the_first_key_ends_the_entry_and_leaves_no_task():
    async def main():
        room = Room(MATRIX_RTC, "bob")

        def refuse(*args, **kwargs):
            raise ValueError("full")

        room.keys.set_key = refuse
        with pytest.raises(ValueError, match="full"):
            async with room.rotator:
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_one_who_cannot_be_reached_delays_nobody_and_is_named():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol", "dave")
        room.unreachable = {"bob"}
        events = []
        room.rotator.on("key-undelivered", events.append)
        async with room.rotator:
            await asyncio.sleep(1)
            room.rotator.left("dave")
            await asyncio.sleep(5.1)
            assert room.openers() == {"carol"}
            assert room.rotator.without_key == {"bob"} and events[-1].in_use
            room.unreachable = set()
            room.rotator.joined("bob")
            await asyncio.sleep(0.1)
            assert room.openers() == {"bob", "carol"} and room.rotator.without_key == frozenset()

    run(main())


def test_a_distribution_that_hangs_delays_the_key_until_its_timeout_and_no_longer():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol", "dave", distribute_timeout=10, attempts=1)
        quick = room.distribute

        async def hang(key, key_id, participant_id):
            if participant_id == "bob":
                await asyncio.Event().wait()
            await asyncio.sleep(7)
            await quick(key, key_id, participant_id)

        async with room.rotator:
            await asyncio.sleep(1)
            room.rotator._rotator._distribute = hang
            room.rotator.left("dave")
            await asyncio.sleep(6.9)
            assert room.key_id == 1, "the delay has passed, and the key has reached nobody"
            await asyncio.sleep(0.2)
            assert room.key_id == 2 and room.openers() == {"carol"}

    run(main())


def test_who_left_is_not_tried_again():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol")
        async with room.rotator:
            await asyncio.sleep(1)
            room.sent.clear()
            room.unreachable = {"bob"}
            room.rotator.rotate()
            await asyncio.sleep(0.1)
            room.rotator.left("bob")
            await asyncio.sleep(30)
            assert room.sent == [("bob", 2), ("carol", 2), ("carol", 3)]

    run(main())


def test_a_key_that_reaches_a_newcomer_only_seals_after_its_delay():
    async def main():
        room = Room(MATRIX_RTC, "bob")
        async with room.rotator:
            await asyncio.sleep(1)
            room.unreachable = {"bob"}
            room.rotator.rotate()
            room.join("dave")
            await asyncio.sleep(5.1)
            assert room.openers() == {"dave"} and room.rotator.without_key == {"bob"}

    run(main())


def test_a_key_whose_recipients_have_all_left_seals_after_its_delay_for_a_newcomer():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol")
        async with room.rotator:
            await asyncio.sleep(1)
            room.unreachable = {"bob", "carol", "dave"}
            room.rotator.rotate()
            await asyncio.sleep(0.1)
            room.join("dave")
            room.rotator.left("bob")
            room.rotator.left("carol")
            await asyncio.sleep(2)
            room.unreachable = set()
            await asyncio.sleep(8.1)
            assert room.openers() == {"dave"}

    run(main())


def test_a_key_that_reaches_neither_the_present_nor_a_newcomer_does_not_seal():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol")
        async with room.rotator:
            await asyncio.sleep(1)
            room.unreachable = {"bob", "carol", "dave"}
            room.rotator.rotate()
            await asyncio.sleep(2)
            room.join("dave")
            room.rotator.left("bob")
            for _ in range(200):
                await asyncio.sleep(1)
                assert room.key_id == 1
            room.unreachable = set()
            await asyncio.sleep(15)
            assert room.openers() == {"carol", "dave"}
            assert not room.rotator._sends and len(room.rotator._keys) == 1

    run(main())


def test_a_room_of_two_hundred_with_a_change_each_second_loses_nobody():
    async def main():
        names = [f"member {number}" for number in range(200)]
        room = Room(dataclasses.replace(MATRIX_RTC, grace=60, interval=60), *names)
        async with room.rotator:
            for number in range(0, 120, 2):
                room.rotator.left(names[number])
                await asyncio.sleep(1)
                room.join(f"newcomer {number}")
                await asyncio.sleep(1)
            await asyncio.sleep(66)
            gone = set(names[0:120:2])
            assert room.openers() == room.members.keys() - gone
            assert len(room.rotator._keys) == 1, "keys of former generations are dropped"
        assert len(room.values) <= 5

    run(main())


def test_the_shared_key_and_a_provider_with_a_key():
    async def main():
        keys, arrived = KeyProvider(), []
        keys.set_shared_key(KEY)

        async def distribute(key, key_id, participant_id):
            arrived.append((participant_id, key_id))

        async with RoomRotator(keys, distribute, overlap=1) as rotator:
            assert keys.sending_key_id() == 1
            rotator.joined("bob")
            await asyncio.sleep(2)
            assert keys.key_ids == [1], "the key from before is removed after the overlap"
            assert arrived == [("bob", 1)]

    run(main())


def test_leaving_the_context_ends_everything():
    async def main():
        room = Room(MATRIX_RTC, "bob", "carol")
        async with room.rotator:
            await asyncio.sleep(1)
            room.rotator.left("carol")
        assert room.keys.key_ids_of("alice") == [1], "the key that was coming is removed"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for call in (lambda: room.rotator.joined("x"), lambda: room.rotator.left("x"), room.rotator.rotate):
            with pytest.raises(RuntimeError, match="async with"):
                call()
        with pytest.raises(RuntimeError, match="once"):
            await room.rotator.__aenter__()

    run(main())


async def test_a_forked_child_makes_its_own(monkeypatch):
    async def distribute(key, key_id, participant_id): ...

    async with RoomRotator(KeyProvider(), distribute) as rotator:
        with monkeypatch.context() as child:
            child.setattr("os.getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="forked child"):
                rotator.joined("bob")


async def test_wrong_arguments_are_refused():
    async def distribute(key, key_id, participant_id): ...

    with pytest.raises(ValueError, match="allow_export"):
        RoomRotator(KeyProvider(), distribute, JITSI)
    with pytest.raises(TypeError):
        RoomRotator(KeyProvider(), distribute, "jitsi")
    with pytest.raises(ValueError, match="key_ring_size"):
        RoomRotator(KeyProvider(key_ring_size=1), distribute)
    rotator = RoomRotator(KeyProvider(), distribute, participant_ids="bob")
    with pytest.raises(TypeError):
        await rotator.__aenter__()
    with pytest.raises(RuntimeError, match="async with"):
        rotator.confirmed("bob", 1)
