"""When a room gets a fresh key, and who receives it: rules for joins and leaves, without transport, clock and keys.

`RoomKeys` is told who joins, leaves and confirms, and the time. It returns actions, which the caller performs. Each
sender in a room has one, for the key with which it seals. A room with one shared key has one, at the participant who
rotates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from frameseal._secrecy import described, require, require_seconds
from frameseal.keys.protocol import bounded

RETRY_DELAY: Final = 1.0  # seconds between an abandoned key and the next one
MIN_AGE: Final = 1.0  # seconds; a shorter maximum age would replace keys without end
MAX_TIME: Final = 2.0**40  # seconds; below it a float resolves a millisecond
MAX_PARTICIPANTS: Final = 2**31 - 1
MAX_RATCHETS: Final = 16  # `KeyProvider` accepts no larger ratchet window

OnJoin = Literal["rotate", "ratchet", "share"]
"""Before a participant who joins receives a key: make a fresh one, ratchet the present one, or neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPolicy:
    """The rules of a room: when its key changes. All times are in seconds.

    Somebody who leaves always causes a fresh key, since a ratchet step keeps nobody out.

    :param on_join: ``"rotate"`` makes a fresh key. ``"ratchet"`` ratchets the key one step, which is not sent to those
        who have the key: they need a ratchet window of at least *max_ratchets*. ``"share"`` sends the present key,
        which also opens earlier frames that it sealed.
    :param grace: a key younger than this is sent to somebody who joins as it is. They can open what it has sealed so
        far. Under *on_join* ``"share"`` it has no effect.
    :param coalesce: duration for which a change waits for further changes of its kind. Each of them begins it anew. One
        key serves all of them.
    :param max_coalesce: maximum wait of the first of these changes. None stands for *coalesce*.
    :param delay: duration from sending a key to sealing with it, so that the slowest receiver has it.
    :param use_when_confirmed: True ends *delay* when all recipients have confirmed the key.
    :param interval: minimum age of a key before a leave replaces it. It bounds the traffic of large rooms.
    :param every: maximum age of a key, at least 1, after which a fresh one replaces it. None sets no maximum.
    :param join_limit: number of participants, this side included, from which on a join changes no key. The present key
        is sent instead. None sets no limit. It has no effect on leaves.
    :param max_ratchets: maximum number of ratchet steps of one key, 1 to 16. The next join causes a fresh key. A
        receiver that no frame reaches between the steps can follow no further than its window.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument is out of range, or *max_coalesce* is less than *coalesce*.
    """

    on_join: OnJoin = "rotate"
    grace: float = 0.0
    coalesce: float = 0.0
    max_coalesce: float | None = None
    delay: float = 5.0
    use_when_confirmed: bool = False
    interval: float = 0.0
    every: float | None = None
    join_limit: int | None = None
    max_ratchets: int = 8

    def __post_init__(self) -> None:
        """Check the arguments."""
        require("on_join", self.on_join, str, "a str")
        if self.on_join not in get_args(OnJoin):
            raise ValueError("on_join must be 'rotate', 'ratchet' or 'share'")
        require_seconds("grace", self.grace)
        require_seconds("coalesce", self.coalesce)
        if self.max_coalesce is not None:
            require_seconds("max_coalesce", self.max_coalesce)
            if self.max_coalesce < self.coalesce:
                raise ValueError("max_coalesce must not be less than coalesce")
        require_seconds("delay", self.delay)
        require("use_when_confirmed", self.use_when_confirmed, bool, "a bool")
        require_seconds("interval", self.interval)
        if self.every is not None:
            require_seconds("every", self.every)
            if self.every < MIN_AGE:
                raise ValueError(f"every must be at least {MIN_AGE} s, not {described(self.every)}")
        if self.join_limit is not None:
            bounded("join_limit", self.join_limit, 1, MAX_PARTICIPANTS)
        bounded("max_ratchets", self.max_ratchets, 1, MAX_RATCHETS)

    @property
    def max_exposure(self) -> float:
        """Maximum seconds after leaving for which a participant can open new frames, if keys can be delivered."""
        wait = self.coalesce if self.max_coalesce is None else self.max_coalesce
        return max(wait, self.delay, self.interval) + self.delay


MATRIX_RTC: Final = RoomPolicy(on_join="rotate", grace=10.0, delay=5.0)
"""MSC4143, "Rotating keys": its recommended delay, the grace time of its example, and its coalescing of leaves."""

