"""Rotating keys during a call without losing a frame.

A new key is handed out first and used later, and the previous one still opens what is under way. The pattern, and its
default of 5 s between the two, are MatrixRTC's (MSC4143). The library hands out nothing: the application does.
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
CHECK_INTERVAL: Final = 1.0  # seconds between two looks at age and usage
RETRY_DELAY: Final = 1.0  # seconds before the second attempt to reach a target; doubled before each further one
MAX_ATTEMPTS: Final = 10

_logger = logging.getLogger("frameseal")


class KeyRotator(LoopEmitter):
    """Rotates one key of a provider: the shared one, or that of the local participant.

    :param provider: whose key is rotated.
    :param distribute: a coroutine function ``(key: bytes, key_id: int)`` that gets the new key to all who must have it,
        and nobody else, and returns when it is on its way. If it raises or takes too long, the old key stays in use.
        With *targets* it is called as ``(key, key_id, participant_id)``, for all of them at the same time.
    :param targets: the ids of those who must have the key; or a function that returns the ids of those who are here
        now, which is asked for each rotation, and again before a second attempt: who has left gets no key. Nobody holds
        up the others: who cannot be reached stays without the key, and `without_key` and the event tell. The old key
        stays in use only if nobody was reached.
    :param distribute_timeout: seconds that one call of *distribute* may take; then it is cancelled, and has failed.
    :param attempts: how often each of the *targets* is tried, 1 to 10; 1 s, 2 s, 4 s... lie between.
    :param participant_id: whose key; None is the shared key, which one participant rotates while the others `adopt`.
    :param delay: seconds from there until this side seals with the new key: what the slowest receiver needs to get it.
    :param overlap: seconds that the previous key still opens frames after that; then it is forgotten.
    :param every: rotate by itself when the key is so many seconds old. None: not by age.
    :param after_frames: rotate by itself when this side has sealed so many frames. None: not by count.
    :raises ValueError: for a time or count out of range, or a provider whose ring has less than two key ids.
    :raises TypeError: for an argument of another kind.

    As an async context manager it rotates by itself while the block lasts; `rotate` and `participant_left` work without
    that too. For one event loop of one process: a forked child makes a rotator of its own. Emits ``"key-undelivered"``
    with one `KeyUndelivered`.

    All methods raise RuntimeError in a forked child, where another key would go out under the id that the parent takes
    next.
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
        """Make a rotator; it does nothing by itself yet."""
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
        self._calls: set[asyncio.Future[object]] = set()  # of `distribute`; those that ignore to be cancelled included
        self._task: asyncio.Task[None] | None = None
        self._process = os.getpid()
        call_in_child(self, _forget_retired)

    @property
    def without_key(self) -> frozenset[str]:
        """The *targets* that the key of the last rotation did not reach. They cannot open what is sealed with it."""
        return self._without_key

    async def rotate(self) -> int:
        """Make a fresh random key, hand it out, wait for `delay`, and seal with it. Return its key id.

        Calls that come while one is under way wait, and rotate again. It ends in bounded time, whatever `distribute`
        does, unless that blocks the event loop.

        :raises TimeoutError: `distribute` took too long. With this error and the others the previous key stays in use.
        :raises ConnectionError: none of the *targets* was reached.

        Beyond these, whatever `distribute` raises where there are no *targets*.
        """
        self._check_process()
        self.bind_loop(asyncio.get_running_loop())
        async with self._one_at_a_time:
            key = Hidden(secrets.token_bytes(KEY_BYTES))  # so that no traceback captures it
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
            await self._take_over(key_id)
            return key_id

    async def adopt(self, key: KeyMaterial, key_id: int) -> None:
        """Take over a key that somebody else rotated to: open with it at once, seal with it after `delay`.

        :raises ValueError: as `KeyProvider.set_shared_key`.
        """
        self._check_process()
        async with self._one_at_a_time:
            try:
                self._set(key, key_id)
            finally:
                del key  # so that no traceback captures it
            await self._switch_to(key_id)

    def participant_left(self) -> None:
        """Rotate soon, in the task of the context manager, because somebody who has the key has left.

        Several who leave together make one rotation. What was sealed before it is theirs to open, and so is what is
        sealed while the key is handed out and during `delay`.

        :raises RuntimeError: outside the context manager; await `rotate` there.
        """
        self._check_process()
        if self._task is None:
            raise RuntimeError("use 'async with' around the call, or await rotate()")
        self._due.set()

    async def __aenter__(self) -> Self:
        """Start to rotate by itself."""
        self._check_process()
        self._task = asyncio.create_task(self._run(), name="frameseal key rotation")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop at once, and forget the previous keys that are still kept."""
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
                    "could not rotate the key (%s); the old one stays in use, and it is tried again",
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
        """Get the key to everybody; return the targets that it did not reach. Raises if it reached nobody."""
        targets: list[str] = []
        try:
            if self._targets is None:
                await self._call_distribute(key, key_id)
                return frozenset()
            targets = self._present()
            reaching = (self._distribute_to(target, key, key_id) for target in targets)
            reached = await asyncio.gather(*reaching, return_exceptions=True)
            for result in reached:
                if isinstance(result, BaseException):  # of the function that names the targets
                    raise result
            missing = frozenset(target for target, has_it in zip(targets, reached, strict=True) if has_it is False)
            if missing and True not in reached:
                raise ConnectionError("the new key reached nobody: the previous one stays in use")
            return missing
        except Exception:
            self.deliver(KEY_UNDELIVERED, KeyUndelivered(frozenset(targets), key_id, in_use=False))
            raise

    async def _distribute_to(self, target: str, key: Hidden[bytes], key_id: int) -> bool | None:
        """Get the key to one target; return whether it has it. None: it has left, and must not have it."""
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
        """Call `distribute`, and wait for it as long as it may take, even if it ignores that it is cancelled."""
        made = self._distribute(key.reveal(), key_id, *target)
        if not inspect.isawaitable(made):
            raise TypeError("distribute must be a coroutine function")
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
                "this KeyRotator rotates in the process that made it: make another one in the forked child"
            )

    def _next_id(self) -> int:
        return (self._provider.sending_key_id(self._participant_id) + 1) % self._provider.key_ring_size


def _forget_retired(rotator: KeyRotator) -> None:
    """Forget the previous keys in a forked child, where nothing would end their time."""
    for key_id in list(rotator._retired):
        rotator._forget(key_id)


def _ids(targets: Iterable[str]) -> list[str]:
    """Return each id once. A single str is a mistake: its letters would be the ids."""
    if isinstance(targets, str | bytes) or not isinstance(targets, Iterable):
        raise TypeError("targets must be several ids, or a function that returns them: put a single one into a list")
    ids = list(dict.fromkeys(targets))
    for each in ids:
        require("each of the targets", each, str, "a str")
    return ids


def _class_name(error: BaseException) -> str:
    """Return what a log may say of an exception from `distribute`, which had the key: its class, not its message."""
    return type(error).__name__


def _retrieve_exception(call: asyncio.Future[Any]) -> None:
    """Take note of the exception of a call that nobody waits for any more, so that asyncio does not log it."""
    if not call.cancelled():
        call.exception()
