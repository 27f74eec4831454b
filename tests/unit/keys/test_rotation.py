"""Rotation: the new key is everywhere before it is used, the old one opens what is under way, and then goes."""

import asyncio
import contextlib
import logging

import pytest

from frameseal import Decryptor, Encryptor, KeyProvider, KeyRotator, KeyUndelivered, Profile, UnknownKey
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY
from support.secret_search import captured_by
from support.simulated_time import run


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
    monkeypatch.setattr("frameseal.keys.rotation.CHECK_INTERVAL", 0.01)

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
    monkeypatch.setattr("frameseal.keys.rotation.CHECK_INTERVAL", 0.01)
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
    assert len(room.handed_out) == 1 and "next attempt" in caplog.text


@pytest.mark.parametrize("options", [{"delay": -1}, {"overlap": -1}, {"every": 0}, {"after_frames": 0}])
def test_times_and_counts_out_of_range_are_refused(options):
    with pytest.raises(ValueError):
        Room(None, **options)


def test_a_ring_of_one_key_cannot_rotate():
    with pytest.raises(ValueError, match="two key ids"):
        KeyRotator(KeyProvider(key_ring_size=1), lambda key, key_id: None)


# --- a callback that hangs, fails, or reaches some only --------------------------------------------------------------
#
# In simulated time (`simulated_time`): a wait without a timer, which would be for good, is an error there.

TIMEOUT, DELAY, OVERLAP = 10.0, 5.0, 10.0  # the defaults


async def for_good(*arguments):
    await asyncio.Event().wait()


async def for_good_and_deaf(*arguments):
    """Hang, and ignore to be cancelled, as far as asyncio lets a coroutine: until the loop ends."""
    while not ENDED.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await ENDED.wait()


ENDED = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_end(monkeypatch):
    monkeypatch.setitem(globals(), "ENDED", asyncio.Event())


def heard_by(rotator):
    told = []
    rotator.on("key-undelivered", told.append)
    return told


@pytest.mark.parametrize("hang", [for_good, for_good_and_deaf])
def test_a_callback_that_never_returns_fails_the_rotation_in_time_and_is_told(hang):
    keys = KeyProvider()
    keys.set_shared_key(KEY)

    async def story():
        rotator = KeyRotator(keys, hang)
        told = heard_by(rotator)
        with pytest.raises(TimeoutError, match="did not return within 10"):
            await rotator.rotate()
        await asyncio.sleep(0)
        assert (keys.sending_key_id(), keys.key_ids) == (0, [0]), "the old key stays in use"
        assert told == [KeyUndelivered(frozenset(), 1, in_use=False)]
        ENDED.set()

    assert run(story()) == pytest.approx(TIMEOUT)


@pytest.mark.parametrize("hang", [for_good, for_good_and_deaf])
def test_while_it_hangs_the_rotator_says_so_tries_again_and_goes_on_when_it_works(hang, caplog):
    keys, calls = KeyProvider(), []
    keys.set_shared_key(KEY)

    async def distribute(key, key_id):
        calls.append(key)
        if len(calls) < 4:
            await hang()

    async def story():
        async with KeyRotator(keys, distribute) as rotator:
            rotator.participant_left()
            await asyncio.sleep(3 * (TIMEOUT + 1) + DELAY + 1)
            assert keys.sending_key_id() == 1
        ENDED.set()

    run(story())
    assert len([record for record in caplog.records if "TimeoutError" in record.message]) == 3
    assert len(set(calls)) == 4, "each try has a key of its own"


@pytest.mark.parametrize("hang", [for_good, for_good_and_deaf])
@pytest.mark.parametrize("targets", [None, ["bob"]])
def test_leaving_the_context_ends_at_once_whatever_the_callback_does(hang, targets):
    keys, called = KeyProvider(), asyncio.Event()
    keys.set_shared_key(KEY)

    async def distribute(*arguments):
        called.set()
        await hang()

    async def story():
        loop = asyncio.get_running_loop()
        async with KeyRotator(keys, distribute, targets=targets) as rotator:
            rotator.participant_left()
            await called.wait()
            before = loop.time()
        assert loop.time() == before
        assert keys.key_ids == [0], "the key that reached nobody is forgotten"
        assert not rotator._one_at_a_time.locked()
        ENDED.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []

    assert run(story()) < 1.0 + TIMEOUT


