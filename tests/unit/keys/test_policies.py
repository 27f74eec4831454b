"""The rules of rooms, in simulated time: who can open what after a join and a leave, and how often keys change."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameseal.keys.policies import (
    ELEMENT_CALL,
    JITSI,
    MATRIX_RTC,
    MakeKey,
    RatchetKey,
    RoomKeys,
    RoomPolicy,
    SendKey,
    UseKey,
)

PRESETS = {"matrix-rtc": MATRIX_RTC, "element-call": ELEMENT_CALL, "jitsi": JITSI}


class Room:
    """Performs the actions of one `RoomKeys`, and knows who can open what was sealed when."""

    def __init__(self, policy: RoomPolicy, *present: str, start: float = 0.0) -> None:
        self.keys, self.now = RoomKeys(policy), start
        self.log: list[tuple[float, object]] = []
        self.sealing = -1
        self.steps: dict[int, int] = {}
        self.sealed_since: dict[tuple[int, int], float] = {}  # (generation, step) -> when it first sealed
        self.known: dict[str, dict[int, int]] = {}  # participant -> generation -> first step that they can open
        self.joined_at = dict.fromkeys(present, start)
        self.left_at: dict[str, float] = {}
        self.perform(self.keys.start(present, start))

    def perform(self, actions: list[object]) -> None:
        for action in actions:
            self.log.append((self.now, action))
            match action:
                case MakeKey(generation, ids):
                    self.steps[generation] = 0
                    self.learn(generation, ids)
                case SendKey(generation, ids):
                    self.learn(generation, ids)
                case RatchetKey(generation):
                    assert generation == self.sealing
                    self.steps[generation] += 1
                case UseKey(generation):
                    assert generation > self.sealing
                    self.sealing = generation
            if self.sealing >= 0:
                self.sealed_since.setdefault((self.sealing, self.steps[self.sealing]), self.now)
        assert self.sealing == self.keys.sealing_generation

    def learn(self, generation: int, ids: tuple[str, ...]) -> None:
        for each in ids:
            assert each in self.joined_at, "somebody who is not present received a key"
            known = self.known.setdefault(each, {})
            known[generation] = min(known.get(generation, 99), self.steps[generation])

    def until(self, time: float) -> None:
        """Advance at each time that is due, and not in between."""
        for _ in range(10_000):
            due = self.keys.next_time
            if due is None or due > time:
                self.now = time
                return
            assert due > self.now, "nothing was due, or it was not returned"
            self.now = due
            actions = self.keys.advance(due)
            assert actions, "it asked to be called, and had nothing to do"
            self.perform(actions)
        raise AssertionError("keys change without end")

    def join(self, participant: str, time: float) -> None:
        self.until(time)
        if participant not in self.joined_at:
            self.joined_at[participant] = time
            self.known.pop(participant, None)
            self.left_at.pop(participant, None)
        self.perform(self.keys.joined(participant, time))

    def leave(self, participant: str, time: float) -> None:
        self.until(time)
        if self.joined_at.pop(participant, None) is not None:
            self.left_at[participant] = time
        self.perform(self.keys.left(participant, time))

    def opens(self, participant: str) -> bool:
        """Return True if the participant can open a frame that is sealed now."""
        return self.steps[self.sealing] >= self.known.get(participant, {}).get(self.sealing, 99)

    def made(self) -> list[float]:
        return [time for time, action in self.log if isinstance(action, MakeKey)]

    def since(self, count: int) -> list[tuple[float, object]]:
        return self.log[count:]


# --- joins ---------------------------------------------------------------------------------------------------------


def test_the_first_key_is_used_at_once():
    room = Room(MATRIX_RTC, "bob", "carol")
    assert room.log == [(0.0, MakeKey(0, ("bob", "carol"))), (0.0, UseKey(0))]
    assert room.keys.next_time is None
    assert (room.keys.generation, room.keys.sealing_generation) == (0, 0)


def test_the_grace_time_of_msc4143_as_in_its_diagram():
    room = Room(MATRIX_RTC, "zoe")
    room.join("a", 100)
    room.join("b", 102)
    room.join("c", 107)
    room.join("d", 113)
    room.until(200)
    assert room.since(2) == [
        (100, MakeKey(1, ("zoe", "a"))),
        (102, SendKey(1, ("b",))),
        (105, UseKey(1)),
        (107, SendKey(1, ("c",))),
        (113, MakeKey(2, ("zoe", "a", "b", "c", "d"))),
        (118, UseKey(2)),
    ]


def test_the_leaves_of_msc4143_as_in_its_diagram():
    room = Room(MATRIX_RTC, "a", "b", "c", "d")
    room.leave("a", 100)
    room.leave("b", 102)
    room.leave("c", 104)
    room.until(200)
    assert room.since(2) == [
        (100, MakeKey(1, ("b", "c", "d"))),
        (105, UseKey(1)),
        (105, MakeKey(2, ("d",))),
        (110, UseKey(2)),
    ]
    assert not any(room.opens(each) for each in "abc")


def test_the_grace_time_ends_at_its_last_instant():
    room = Room(RoomPolicy(grace=10, delay=1), "bob")
    room.join("early", 9.999)
    assert isinstance(room.log[-1][1], SendKey)
    room.join("late", 10)
    assert isinstance(room.log[-1][1], MakeKey)


def test_from_the_limit_on_joins_change_no_key_and_leaves_still_do():
    room = Room(dataclasses.replace(MATRIX_RTC, grace=0, join_limit=4), "a")
    room.join("b", 100)  # with this side, three
    room.until(110)
    assert len(room.made()) == 2
    room.join("c", 200)
    assert room.log[-1] == (200, SendKey(1, ("c",))), "the fourth receives the present key"
    room.leave("a", 300)
    room.until(310)
    assert len(room.made()) == 3 and not room.opens("a") and room.opens("c")
    room.leave("b", 400)
    room.until(450)
    room.join("d", 500)
    assert len(room.made()) == 5, "below the limit joins count again"


def test_a_ratchet_step_comes_before_the_key_is_sent_and_serves_a_burst():
    room = Room(JITSI, "bob")
    room.join("carol", 100)
    room.join("dave", 103)
    assert not room.opens("carol") and room.keys.unconfirmed == {"bob", "carol", "dave"}
    room.until(200)
    assert room.since(2) == [(108, RatchetKey(0)), (108, SendKey(0, ("carol", "dave")))]


def test_who_joined_by_a_ratchet_step_and_leaves_is_locked_out():
    room = Room(JITSI, "bob")
    room.join("carol", 100)
    room.leave("carol", 200)
    room.until(300)
    assert room.made() == [0, 205] and room.opens("bob") and not room.opens("carol")


def test_a_key_that_was_ratcheted_as_far_as_receivers_follow_is_replaced():
    room = Room(dataclasses.replace(JITSI, max_ratchets=2), "bob")
    for number in range(4):
        room.join(f"newcomer {number}", 100.0 * (number + 1))
    room.until(1000)
    assert [type(action) for _, action in room.since(2)] == [
        *(RatchetKey, SendKey) * 2,
        *(MakeKey, UseKey),
        *(RatchetKey, SendKey),
    ]


def test_who_leaves_before_the_join_took_effect_changes_nothing():
    room = Room(JITSI, "bob")
    room.join("carol", 100)
    room.leave("carol", 101)
    room.until(200)
    assert len(room.log) == 2 and room.keys.next_time is None
    assert "carol" not in room.known


def test_somebody_with_the_key_who_joins_again_receives_it_again():
    room = Room(MATRIX_RTC, "bob")
    room.join("bob", 500)
    room.perform(room.keys.confirmed("bob", 0, 501))
    assert room.keys.unconfirmed == frozenset()
    room.join("bob", 502)
    assert room.since(2) == [(500, SendKey(0, ("bob",))), (502, SendKey(0, ("bob",)))]
    assert room.keys.unconfirmed == {"bob"}


def test_somebody_who_left_and_comes_back_counts_as_new():
    room = Room(RoomPolicy(delay=5, coalesce=2), "bob", "carol")
    room.leave("bob", 100)
    room.join("bob", 101)
    room.until(200)
    assert room.since(2) == [(102, MakeKey(1, ("carol", "bob"))), (107, UseKey(1))]


# --- leaves, bursts, use --------------------------------------------------------------------------------------------


def test_bursts_cause_one_key_within_a_maximum_however_long_they_last():
    people = [f"person {number}" for number in range(60)]
    quiet = RoomPolicy(coalesce=5, max_coalesce=15, delay=0)
    room = Room(quiet, *people)
    for number, each in enumerate(people):
        room.leave(each, 100.0 + number)
    assert room.made()[1] == 115, "the maximum, although the burst goes on"
    room.until(300)
    assert room.made() == [0, 115, 130, 145, 160]
    endless = Room(dataclasses.replace(quiet, max_coalesce=1e6), *people)
    for number, each in enumerate(people):
        endless.leave(each, 100.0 + number)
    assert len(endless.made()) == 1, "the rule without a maximum, which none of the presets has"


def test_the_interval_bounds_leaves_and_delays_no_joiner():
    room = Room(RoomPolicy(interval=60, delay=1), *"abcdefgh")
    for number, each in enumerate("abcd"):
        room.leave(each, 10.0 + number)
    room.join("x", 20)
    assert room.made() == [0, 20], "a join needs a fresh key, and it serves the leaves"
    room.leave("e", 30)
    room.until(200)
    assert room.made() == [0, 20, 80]


def test_a_key_is_used_when_all_have_confirmed_and_at_the_delay_if_not():
    keys = RoomKeys(RoomPolicy(delay=5, use_when_confirmed=True))
    keys.start(["bob", "carol", "dave"], 0)
    assert keys.left("dave", 100) == [MakeKey(1, ("bob", "carol"))]
    assert keys.confirmed("bob", 1, 101) == []
    assert keys.confirmed("dave", 1, 101) == [], "who left does not count"
    assert keys.confirmed("carol", 0, 101) == [], "another key does not count"
    assert keys.unconfirmed == {"carol"}
    assert keys.confirmed("carol", 1, 102) == [UseKey(1)]
    assert keys.unconfirmed == frozenset()
    keys.left("carol", 200)
    assert keys.unconfirmed == {"bob"}
    assert keys.next_time == 205
    assert keys.advance(205) == [UseKey(2)]
    assert keys.unconfirmed == {"bob"}, "it is used, and bob is still named"


def test_confirmations_alone_do_not_end_the_delay_unless_the_policy_says_so():
    keys = RoomKeys(RoomPolicy(delay=5))
    keys.start(["bob", "carol"], 0)
    keys.left("carol", 10)
    assert keys.confirmed("bob", 1, 11) == [] and keys.next_time == 15


def test_the_last_who_leaves_is_locked_out_at_once():
    room = Room(MATRIX_RTC, "bob", "carol")
    room.leave("bob", 100)
    room.leave("carol", 101)
    assert room.since(2) == [(100, MakeKey(1, ("carol",))), (101, UseKey(1)), (101, MakeKey(2, ())), (101, UseKey(2))]


def test_a_key_is_replaced_by_age():
    room = Room(RoomPolicy(every=60, delay=5), "bob")
    room.until(200)
    assert room.made() == [0, 60, 120, 180]


def test_a_key_that_reached_nobody_is_not_used_and_another_is_made():
    room = Room(RoomPolicy(delay=5), "bob", "carol", "dave")
    room.leave("carol", 100)
    room.join("eve", 101)
    room.now = 102
    assert room.keys.abandon(1, 102) == []
    assert room.keys.sealing_generation == 0 and not room.opens("eve")
    room.until(200)
    assert room.since(4) == [(103, MakeKey(2, ("bob", "dave", "eve"))), (108, UseKey(2))]
    assert room.keys.abandon(1, 300) == [] and room.keys.abandon(2, 300) == [], "neither key is waiting"
    assert room.keys.next_time is None


def test_a_key_that_was_abandoned_leaves_no_one_waiting_under_any_policy():
    for policy in (*PRESETS.values(), RoomPolicy(on_join="share", interval=1000, delay=5)):
        room = Room(policy, "bob", "carol")
        room.leave("carol", 1000)
        room.until(1015)
        coming = room.keys.generation
        room.keys.abandon(coming, 1015)
        room.join("eve", 1016)
        room.until(4000)
        assert room.opens("bob") and room.opens("eve") and not room.opens("carol"), policy


def test_who_left_while_a_key_was_coming_has_no_key_if_it_is_abandoned():
    keys = RoomKeys(RoomPolicy(delay=5))
    keys.start(["bob", "carol", "dave"], 0)
    keys.left("carol", 100)
    keys.left("bob", 101)
    keys.abandon(1, 102)
    assert keys.joined("bob", 102.5) == [], "bob waits for the next key, and does not receive the first one"
    assert keys.advance(103) == [MakeKey(2, ("dave", "bob"))]


def test_a_joiner_whose_key_was_abandoned_does_not_wait_for_the_interval():
    keys = RoomKeys(RoomPolicy(interval=1000, delay=5))
    keys.start(["bob"], 0)
    assert keys.joined("carol", 20) == [MakeKey(1, ("bob", "carol"))]
    keys.abandon(1, 21)
    assert keys.next_time == 22


def test_a_key_can_be_postponed_until_it_has_reached_somebody():
    keys = RoomKeys(RoomPolicy(delay=5))
    keys.start(["bob", "carol"], 0)
    keys.left("carol", 100)
    assert keys.postpone(0, 500, 100) == [] and keys.next_time == 105, "another key is not affected"
    assert keys.postpone(1, 130, 100) == [] and keys.next_time == 130
    assert keys.advance(110) == []
    assert keys.postpone(1, 105, 111) == [UseKey(1)]
    assert keys.postpone(1, 500, 112) == [] and keys.sealing_generation == 1
    with pytest.raises(ValueError, match="until"):
        keys.postpone(1, float("inf"), 113)


def test_the_caller_may_ask_for_a_fresh_key():
    room = Room(MATRIX_RTC, "bob")
    room.now = 100
    room.perform(room.keys.rotate(100))
    room.until(200)
    assert room.since(2) == [(100, MakeKey(1, ("bob",))), (105, UseKey(1))]


# --- hostile or careless callers ------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_does_not_undo_time():
    keys = RoomKeys(RoomPolicy(delay=5))
    keys.start(["bob", "carol"], 100)
    keys.left("bob", 90)
    assert keys.next_time == 105
    assert keys.advance(104) == [] and keys.advance(50) == [] and keys.advance(105) == [UseKey(1)]


def test_one_late_call_does_all_that_is_due():
    keys = RoomKeys(dataclasses.replace(JITSI, every=60))
    keys.start(["bob", "carol"], 0)
    keys.left("carol", 1)
    keys.joined("dave", 2)
    assert keys.advance(1e6) == [MakeKey(1, ("bob", "dave"))]
    assert keys.advance(2e6) == [UseKey(1), MakeKey(2, ("bob", "dave"))], "it is old when it is used at last"


def test_who_was_never_there_may_leave():
    room = Room(MATRIX_RTC, "bob")
    room.leave("mallory", 100)
    assert len(room.log) == 2


def test_wrong_arguments_are_refused_and_change_nothing():
    keys = RoomKeys(MATRIX_RTC)
    for call in (lambda: keys.joined("bob", 0), lambda: keys.left("bob", 0), lambda: keys.advance(0)):
        with pytest.raises(RuntimeError, match="start"):
            call()
    for ids in ("bob", b"bob", 5, [5]):
        with pytest.raises(TypeError):
            keys.start(ids, 0)
    for now in (float("nan"), float("inf"), 1e300, 10**400):
        with pytest.raises(ValueError):
            keys.start([], now)
    for now in (None, True, "0"):
        with pytest.raises(TypeError):
            keys.start([], now)
    keys.start([], 0)
    with pytest.raises(RuntimeError, match="once"):
        keys.start([], 0)
    with pytest.raises(TypeError):
        keys.joined(5, 1e6)
    with pytest.raises(ValueError):
        keys.confirmed("bob", -1, 1)
    with pytest.raises(TypeError):
        RoomKeys("matrix-rtc")
    assert keys.participant_ids == () and keys.next_time is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_join": "nothing"}, ValueError),
        ({"on_join": None}, TypeError),
        ({"grace": -1}, ValueError),
        ({"delay": float("nan")}, ValueError),
        ({"coalesce": 5, "max_coalesce": 4}, ValueError),
        ({"every": 0.5}, ValueError),
        ({"join_limit": 0}, ValueError),
        ({"join_limit": 2.5}, TypeError),
        ({"max_ratchets": 17}, ValueError),
        ({"max_ratchets": 0}, ValueError),
        ({"use_when_confirmed": 1}, TypeError),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options, error):
    with pytest.raises(error):
        RoomPolicy(**options)


# --- properties, for any policy and any room ------------------------------------------------------------------------

SECONDS = st.sampled_from([0.0, 0.1, 1.0, 5.0, 12.5, 60.0])
POLICIES = st.sampled_from([*PRESETS.values()]) | st.builds(
    lambda first, wait, **options: RoomPolicy(coalesce=first, max_coalesce=first + wait, **options),
    SECONDS,
    SECONDS,
    on_join=st.sampled_from(["rotate", "ratchet", "share"]),
    grace=SECONDS,
    delay=SECONDS,
    use_when_confirmed=st.booleans(),
    interval=SECONDS,
    every=st.sampled_from([None, 1.0, 30.0]),
    join_limit=st.sampled_from([None, 3, 5]),
    max_ratchets=st.sampled_from([1, 2, 8]),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "confirm"]), st.sampled_from("abcdef"), st.sampled_from([0, 0.05, 1, 4, 30])
    ),
    max_size=40,
)


def happen(room: Room, events: list[tuple[str, str, float]]):
    """Let the events happen, each some time after the one before. Yields after each."""
    time = room.now
    for kind, who, after in events:
        time += after
        if kind == "confirm":
            room.until(time)
            room.perform(room.keys.confirmed(who, room.keys.generation, time))
        else:
            getattr(room, kind)(who, time)
        yield


@settings(max_examples=300, deadline=None)
@given(POLICIES, EVENTS)
def test_nobody_who_left_opens_frames_for_longer_than_the_policy_says(policy, events):
    room = Room(policy, "a", "b")
    for _ in happen(room, events):
        for who, left in room.left_at.items():
            assert not room.opens(who) or room.now <= left + policy.max_exposure + 1e-6
    room.until(room.now + policy.max_exposure + 1e-6)
    assert not any(map(room.opens, room.left_at))


@settings(max_examples=300, deadline=None)
@given(POLICIES, EVENTS)
def test_nobody_who_joins_opens_frames_from_before_the_grace_time(policy, events):
    room = Room(policy, "a", "b")
    for _ in happen(room, events):
        if policy.on_join == "share" or policy.join_limit is not None:
            continue
        for who, joined in room.joined_at.items():
            for generation, step in room.known.get(who, {}).items():
                since = room.sealed_since.get((generation, step), room.now)
                assert since >= joined - policy.grace - 1e-6


@settings(max_examples=300, deadline=None)
@given(POLICIES, EVENTS)
def test_all_who_are_present_open_frames_in_bounded_time(policy, events):
    room = Room(policy, "a", "b")
    for _ in happen(room, events):
        pass
    wait = policy.coalesce if policy.max_coalesce is None else policy.max_coalesce
    room.until(room.now + wait + 2 * policy.delay + 1e-6)
    assert [each for each in room.joined_at if not room.opens(each)] == []
    assert set(room.keys.participant_ids) == room.joined_at.keys()


@settings(max_examples=300, deadline=None)
@given(POLICIES, EVENTS)
def test_one_key_at_a_time_is_coming_and_every_one_is_used(policy, events):
    room = Room(policy, "a", "b")
    for _ in happen(room, events):
        assert room.keys.next_time is None or room.keys.next_time > room.now
    changes = [action for _, action in room.log if isinstance(action, MakeKey | UseKey)]
    for number, (first, second) in enumerate(pairwise(changes)):
        assert isinstance(first, MakeKey) != isinstance(second, MakeKey)
        assert first.generation == number // 2
    steps = [room.steps[generation] for generation in room.steps]
    assert max(steps) <= policy.max_ratchets


@pytest.mark.parametrize("name", PRESETS)
def test_a_room_of_200_with_a_change_each_second_makes_few_keys(name):
    policy = PRESETS[name]
    people = [f"person {number}" for number in range(199)]
    room = Room(policy, *people)
    for second in range(600):
        if second % 2:
            room.join(people[second % 199], second)
        else:
            room.leave(people[(second + 1) % 199], second)
    limit = 600 / max(policy.delay, policy.coalesce) + 1
    assert 600 / (policy.max_exposure + 1) <= len(room.made()) <= limit + 1