ELEMENT_CALL: Final = RoomPolicy(on_join="rotate", grace=10.0, delay=1.0, every=900.0, join_limit=30)
"""The rules of matrix-js-sdk, `src/matrixrtc/RTCEncryptionManager.ts`, on which Element Call is built.

Grace time and delay are its defaults. The limit is optional there: 30 is the size up to which its authors saw no
difference (matrix-js-sdk pull request 5486). The maximum age of 15 minutes is that of pull request 5505: it bounds what
a participant who joins above the limit can open of earlier frames. At the limit matrix-js-sdk makes no key after a
leave either. Here it does: use ``dataclasses.replace`` with an *interval* in large rooms.
"""

JITSI: Final = RoomPolicy(
    on_join="ratchet", coalesce=5.0, max_coalesce=15.0, delay=5.0, use_when_confirmed=True, max_ratchets=8
)
"""The rules of lib-jitsi-meet: `DEBOUNCE_PERIOD` in `modules/e2ee/ManagedKeyHandler.ts`, `REQ_TIMEOUT` in
`OlmAdapter.js`, and `RATCHET_WINDOW_SIZE` in `Context.js`.

There each change begins the period anew, without a maximum: a room in which somebody leaves every 4 s never rotates.
Here a change waits for 15 s at most. Participants need a ratchet window of 8.
"""


@dataclass(frozen=True, slots=True)
class MakeKey:
    """Make a random key, open with it at once, and send it to these participants. Do not seal with it yet."""

    generation: int
    participant_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendKey:
    """Send the key of this generation, in its present ratchet step, to these participants."""

    generation: int
    participant_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RatchetKey:
    """Ratchet the key of this generation one step, and seal with the result from the next frame on."""

    generation: int


@dataclass(frozen=True, slots=True)
class UseKey:
    """Seal with the key of this generation from the next frame on. The previous key still opens frames under way."""

    generation: int


Action = MakeKey | SendKey | RatchetKey | UseKey


@dataclass(slots=True)
class _Changes:
    """Changes of one kind that wait for further ones."""

    first: float | None = None
    last: float = 0.0

    def note(self, now: float) -> None:
        self.first = now if self.first is None else self.first
        self.last = now

    def due(self, policy: RoomPolicy) -> float | None:
        if self.first is None:
            return None
        wait = policy.coalesce if policy.max_coalesce is None else policy.max_coalesce
        return min(self.last + policy.coalesce, self.first + wait)


@dataclass(slots=True)
class _Key:
    """One key, as far as the rules know it. They never see the key itself."""

    generation: int
    made: float
    holders: set[str] = field(default_factory=set)  # present participants to whom it was sent
    steps: int = 0  # ratchet steps