def test_adopting_and_rotating_wait_no_longer_than_one_hanging_rotation():
    keys = KeyProvider()
    keys.set_shared_key(KEY)

    async def story():
        rotator = KeyRotator(keys, for_good)
        first = asyncio.ensure_future(rotator.rotate())
        await asyncio.sleep(0)
        await rotator.adopt(OTHER_KEY, 7)
        assert keys.sending_key_id() == 7
        assert isinstance(first.exception(), TimeoutError)

    assert run(story()) == pytest.approx(TIMEOUT + DELAY)


class Company:
    """Participants, some of whom cannot be reached, and who got which key."""

    def __init__(self, *names: str, **how) -> None:
        self.names, self.how = list(names), how
        self.got: dict[str, list[bytes]] = {name: [] for name in names}
        self.tries: list[str] = []
        self.keys = KeyProvider()
        self.keys.set_shared_key(KEY)

    async def distribute(self, key: bytes, key_id: int, name: str) -> None:
        self.tries.append(name)
        how = self.how.get(name)
        if isinstance(how, list):
            how = how.pop(0) if how else None
        if isinstance(how, BaseException):
            raise how
        if how is not None:
            await how()
        self.got[name].append(key)


def test_one_who_cannot_be_reached_holds_up_nobody_and_is_named():
    company = Company("bob", "carol", "dave", carol=for_good, dave=ConnectionError("away"))

    async def story():
        rotator = KeyRotator(company.keys, company.distribute, targets=lambda: company.names)
        told = heard_by(rotator)
        assert await rotator.rotate() == 1
        assert company.keys.sending_key_id() == 1
        assert rotator.without_key == {"carol", "dave"}
        assert told == [KeyUndelivered(frozenset({"carol", "dave"}), 1, in_use=True)]
        company.how.clear()
        await rotator.rotate()
        await asyncio.sleep(0)
        assert rotator.without_key == frozenset() and len(told) == 1

    took = run(story())
    assert took == pytest.approx(3 * TIMEOUT + 1 + 2 + DELAY + DELAY)
    assert [len(company.got[name]) for name in ("bob", "carol", "dave")] == [2, 1, 1]
    assert sorted(company.tries) == ["bob"] * 2 + ["carol"] * 4 + ["dave"] * 4


def test_each_is_tried_again_and_only_who_was_not_reached():
    company = Company("bob", "carol", carol=[ConnectionError("away"), TimeoutError("slow")])

    async def story():
        rotator = KeyRotator(company.keys, company.distribute, targets=("bob", "carol"), delay=0)
        await rotator.rotate()
        assert rotator.without_key == frozenset()

    assert run(story()) == pytest.approx(1 + 2)
    assert sorted(company.tries) == ["bob", "carol", "carol", "carol"]
    assert company.got["bob"] == company.got["carol"]


def test_who_leaves_before_the_second_try_gets_no_key_and_is_not_missed():
    company = Company("bob", "carol", carol=ConnectionError("away"))

    async def story():
        rotator = KeyRotator(company.keys, company.distribute, targets=lambda: company.names, delay=0)
        rotating = asyncio.ensure_future(rotator.rotate())
        await asyncio.sleep(0.5)
        company.names.remove("carol")
        company.how.clear()  # she could be reached now
        await rotating
        assert rotator.without_key == frozenset()

    run(story())
    assert company.got["carol"] == [] and company.tries.count("carol") == 1


@pytest.mark.parametrize("how", [for_good, for_good_and_deaf, ConnectionError("away")])
def test_a_key_that_reached_none_of_them_is_not_used(how):
    company = Company("bob", "carol", bob=how, carol=how)

    async def story():
        rotator = KeyRotator(company.keys, company.distribute, targets=company.names, attempts=2)
        told = heard_by(rotator)
        with pytest.raises(ConnectionError, match="reached none of the targets"):
            await rotator.rotate()
        await asyncio.sleep(0)
        assert (company.keys.sending_key_id(), company.keys.key_ids) == (0, [0])
        assert told == [KeyUndelivered(frozenset({"bob", "carol"}), 1, in_use=False)]
        ENDED.set()

    run(story())


