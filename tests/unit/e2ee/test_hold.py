"""Frames that arrive before their key: held, bounded, opened in order when it comes; and who is told of it."""

import os

import pytest

from frameseal import E2EEManager, E2EEMissingKey, KeyProvider
from frameseal.e2ee.monitor import MAX_MISSING_KEYS, REQUEST_BURST, KeyRequests
from frameseal.e2ee.track import GRACE_PERIOD, KEY_REQUEST_INTERVAL
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, Clock, TimedCall, delivered, provider, sealer


def receiving(keys, clock=None, profile="videosdk", **options):
    e2ee = E2EEManager(keys, profile, **options) if clock is None else TimedCall(keys, clock, profile, **options)
    return e2ee, e2ee.receiver_transform("bob", "audio", "opus")


def numbered(number: int) -> bytes:
    return AUDIO + bytes([number])


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
async def test_frames_that_wait_for_their_key_come_out_in_order_with_what_came_with_them(profile):
    keys, far = provider(None), provider(KEY)
    seal = E2EEManager(far, profile).sender_transform("bob", "audio", "opus").encrypt
    _, bob = receiving(keys, profile=profile, hold_frames=8)
    for number in range(5):
        assert bob.open(seal(numbered(number)), number) == []
        assert bob.held
    keys.set_shared_key(KEY)
    assert bob.open(seal(numbered(5)), 5) == [(numbered(number), number) for number in range(6)]
    assert bob.open(seal(numbered(6)), 6) == [(numbered(6), 6)]


async def test_no_more_frames_wait_than_were_asked_for_and_the_oldest_go():
    keys, seal = provider(None), sealer()
    _, bob = receiving(keys, hold_frames=3)
    for number in range(5):
        bob.open(seal(numbered(number)), number)
        assert bob.held == (number < 3)
    keys.set_shared_key(KEY)
    assert [tag for _, tag in bob.open(seal(numbered(5)), 5)] == [2, 3, 4, 5]


async def test_frames_under_a_key_that_is_there_pass_those_that_wait():
    keys, old, new = provider(KEY), sealer(), sealer(OTHER_KEY, key_id=1)
    _, bob = receiving(keys, hold_frames=8)
    assert bob.open(new(numbered(0)), 0) == []
    assert bob.open(old(numbered(1)), 1) == [(numbered(1), 1)]
    keys.set_shared_key(KEY, 2)  # a change, but not the one that is waited for
    assert bob.open(old(numbered(2)), 2) == [(numbered(2), 2)]
    keys.set_shared_key(OTHER_KEY, 1)
    assert [tag for _, tag in bob.open(new(numbered(3)), 3)] == [0, 3]


async def test_frames_of_a_track_that_has_ended_or_rests_wait_no_longer():
    keys, seal = provider(None), sealer()
    e2ee, bob = receiving(keys, hold_frames=8)
    bob.open(seal(numbered(0)), 0)
    e2ee.release(bob)
    e2ee.resume(bob)
    bob.open(seal(numbered(1)), 1)
    keys.set_shared_key(KEY)
    assert [tag for _, tag in bob.open(seal(numbered(2)), 2)] == [1, 2]


async def test_what_fails_for_another_reason_does_not_wait():
    keys, seal = provider(OTHER_KEY), sealer()
    _, bob = receiving(keys, hold_frames=8)
    assert bob.open(seal(AUDIO)) == []
    assert not bob.held
    keys.set_shared_key(KEY)
    assert len(bob.open(seal(AUDIO))) == 1


async def test_without_the_option_nothing_waits():
    keys, seal = provider(None), sealer()
    _, bob = receiving(keys)
    assert bob.open(seal(AUDIO)) == []
    assert not bob.held
    keys.set_shared_key(KEY)
    assert bob.open(seal(AUDIO), "tag") == [(AUDIO, "tag")]
    assert bob.open(b"", "tag") == []


@pytest.mark.parametrize("hold", [-1, 257])
def test_a_number_of_held_frames_out_of_range_is_refused(hold):
    with pytest.raises(ValueError, match="hold_frames must be between 0 and 256"):
        E2EEManager(provider(), "videosdk", hold_frames=hold)


async def test_the_application_is_asked_for_a_missing_key_once_in_a_while():
    clock = Clock()
    asked: list[E2EEMissingKey] = []
    keys, seal, other = provider(None), sealer(key_id=3), sealer(key_id=4)
    _, bob = receiving(keys, clock, on_missing_key=asked.append)
    for _ in range(50):
        bob.decrypt(seal(AUDIO))
    bob.decrypt(other(AUDIO))
    await delivered()
    assert asked == [E2EEMissingKey("bob", "audio", 3), E2EEMissingKey("bob", "audio", 4)]
    clock.now += KEY_REQUEST_INTERVAL
    bob.decrypt(seal(AUDIO))
    await delivered()
    assert asked[2:] == [E2EEMissingKey("bob", "audio", 3)]


async def test_a_coroutine_function_that_fetches_the_key_ends_the_silence():
    keys, seal = provider(None), sealer(key_id=3)

    async def fetch(missing):
        keys.set_shared_key(KEY, missing.key_id)

    _, bob = receiving(keys, on_missing_key=fetch, hold_frames=4)
    assert bob.open(seal(numbered(0)), 0) == []
    await delivered()
    assert [tag for _, tag in bob.open(seal(numbered(1)), 1)] == [0, 1]