class RoomKeys:
    """Decides when the key of one sender changes, and who receives it. Does no I/O, and holds no key.

    Call `start` once, then `joined`, `left` and `confirmed` as these things happen, and `advance` at `next_time`. Each
    returns the actions to perform, in their order. Keys are named by their generation, which begins at 0 and increases.

    :param policy: the rules.
    :raises TypeError: *policy* is not a `RoomPolicy`.

    All times are in seconds of one clock of the caller's choice, such as ``time.monotonic()``. A time before an earlier
    one counts as the earlier one. Participants are named by the ids of the application; the local one is not among
    them. An instance belongs to one thread at a time.
    """

    def __init__(self, policy: RoomPolicy) -> None:
        """Make the state of a room that has no key yet."""
        require("policy", policy, RoomPolicy, "a RoomPolicy")
        self._policy = policy
        self._now = -MAX_TIME
        self._generations = 0
        self._sealing: _Key | None = None
        self._coming: _Key | None = None  # sent, and used after the delay
        self._use_at = 0.0
        self._retry_at = -MAX_TIME
        self._present: dict[str, None] = {}  # in the order of joining
        self._waiting: dict[str, None] = {}  # of these, those whose join waits for a change of the key
        self._confirmed: set[str] = set()  # of the holders of the newest key
        self._joins, self._leaves = _Changes(), _Changes()

    @property
    def policy(self) -> RoomPolicy:
        """The rules."""
        return self._policy

    @property
    def participant_ids(self) -> tuple[str, ...]:
        """The ids of the present participants, in the order in which they joined."""
        return tuple(self._present)

    @property
    def generation(self) -> int:
        """The generation of the newest key, -1 before `start`."""
        return -1 if self._sealing is None else (self._coming or self._sealing).generation

    @property
    def sealing_generation(self) -> int:
        """The generation of the key that seals, -1 before `start`."""
        return -1 if self._sealing is None else self._sealing.generation

    @property
    def unconfirmed(self) -> frozenset[str]:
        """The present participants who have not confirmed the newest key, whether or not it was sent to them."""
        return frozenset(self._present.keys() - self._confirmed)

    @property
    def next_time(self) -> float | None:
        """The time at which to call `advance`. None means that nothing is due until somebody joins or leaves."""
        if self._coming is not None:
            return self._use_at
        times = [time for time in (self._rotation_time(), self._ratchet_time()) if time is not None]
        return min(times, default=None)

    def start(self, participant_ids: Iterable[str], now: float) -> list[Action]:
        """Make the first key, for the participants who are present. It is used at once: no earlier key could seal.

        :raises RuntimeError: it was called before.
        :raises TypeError: *participant_ids* is not an iterable of str, or *now* is not a number.
        :raises ValueError: *now* is not finite.
        """
        if self._sealing is not None:
            raise RuntimeError("start() works once: make another RoomKeys for another room")
        if isinstance(participant_ids, str | bytes) or not isinstance(participant_ids, Iterable):
            raise TypeError("participant_ids must be an iterable of ids: put one id into a list")
        ids = dict.fromkeys(participant_ids)
        for each in ids:
            require("each of the participant_ids", each, str, "a str")
        self._clock(now)
        self._present = ids
        self._sealing = _Key(self._new_generation(), self._now, set(ids))
        return [MakeKey(self._sealing.generation, tuple(ids)), UseKey(self._sealing.generation)]

    def joined(self, participant_id: str, now: float) -> list[Action]:
        """Note that a participant is present. A present participant who has lost the key may join again.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *participant_id* is not a str, or *now* is not a number.
        :raises ValueError: *now* is not finite.
        """
        newest = self._checked(participant_id, now)
        self._present[participant_id] = None
        self._confirmed.discard(participant_id)
        actions: list[Action] = []
        if participant_id in newest.holders or self._is_shared(newest):
            self._waiting.pop(participant_id, None)
            newest.holders.add(participant_id)
            actions.append(SendKey(newest.generation, (participant_id,)))
        else:
            self._waiting[participant_id] = None
            self._joins.note(self._now)
        return actions + self._due_actions()

    def left(self, participant_id: str, now: float) -> list[Action]:
        """Note that a participant is no longer present. Unknown participants are ignored.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *participant_id* is not a str, or *now* is not a number.
        :raises ValueError: *now* is not finite.
        """
        self._checked(participant_id, now)
        for key in (self._sealing, self._coming):
            if key is not None and participant_id in key.holders:
                key.holders.discard(participant_id)
                self._leaves.note(self._now)
        self._present.pop(participant_id, None)
        self._waiting.pop(participant_id, None)
        self._confirmed.discard(participant_id)
        return self._due_actions()

    def confirmed(self, participant_id: str, generation: int, now: float) -> list[Action]:
        """Note that a participant has received the key of *generation*. Other keys than the newest are ignored.

        So are participants to whom it was not sent.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *participant_id* is not a str, *generation* is not an int, or *now* is not a number.
        :raises ValueError: *generation* is negative, or *now* is not finite.
        """
        bounded("generation", generation, 0, 2**63 - 1)
        newest = self._checked(participant_id, now)
        if generation == newest.generation and participant_id in newest.holders:
            self._confirmed.add(participant_id)
        return self._due_actions()

    def advance(self, now: float) -> list[Action]:
        """Return what is due by *now*.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *now* is not a number.
        :raises ValueError: *now* is not finite.
        """
        self._checked("", now)
        return self._due_actions()

    def abandon(self, generation: int, now: float) -> list[Action]:
        """Note that the key of *generation* could be sent to nobody. The key that seals stays in use.

        Another key is made after a second. A key that seals already, or that was abandoned before, is not affected.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *generation* is not an int, or *now* is not a number.
        :raises ValueError: *generation* is negative, or *now* is not finite.
        """
        bounded("generation", generation, 0, 2**63 - 1)
        self._checked("", now)
        sealing, coming = self._sealing, self._coming
        if sealing is not None and coming is not None and coming.generation == generation:
            self._coming = None
            self._confirmed.clear()  # it is not known who confirmed the key that stays
            self._retry_at = self._now + RETRY_DELAY
            self._leaves.note(self._now)
            self._waiting = dict.fromkeys(each for each in self._present if each not in sealing.holders)
            self._joins.note(self._now)
        return self._due_actions()

    def postpone(self, generation: int, until: float, now: float) -> list[Action]:
        """Set the time from which the key of *generation* seals, in place of the end of its delay.

        A caller whose messages may fail sets a late time, and an earlier one when the key has reached somebody. A key
        that is not coming is not affected.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *generation* is not an int, or a time is not a number.
        :raises ValueError: *generation* is negative, or a time is not finite.
        """
        bounded("generation", generation, 0, 2**63 - 1)
        _check_time("until", until)
        self._checked("", now)
        if self._coming is not None and self._coming.generation == generation:
            self._use_at = until
        return self._due_actions()

    def rotate(self, now: float) -> list[Action]:
        """Make a fresh key for a reason of the caller, such as ``"e2ee-key-usage"``, as after a leave.

        :raises RuntimeError: `start` was not called.
        :raises TypeError: *now* is not a number.
        :raises ValueError: *now* is not finite.
        """
        self._checked("", now)
        self._leaves.note(self._now)
        return self._due_actions()

    def _is_shared(self, newest: _Key) -> bool:
        """Return True if somebody who joins now receives the newest key as it is."""
        policy = self._policy
        if self._coming is not None or policy.on_join == "share":  # a key that comes has sealed nothing yet
            return True
        if policy.join_limit is not None and len(self._present) + 1 >= policy.join_limit:
            return True
        return self._now - newest.made < policy.grace

    def _rotation_time(self) -> float | None:
        """Return the time of the next fresh key, unless another one is coming. None means that none is due."""
        sealing, policy = self._sealing, self._policy
        if sealing is None:
            return None
        times = []
        leaves = self._leaves.due(policy)
        if leaves is not None:
            times.append(max(leaves, sealing.made + policy.interval))
        if policy.every is not None:
            times.append(max(sealing.made + policy.every, sealing.made + policy.interval))
        joins = self._joins.due(policy)
        if self._waiting and joins is not None and not self._ratchets(sealing):
            times.append(joins)
        return max(min(times), self._retry_at) if times else None

    def _ratchet_time(self) -> float | None:
        return self._joins.due(self._policy) if self._waiting and self._ratchets(self._sealing) else None

    def _ratchets(self, key: _Key | None) -> bool:
        return key is not None and self._policy.on_join == "ratchet" and key.steps < self._policy.max_ratchets

    def _due_actions(self) -> list[Action]:
        if not self._waiting:
            self._joins = _Changes()
        actions: list[Action] = []
        while more := self._use() or self._make() or self._ratchet():
            actions += more
        return actions

    def _use(self) -> list[Action]:
        coming = self._coming
        if coming is None:
            return []
        early = not self._present or (self._policy.use_when_confirmed and not self.unconfirmed)
        if self._now < self._use_at and not early:
            return []
        self._sealing, self._coming = coming, None
        return [UseKey(coming.generation)]

    def _make(self) -> list[Action]:
        time = self._rotation_time()
        if self._coming is not None or time is None or self._now < time:
            return []
        self._coming = _Key(self._new_generation(), self._now, set(self._present))
        self._use_at = self._now + self._policy.delay
        self._waiting.clear()
        self._confirmed.clear()
        self._joins, self._leaves = _Changes(), _Changes()
        return [MakeKey(self._coming.generation, tuple(self._present))]

    def _ratchet(self) -> list[Action]:
        time, sealing = self._ratchet_time(), self._sealing
        if self._coming is not None or sealing is None or time is None or self._now < time:
            return []
        joined = tuple(self._waiting)
        self._waiting.clear()
        self._joins = _Changes()
        sealing.steps += 1
        sealing.holders.update(joined)
        return [RatchetKey(sealing.generation), SendKey(sealing.generation, joined)]

    def _new_generation(self) -> int:
        self._generations += 1
        return self._generations - 1

    def _checked(self, participant_id: str, now: float) -> _Key:
        """Check the arguments, advance the clock, and return the newest key."""
        require("participant_id", participant_id, str, "a str")
        if self._sealing is None:
            raise RuntimeError("call start() first: there is no key yet")
        self._clock(now)
        return self._coming or self._sealing

    def _clock(self, now: float) -> None:
        _check_time("now", now)
        self._now = max(self._now, now)


def _check_time(name: str, time: float) -> None:
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(time).__name__}")
    if not -MAX_TIME <= time <= MAX_TIME:
        raise ValueError(f"{name} must be a time in seconds, at most 2^40, not {described(time)}")