def test_a_function_of_targets_that_fails_fails_the_rotation_and_nobody_is_called_afterwards():
    company = Company("bob", "carol", carol=[ConnectionError("away")] * 5)

    def targets():
        if company.tries:
            raise LookupError("the room is gone")
        return company.names

    async def story():
        with pytest.raises(LookupError, match="the room is gone"):
            await KeyRotator(company.keys, company.distribute, targets=targets).rotate()
        tried = len(company.tries)
        await asyncio.sleep(100)
        assert len(company.tries) == tried and company.keys.key_ids == [0]

    run(story())


def test_alone_in_a_call_there_is_nobody_to_reach():
    company = Company()

    async def story():
        assert await KeyRotator(company.keys, company.distribute, targets=list).rotate() == 1

    assert run(story()) == pytest.approx(DELAY)


@pytest.mark.parametrize("targets", [None, ["bob"]])
def test_a_callback_that_is_cancelled_or_no_coroutine_function_is_a_failure_like_others(targets):
    keys = KeyProvider()
    keys.set_shared_key(KEY)

    async def cancelled(*arguments):
        raise asyncio.CancelledError

    async def story():
        for distribute in (cancelled, lambda *arguments: None):
            with pytest.raises((RuntimeError, TypeError, ConnectionError)):
                await KeyRotator(keys, distribute, targets=targets).rotate()

    run(story())
    assert keys.sending_key_id() == 0


@pytest.mark.parametrize("targets", [None, ["bob", "carol"]])
def test_neither_a_log_line_nor_an_event_has_the_key_though_the_callback_puts_it_everywhere(targets, caplog):
    caplog.set_level(logging.DEBUG)
    keys, shown = KeyProvider(), []
    keys.set_shared_key(KEY)

    async def distribute(key, key_id, *target):
        shown.append(key)
        if target == ("bob",):
            return
        if len(shown) % 2:
            raise ConnectionError(f"could not send {key!r}", key.hex(), key)
        key.decode("ascii" if max(key) > 127 else "utf-16-le")  # the error has it in `.object`
        raise ConnectionError(key)

    async def story():
        async with KeyRotator(keys, distribute, targets=targets) as rotator:
            told = heard_by(rotator)
            rotator.participant_left()
            await asyncio.sleep(30)
            said = [repr(told), repr(rotator)]
            for record in caplog.records:
                said += [record.getMessage(), repr(record.__dict__)]
                assert record.exc_info is None
            for key in shown:
                assert not any(form in text for text in said for form in (repr(key)[2:-1], key.hex()))
            assert told and "ConnectionError" in caplog.text

    run(story())


def test_a_traceback_that_captures_locals_has_no_key_of_the_rotators_own():
    keys, shown = KeyProvider(), []
    keys.set_shared_key(KEY)

    async def distribute(key, key_id):
        shown.append(key)
        raise ConnectionError

    async def story():
        rotator = KeyRotator(keys, distribute)
        with pytest.raises(ConnectionError) as caught:
            await rotator.rotate()
        assert not any(repr(shown[0]) in text for text in captured_by(caught.value, "keys/rotation.py"))

    run(story())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"distribute_timeout": 0}, ValueError),
        ({"distribute_timeout": float("inf")}, ValueError),
        ({"distribute_timeout": float("nan")}, ValueError),
        ({"distribute_timeout": None}, TypeError),
        ({"delay": float("nan")}, ValueError),
        ({"overlap": 10**400}, ValueError),
        ({"attempts": 0}, ValueError),
        ({"attempts": 11}, ValueError),
        ({"attempts": True}, TypeError),
        ({"targets": "bob"}, TypeError),
        ({"targets": 5}, TypeError),
        ({"targets": [None]}, TypeError),
    ],
)
def test_what_makes_no_rotator_is_told_by_name(options, error):
    (name,) = options
    with pytest.raises(error, match=name):
        KeyRotator(KeyProvider(), for_good, **options)