def test_the_key_ids_that_are_remembered_as_missing_are_bounded():
    requests, now = KeyRequests(), 1000.0
    assert all(requests.may_request(str(name), 0, now) for name in range(MAX_MISSING_KEYS + 50))
    assert len(requests._requested) == len(requests._buckets) == MAX_MISSING_KEYS
    assert requests.may_request("0", 0, now) and not requests.may_request(str(MAX_MISSING_KEYS + 49), 0, now)


async def test_a_storm_of_key_ids_asks_the_application_a_few_times_and_then_once_a_second():
    clock = Clock()
    asked: list[E2EEMissingKey] = []
    _, bob = receiving(provider(), clock, profile="sframe", on_missing_key=asked.append)

    async def storm() -> int:
        before = len(asked)
        for _ in range(1000):
            bob.decrypt(b"\xf0\x01" + os.urandom(6) + b"\x07" + os.urandom(60))  # 2^48 key ids
        await delivered()
        return len(asked) - before

    assert await storm() == REQUEST_BURST
    assert await storm() == 0
    for _ in range(3):
        clock.now += 1
        assert await storm() == 1
    clock.now += 1000
    assert await storm() == REQUEST_BURST


class Asking:
    """A receiver, and what the application is asked for while a clock stands still."""

    def __init__(self, keys=None, **options) -> None:
        self.clock = Clock()
        self.asked: list[E2EEMissingKey] = []
        self.keys = keys or provider(None)
        self.e2ee, self.bob = receiving(self.keys, self.clock, on_missing_key=self.asked.append, **options)

    async def asks(self, *frames: bytes) -> list[int]:
        """Return the key ids that are asked for because of these frames."""
        self.asked.clear()
        for frame in frames:
            self.bob.decrypt(frame)
        await delivered()
        return [missing.key_id & 0xFF for missing in self.asked]


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
@pytest.mark.parametrize("between", ["opened", "opened among others", "failed", "no frame", "removed"])
async def test_a_key_that_is_missing_again_is_asked_for_again_at_once(profile, between):
    """The throttle is of one shortage, and ends with it."""
    call = Asking(profile=profile)

    def far(key, key_id):
        keys = provider(None)
        keys.set_shared_key(key, key_id)
        return E2EEManager(keys, profile).sender_transform("bob", "audio", "opus").encrypt

    seal, other = far(KEY, 3), far(OTHER_KEY, 1)
    assert await call.asks(*(seal(AUDIO) for _ in range(9))) == [3]
    call.clock.now += 0.2
    if between == "removed":
        call.e2ee.remove_participant("bob")
        call.clock.now += GRACE_PERIOD
    else:
        call.keys.set_shared_key(OTHER_KEY, 1)
        if between == "opened among others":
            assert await call.asks(seal(AUDIO), other(AUDIO), other(AUDIO)) == []
        call.keys.set_shared_key(KEY if "opened" in between else OTHER_KEY, 3)
        if between != "no frame":
            assert await call.asks(seal(AUDIO), seal(AUDIO), other(AUDIO)) == []
        call.clock.now += 0.2
        call.keys.remove(None, 3)
    assert await call.asks(*(seal(AUDIO) for _ in range(9))) == [3]
    call.clock.now += KEY_REQUEST_INTERVAL - 0.1
    assert await call.asks(seal(AUDIO)) == []


async def test_frames_under_another_key_end_no_shortage():
    call, seal, other = Asking(), sealer(key_id=3), sealer(OTHER_KEY, key_id=1)
    call.keys.set_shared_key(OTHER_KEY, 1)
    assert await call.asks(seal(AUDIO)) == [3]
    for _ in range(20):
        call.clock.now += 0.1
        call.keys.set_shared_key(OTHER_KEY, 1)  # a change of the ring, and not of what is missing
        assert await call.asks(other(AUDIO), seal(AUDIO), other(AUDIO), AUDIO) == []


async def test_setting_a_key_ends_the_shortage_of_no_other_participant_and_removing_one_ends_none():
    call, seal = Asking(KeyProvider()), sealer(key_id=3)
    assert await call.asks(seal(AUDIO)) == [3]
    for _ in range(20):
        call.clock.now += 0.1
        call.keys.set_key("carol", KEY, 3)
        call.keys.remove("carol")
        call.keys.remove(None, 3)  # it was missing before
        call.keys.remove("bob")
        assert await call.asks(seal(AUDIO)) == []
    call.keys.set_key("bob", KEY, 3)
    call.keys.remove("bob")
    assert await call.asks(seal(AUDIO), seal(AUDIO)) == [3]


async def test_a_frame_that_failed_just_before_its_key_was_set_asks_nobody(monkeypatch):
    call, seal = Asking(), sealer(key_id=3)
    assert await call.asks(seal(AUDIO)) == [3]
    missing = call.e2ee.report_missing_key

    def set_meanwhile(transform, key_id):
        call.keys.set_shared_key(KEY, 3)
        missing(transform, key_id)

    monkeypatch.setattr(call.e2ee, "report_missing_key", set_meanwhile)
    assert await call.asks(seal(AUDIO), seal(AUDIO)) == []


async def test_a_key_that_comes_and_goes_at_frame_rate_asks_no_more_than_the_rate():
    call, seal, asked = Asking(), sealer(key_id=3), 0
    for _ in range(200):
        asked += len(await call.asks(seal(AUDIO)))
        call.keys.set_shared_key(KEY, 3)
        asked += len(await call.asks(seal(AUDIO)))
        call.keys.remove(None, 3)
    assert asked == REQUEST_BURST
