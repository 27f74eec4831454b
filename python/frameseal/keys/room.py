"""Performs the rules of a room (`policies`) on an event loop: makes, sends, uses and removes the keys of one sender."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Self

from frameseal._secrecy import Hidden
from frameseal.emitter import LoopEmitter
from frameseal.events import KEY_UNDELIVERED, KeyUndelivered
from frameseal.keys.policies import MATRIX_RTC, Action, MakeKey, RatchetKey, RoomKeys, RoomPolicy, SendKey, UseKey
from frameseal.keys.rotation import KEY_BYTES, RETRY_DELAY, DistributeTo, KeyRotator

if TYPE_CHECKING:
    from types import TracebackType

    from frameseal.keys.provider import KeyProvider

MARGIN: Final = 1.0  # seconds beyond the longest distribution

_logger = logging.getLogger("frameseal")


class RoomRotator(LoopEmitter):
    """Changes one key of a provider as participants join and leave, by the rules of a `RoomPolicy`.

    Report joins and leaves within ``async with``. The first key is made on entry, and seals at once.

    :param provider: the provider that holds the key. Under *on_join* ``"ratchet"`` it needs ``allow_export=True``,
        since newcomers receive the ratcheted key.
    :param distribute: a coroutine function ``(key: bytes, key_id: int, participant_id: str)``, as for `KeyRotator`.
        It is called concurrently for all recipients.
    :param policy: the rules.
    :param participant_id: whose key. None stands for the shared key, which one participant changes.
    :param participant_ids: the ids of the others who are present on entry.
    :param distribute_timeout: maximum duration of one call of *distribute* in seconds.
    :param attempts: maximum number of attempts for each recipient, 1 to 10. Nobody who has left is tried again.
    :param overlap: seconds for which the previous key still opens frames after a new one seals.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: an argument is out of range, the provider has fewer than two key ids, or it must allow export.

    With a delay above 0, a key seals when the delay has passed and the key has reached somebody. If it reaches nobody,
    the previous key stays in use, and another one is made. Emits ``"key-undelivered"`` with one `KeyUndelivered`.

    It belongs to one event loop and one process. Its methods raise RuntimeError in a forked child.
    """

    def __init__(
        self,
        provider: KeyProvider,
        distribute: DistributeTo,
        policy: RoomPolicy = MATRIX_RTC,
        *,
        participant_id: str | None = None,
        participant_ids: Iterable[str] = (),
        distribute_timeout: float = 10.0,
        attempts: int = 3,
        overlap: float = 10.0,
    ) -> None:
        """Make a rotator. It works as a context manager only."""
        super().__init__()
        self._rules = RoomKeys(policy)
        self._rotator = KeyRotator(
            provider,
            distribute,
            targets=lambda: self._rules.participant_ids,
            distribute_timeout=distribute_timeout,
            attempts=attempts,
            participant_id=participant_id,
            overlap=overlap,
        )
        if policy.on_join == "ratchet" and not provider.allow_export:
            raise ValueError("a policy that ratchets needs a provider with allow_export=True")
        self._provider, self._participant_id = provider, participant_id
        self._first = participant_ids
        self._longest = attempts * distribute_timeout + RETRY_DELAY * 2.0 ** (attempts - 1) + MARGIN
        self._keys: dict[int, tuple[Hidden[bytes] | None, int]] = {}  # by generation, the key and its key id
        self._use_at = 0.0  # the end of the delay of the newest key
        self._sends: Counter[int] = Counter()  # by generation, the tasks that send the key
        self._reached = -1  # the newest generation that has reached somebody
        self._unreached: set[str] = set()
        self._wake = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._retry_timer: asyncio.TimerHandle | None = None

    @property
    def unconfirmed(self) -> frozenset[str]:
        """The present participants who have not confirmed the newest key."""
        return self._rules.unconfirmed

    @property
    def without_key(self) -> frozenset[str]:
        """The present participants whom the newest key did not reach after all attempts."""
        return frozenset(self._unreached.intersection(self._rules.participant_ids))

    def joined(self, participant_id: str) -> None:
        """Report that a participant is present, or has lost the key and needs it again.

        :raises RuntimeError: called outside the context manager.
        :raises TypeError: *participant_id* is not a str.
        """
        self._perform(self._rules.joined(participant_id, self._now()))

    def left(self, participant_id: str) -> None:
        """Report that a participant is no longer present.

        :raises RuntimeError: called outside the context manager.
        :raises TypeError: *participant_id* is not a str.
        """
        self._perform(self._rules.left(participant_id, self._now()))

    def confirmed(self, participant_id: str, key_id: int) -> None:
        """Report that a participant has acknowledged the key under *key_id*. Keys other than the newest are ignored.

        :raises RuntimeError: called outside the context manager.
        :raises TypeError: *participant_id* is not a str.
        """
        now, newest = self._now(), self._rules.generation
        if newest in self._keys and self._keys[newest][1] == key_id:
            self._perform(self._rules.confirmed(participant_id, newest, now))

    def rotate(self) -> None:
        """Make a fresh key for a reason of the caller, as after a leave.

        :raises RuntimeError: called outside the context manager.
        """
        self._perform(self._rules.rotate(self._now()))

    async def __aenter__(self) -> Self:
        """Make the first key, and start the task that advances."""
        self._rotator._check_process()
        if self._task is not None:
            raise RuntimeError("a RoomRotator is entered once")
        loop = asyncio.get_running_loop()
        self.bind_loop(loop)
        actions = self._rules.start(self._first, loop.time())
        self._task = asyncio.create_task(self._run(), name="frameseal room keys")
        try:
            self._perform(actions)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all tasks, cancel calls of `distribute`, and remove the keys that do not seal."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        tasks = [*self._sending, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for generation, (_, key_id) in self._keys.items():
            if generation > self._rules.sealing_generation:
                self._provider.remove(self._participant_id, key_id)
        self._keys.clear()
        await self._rotator.__aexit__(kind, error, traceback)

    async def _run(self) -> None:
        while True:
            due, now = self._rules.next_time, asyncio.get_running_loop().time()
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), None if due is None else max(due - now, 0))
            except TimeoutError:
                try:
                    self._perform(self._rules.advance(self._now()))
                except Exception as error:
                    _logger.error("could not change the key of a room (%s)", type(error).__name__)

    def _now(self) -> float:
        self._rotator._check_process()
        if self._task is None or self._task.done():
            raise RuntimeError("a RoomRotator needs 'async with' around it")
        return asyncio.get_running_loop().time()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case MakeKey(generation, ids):
                    self._make(generation, ids)
                case SendKey(generation, ids):
                    self._start_sending(generation, ids)
                case RatchetKey(generation):
                    self._ratchet(generation)
                case UseKey(generation) if generation in self._keys:
                    self._rotator._use(self._keys[generation][1])
                    self._keys = {number: key for number, key in self._keys.items() if number >= generation}
        self._wake.set()

    def _make(self, generation: int, ids: tuple[str, ...]) -> None:
        key, key_id = Hidden(secrets.token_bytes(KEY_BYTES)), self._rotator._next_id()
        try:
            self._rotator._set(key.reveal(), key_id)
        except Exception as error:
            if generation == 0:  # no other key could seal
                raise
            self._retry(generation, error)
            return
        self._keys[generation] = (key, key_id)
        self._unreached.clear()
        now = asyncio.get_running_loop().time()
        self._use_at = now + self._rules.policy.delay
        self._start_sending(generation, ids)

    def _retry(self, generation: int, error: Exception) -> None:
        """Keep the previous key after the provider refused a new one, and make another one after a second."""
        _logger.error("could not change the key of a room (%s): next attempt in 1 s", type(error).__name__)
        self._rules.abandon(generation, self._now())
        if self._rules.sealing_generation == generation:  # without a delay, the rules regard it as used
            self._retry_timer = asyncio.get_running_loop().call_later(RETRY_DELAY, self.rotate)

    def _ratchet(self, generation: int) -> None:
        key_id = self._keys[generation][1]
        try:
            self._provider.ratchet(self._participant_id, key_id)
            key = Hidden(self._provider.export_key(self._participant_id, key_id))
        except ValueError:  # the profile sframe, or no track yet
            _logger.warning("key %d cannot be ratcheted and sent: newcomers receive a fresh key", key_id)
            self._keys[generation] = (None, key_id)
        else:
            self._keys[generation] = (key, key_id)

    def _start_sending(self, generation: int, ids: tuple[str, ...]) -> None:
        if not ids or generation not in self._keys:
            return
        if self._is_undelivered(generation):
            now = asyncio.get_running_loop().time()
            self._rules.postpone(generation, now + self._longest, now)  # nothing is due before that time
        self._sends[generation] += 1
        task = asyncio.create_task(self._send(generation, ids))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, generation: int, ids: tuple[str, ...]) -> None:
        """Send a key to its recipients. Abandon it if it has reached nobody, and nobody is being tried any more."""
        key, key_id = self._keys.get(generation, (None, 0))
        reached: dict[str, bool | None] = {}

        async def send_to(target: str, key: Hidden[bytes]) -> None:
            reached[target] = await self._rotator._distribute_to(target, key, key_id)
            if reached[target]:
                self._reached = max(self._reached, generation)
                if generation == self._rules.generation:
                    self._perform(self._rules.postpone(generation, self._use_at, self._now()))

        if key is not None:
            await asyncio.gather(*(send_to(target, key) for target in ids))
        elif generation in self._keys:  # it could not be ratcheted
            self._perform(self._rules.rotate(self._now()))
        self._sends[generation] -= 1
        missing = frozenset(target for target, has_it in reached.items() if has_it is False)
        undelivered = self._is_undelivered(generation)
        if generation == self._rules.generation:
            self._unreached = (self._unreached | missing) - {target for target, has_it in reached.items() if has_it}
        if missing:
            self.deliver(KEY_UNDELIVERED, KeyUndelivered(missing, key_id, in_use=not undelivered))
        if not self._sends[generation]:
            del self._sends[generation]
            if undelivered:
                _logger.error("key %d reached nobody: the previous key stays in use; next attempt in 1 s", key_id)
                self._provider.remove(self._participant_id, key_id)
                del self._keys[generation]
                self._perform(self._rules.abandon(generation, self._now()))

    def _is_undelivered(self, generation: int) -> bool:
        """Return True if a key is coming and has reached nobody so far."""
        sealing = self._rules.sealing_generation
        return sealing < generation == self._rules.generation and self._reached < generation
