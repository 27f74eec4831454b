"""Rotates keys during a call without losing a frame.

A new key is distributed first and used later; the previous key still opens frames that are under way. This pattern and
its default delay of 5 s follow MatrixRTC (MSC4143). The library distributes no keys itself: the application does.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from frameseal._fork import call_in_child
from frameseal._secrecy import Hidden, require, require_seconds
from frameseal.emitter import LoopEmitter
from frameseal.events import KEY_UNDELIVERED, KeyUndelivered
from frameseal.keys.protocol import bounded

if TYPE_CHECKING:
    from types import TracebackType

    from frameseal.keys.provider import KeyMaterial, KeyProvider

Distribute = Callable[[bytes, int], Awaitable[object]]
DistributeTo = Callable[[bytes, int, str], Awaitable[object]]
Targets = Iterable[str] | Callable[[], Iterable[str]]

KEY_BYTES: Final = 32
CHECK_INTERVAL: Final = 1.0  # seconds between two checks of the age and the usage of the key
RETRY_DELAY: Final = 1.0  # seconds before the second attempt to reach a target; doubled before each further attempt
MAX_ATTEMPTS: Final = 10

_logger = logging.getLogger("frameseal")


class KeyRotator(LoopEmitter):
    """Rotates one key of a provider: the shared key, or the key of the local participant.

    :param provider: the provider that holds the key.
    :param distribute: a coroutine function ``(key: bytes, key_id: int)`` that sends the new key of 32 bytes. It sends
        the key to all participants who must receive it, and to nobody else. It returns when the key is on its way. If
        it raises or times out, the previous key stays in use. With *targets* it is called as
        ``(key, key_id, participant_id)``, concurrently for all targets.
    :param targets: the ids of the participants who must receive the key, or a function that returns the ids of all
        present participants. The function is called for each rotation, and again before each further attempt. So a
        participant who has left receives no key. A target that cannot be reached does not delay the others. It stays
        without the key, and `without_key` and the event report it. The previous key stays in use only if no target was
        reached.
    :param distribute_timeout: maximum duration of one call of *distribute* in seconds. A longer call is cancelled and
        counts as failed.
    :param attempts: maximum number of attempts for each target, 1 to 10. The delays between them are 1 s, 2 s, 4 s...
    :param participant_id: whose key. None stands for the shared key, which one participant rotates while the others
        call `adopt`.
    :param delay: seconds between the distribution and the first frame sealed with the new key. Within this time the
        slowest receiver must receive the key.
    :param overlap: seconds for which the previous key still opens frames after that. Then it is removed.
    :param every: maximum age of the key in seconds, after which it is rotated. None disables rotation by age.
    :param after_frames: maximum number of frames that this side seals with one key before it is rotated. None disables
        rotation by count.
    :raises TypeError: an argument has the wrong type.
    :raises ValueError: a time or a count is out of range, or the provider has fewer than two key ids.

    The async context manager rotates by age, by count and after `participant_left` while the block lasts. `rotate` and
    `adopt` work outside it too. A rotator belongs to one event loop and one process: a forked child makes its own.
    Emits ``"key-undelivered"`` with one `KeyUndelivered`.

    All methods raise RuntimeError in a forked child. There a different key would use the parent's next key id.
    """

    def __init__(
        self,
        provider: KeyProvider,
        distribute: Distribute | DistributeTo,
        *,
        targets: Targets | None = None,
        distribute_timeout: float = 10.0,
        attempts: int = 3,
        participant_id: str | None = None,
        delay: float = 5.0,
        overlap: float = 10.0,
        every: float | None = None,
        after_frames: int | None = None,
    ) -> None:
        """Make a rotator. It rotates on its own only as a context manager."""
        require("provider", provider, "key_ring_size", "a KeyProvider")
        require("distribute", distribute, "__call__", "a coroutine function")
        require_seconds("distribute_timeout", distribute_timeout, zero=False)
        require_seconds("delay", delay)
        require_seconds("overlap", overlap)
        if every is not None:
            require_seconds("every", every, zero=False)
        if after_frames is not None:
            bounded("after_frames", after_frames, 1, 2**63 - 1)
        if provider.key_ring_size < 2:
            raise ValueError("a rotation needs two key ids: make the provider with a key_ring_size of 2 or more")
        super().__init__()
        self._provider = provider
        self._distribute: Callable[..., Awaitable[object]] = distribute
        self._targets = targets if targets is None or callable(targets) else _ids(targets)
        self._distribute_timeout = distribute_timeout
        self._attempts = bounded("attempts", attempts, 1, MAX_ATTEMPTS)
        self._participant_id = participant_id
        self._delay = delay
        self._overlap = overlap
        self._every = every
        self._after_frames = after_frames
        self._one_at_a_time = asyncio.Lock()
        self._due = asyncio.Event()
        self._since = monotonic()
        self._without_key: frozenset[str] = frozenset()
        self._retired: dict[int, asyncio.TimerHandle] = {}
        self._calls: set[asyncio.Future[object]] = set()  # of `distribute`, even after cancellation
        self._task: asyncio.Task[None] | None = None
        self._process = os.getpid()
        call_in_child(self, _forget_retired)

    @property
    def without_key(self) -> frozenset[str]:
        """The *targets* that the last rotation did not reach. They cannot open frames sealed with its key."""
        return self._without_key

    async def rotate(self) -> int:
        """Generate a random key, distribute it, wait for `delay`, and seal with it. Return its key id.

        A call that arrives during another waits, and then rotates again. It ends in bounded time whatever `distribute`
        does, unless `distribute` blocks the event loop. After an error the previous key stays in use.

        :raises TimeoutError: there are no *targets*, and `distribute` took too long.
        :raises ConnectionError: no target was reached.
        :raises Exception: there are no *targets*, and `distribute` raised this exception.
        """
        self._check_process()
        self.bind_loop(asyncio.get_running_loop())
        async with self._one_at_a_time:
            key = Hidden(secrets.token_bytes(KEY_BYTES))  # so that no traceback captures the key
            key_id = self._next_id()
            self._set(key.reveal(), key_id)
            try:
                missing = await self._distribute_to_all(key, key_id)
            except BaseException:
                self._provider.remove(self._participant_id, key_id)
                raise
            self._without_key = missing
            if missing:
                self.deliver(KEY_UNDELIVERED, KeyUndelivered(missing, key_id, in_use=True))
            await self._switch_to(key_id)
            return key_id

    async def adopt(self, key: KeyMaterial, key_id: int) -> None:
        """Adopt the key of a rotation by somebody else: open with it at once, and seal with it after `delay`.

        :raises TypeError: as for `KeyProvider.set_shared_key`.
        :raises ValueError: as for `KeyProvider.set_shared_key`.
        """
        self._check_process()
        async with self._one_at_a_time:
            try:
                self._set(key, key_id)
            finally:
                del key  # so that no traceback captures the key
            await self._switch_to(key_id)

    def participant_left(self) -> None:
        """Schedule a rotation in the task of the context manager, since a participant who has the key has left.

        Participants who leave at the same time cause one rotation. Those who have left can still open the frames sealed
        before it, during the distribution and during `delay`.

        :raises RuntimeError: called outside the context manager. Await `rotate` there.
        """
        self._check_process()
        if self._task is None:
            raise RuntimeError("participant_left() needs 'async with' around it: use that, or await rotate()")
        self._due.set()

    async def __aenter__(self) -> Self:
        """Start the task that rotates."""
        self._check_process()
        self._task = asyncio.create_task(self._run(), name="frameseal key rotation")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the task, cancel calls of `distribute`, and remove previous keys at once."""
        task, self._task = self._task, None
        for call in self._calls:
            call.cancel()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for key_id, timer in list(self._retired.items()):
            timer.cancel()
            self._forget(key_id)

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._due.wait(), CHECK_INTERVAL)
            except TimeoutError:
                if not self._is_due():
                    continue
            self._due.clear()
            try:
                await self.rotate()
            except Exception as error:
                _logger.error(
                    "could not rotate the key (%s): the previous key stays in use; next attempt in 1 s",
                    _class_name(error),
                )
                await asyncio.sleep(CHECK_INTERVAL)
                self._due.set()

    def _is_due(self) -> bool:
        if self._every is not None and monotonic() - self._since >= self._every:
            return True
        used = self._provider.frames_sealed(self._participant_id)
        return self._after_frames is not None and used >= self._after_frames

    async def _distribute_to_all(self, key: Hidden[bytes], key_id: int) -> frozenset[str]:
        """Distribute the key to all. Return the targets that it did not reach; raise if it reached none."""
        targets: list[str] = []
        try:
            if self._targets is None:
                await self._call_distribute(key, key_id)
                return frozenset()
            targets = self._present()
            reaching = (self._distribute_to(target, key, key_id) for target in targets)
            reached = await asyncio.gather(*reaching, return_exceptions=True)
            for result in reached:
                if isinstance(result, BaseException):  # raised by the function that returns the targets
                    raise result
            missing = frozenset(target for target, has_it in zip(targets, reached, strict=True) if has_it is False)
            if missing and True not in reached:
                raise ConnectionError("the new key reached none of the targets: the previous key stays in use")
            return missing
        except Exception:
            self.deliver(KEY_UNDELIVERED, KeyUndelivered(frozenset(targets), key_id, in_use=False))
            raise

    async def _distribute_to(self, target: str, key: Hidden[bytes], key_id: int) -> bool | None:
        """Distribute the key to one target. Return True on success, False on failure, None if the target has left."""
        for attempt in range(1, self._attempts + 1):
            try:
                await self._call_distribute(key, key_id, target)
                return True
            except Exception as error:
                _logger.warning(
                    "key %d did not reach a participant (%s), attempt %d of %d",
                    key_id,
                    _class_name(error),
                    attempt,
                    self._attempts,
                )
            if attempt < self._attempts:
                await asyncio.sleep(RETRY_DELAY * 2 ** (attempt - 1))
                if target not in self._present():
                    return None
        return False

    async def _call_distribute(self, key: Hidden[bytes], key_id: int, *target: str) -> None:
        """Call `distribute` and wait for it, but never beyond its timeout, even if it ignores its cancellation."""
        made = self._distribute(key.reveal(), key_id, *target)
        if not inspect.isawaitable(made):
            raise TypeError(f"distribute must be a coroutine function: it returned {type(made).__name__}")
        call = asyncio.ensure_future(made)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(_retrieve_exception)
        try:
            await asyncio.wait({call}, timeout=self._distribute_timeout)
        finally:
            in_time = call.done()
            call.cancel()
        if not in_time:
            raise TimeoutError(f"distribute did not return within {self._distribute_timeout} s")
        if call.cancelled():
            raise RuntimeError("distribute was cancelled")
        call.result()

    def _present(self) -> list[str]:
        return _ids(self._targets() if callable(self._targets) else self._targets or ())

    async def _switch_to(self, key_id: int) -> None:
        await asyncio.sleep(self._delay)
        self._use(key_id)

    def _use(self, key_id: int) -> None:
        """Seal with a key from the next frame on, and remove the previous key after the overlap."""
        previous = self._provider.sending_key_id(self._participant_id)
        self._provider.set_sending_key_id(key_id, self._participant_id)
        self._since = monotonic()
        if previous != key_id:
            self._retired[previous] = asyncio.get_running_loop().call_later(self._overlap, self._forget, previous)

    def _set(self, key: KeyMaterial, key_id: int) -> None:
        timer = self._retired.pop(key_id, None)
        if timer is not None:
            timer.cancel()
        if self._participant_id is None:
            self._provider.set_shared_key(key, key_id, send=False)
        else:
            self._provider.set_key(self._participant_id, key, key_id, send=False)

    def _forget(self, key_id: int) -> None:
        self._retired.pop(key_id, None)
        if key_id != self._provider.sending_key_id(self._participant_id):
            self._provider.remove(self._participant_id, key_id)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "a KeyRotator works only in the process that made it: make another one in the forked child"
            )

    def _next_id(self) -> int:
        return (self._provider.sending_key_id(self._participant_id) + 1) % self._provider.key_ring_size


def _forget_retired(rotator: KeyRotator) -> None:
    """Remove previous keys in a forked child: the timers that would remove them exist in the parent only."""
    for key_id in list(rotator._retired):
        rotator._forget(key_id)


def _ids(targets: Iterable[str]) -> list[str]:
    """Return each id once, in order. Refuse a single str, whose characters would count as ids."""
    if isinstance(targets, str | bytes) or not isinstance(targets, Iterable):
        raise TypeError("targets must be an iterable of ids, or a function that returns one: put one id into a list")
    ids = list(dict.fromkeys(targets))
    for each in ids:
        require("each of the targets", each, str, "a str")
    return ids


def _class_name(error: BaseException) -> str:
    """Return the class name of an exception from `distribute`. Its message might quote the key, and is not logged."""
    return type(error).__name__


def _retrieve_exception(call: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a call that nobody awaits any more, so that asyncio does not log it."""
    if not call.cancelled():
        call.exception()
