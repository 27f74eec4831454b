"""Rotating keys during a call without losing a frame.

A new key is handed out first and used later, and the old one still opens what is under way. The pattern, and its
default of 5 s between the two, are MatrixRTC's (MSC4143). The library hands out nothing: the application does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from frameseal._fork import call_in_child

if TYPE_CHECKING:
    from types import TracebackType

    from frameseal.providers import Key, KeyProvider

Distribute = Callable[[bytes, int], Awaitable[object]]

KEY_BYTES: Final = 32
LOOK_EVERY: Final = 1.0  # seconds between two looks at age and usage

_logger = logging.getLogger("frameseal")


class KeyRotator:
    """Rotates one key of a provider: the shared one, or that of the local participant.

    :param provider: whose key is rotated.
    :param distribute: a coroutine function ``(key: bytes, key_id: int)`` that gets the new key to all who must have it,
        and nobody else, and returns when it is on its way. If it raises, the old key stays in use.
    :param participant_id: whose key; None is the shared key, which one participant rotates while the others `adopt`.
    :param delay: seconds from there until this side seals with the new key: what the slowest receiver needs to get it.
    :param overlap: seconds that the old key still opens frames after that; then it is forgotten.
    :param every: rotate by itself when the key is so many seconds old. None: not by age.
    :param after_frames: rotate by itself when this side has sealed so many frames. None: not by count.
    :raises ValueError: for a negative time, a count below 1, or a provider whose ring has less than two key ids.

    As an async context manager it rotates by itself while the block lasts; `rotate` and `participant_left` work without
    that too. For one event loop of one process: a forked child makes a rotator of its own.

    All methods raise RuntimeError in a forked child, where another key would go out under the id that the parent takes
    next.
    """

    def __init__(
        self,
        provider: KeyProvider,
        distribute: Distribute,
        *,
        participant_id: str | None = None,
        delay: float = 5.0,
        overlap: float = 10.0,
        every: float | None = None,
        after_frames: int | None = None,
    ) -> None:
        """Make a rotator; it does nothing by itself yet."""
        if delay < 0 or overlap < 0 or (every is not None and every <= 0):
            raise ValueError("delay and overlap are seconds, 0 or more, and every is more than 0")
        if after_frames is not None and after_frames < 1:
            raise ValueError(f"after_frames must be 1 or more, not {after_frames}")
        if provider.key_ring_size < 2:
            raise ValueError("a rotation needs two key ids: make the provider with a key_ring_size of 2 or more")
        self._provider = provider
        self._distribute = distribute
        self._participant_id = participant_id
        self._delay = delay
        self._overlap = overlap
        self._every = every
        self._after_frames = after_frames
        self._one_at_a_time = asyncio.Lock()
        self._due = asyncio.Event()
        self._since = monotonic()
        self._retired: dict[int, asyncio.TimerHandle] = {}
        self._task: asyncio.Task[None] | None = None
        self._process = os.getpid()
        call_in_child(self, _forget_retired)

    async def rotate(self) -> int:
        """Make a fresh random key, hand it out, wait for `delay`, and seal with it. Return its key id.

        Calls that come while one is under way wait, and rotate again. Whatever `distribute` raises is passed on, with
        the old key still in use.
        """
        self._check_process()
        async with self._one_at_a_time:
            key = secrets.token_bytes(KEY_BYTES)
            key_id = self._next_id()
            self._set(key, key_id)
            try:
                await self._distribute(key, key_id)
            except BaseException:
                self._provider.remove(self._participant_id, key_id)
                raise
            await self._take_over(key_id)
            return key_id

    async def adopt(self, key: Key, key_id: int) -> None:
        """Take over a key that somebody else rotated to: open with it at once, seal with it after `delay`.

        :raises ValueError: as `KeyProvider.set_shared_key`.
        """
        self._check_process()
        async with self._one_at_a_time:
            self._set(key, key_id)
            await self._take_over(key_id)

    def participant_left(self) -> None:
        """Rotate soon, in the task of the context manager, because somebody who has the key has left.

        Several who leave together make one rotation. What was sealed before it is theirs to open, and so is what is
        sealed during `delay`.

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
        """Stop, and forget the old keys that are still kept."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for key_id, timer in list(self._retired.items()):
            timer.cancel()
            self._forget(key_id)

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._due.wait(), LOOK_EVERY)
            except TimeoutError:
                if not self._is_worn():
                    continue
            self._due.clear()
            try:
                await self.rotate()
            except Exception:
                _logger.exception("could not rotate the key; the old one stays in use, and it is tried again")
                await asyncio.sleep(LOOK_EVERY)
                self._due.set()

    def _is_worn(self) -> bool:
        if self._every is not None and monotonic() - self._since >= self._every:
            return True
        used = self._provider.frames_sealed(self._participant_id)
        return self._after_frames is not None and used >= self._after_frames

    async def _take_over(self, key_id: int) -> None:
        await asyncio.sleep(self._delay)
        old = self._provider.sending_key_id(self._participant_id)
        self._provider.set_sending_key_id(key_id, self._participant_id)
        self._since = monotonic()
        if old != key_id:
            self._retired[old] = asyncio.get_running_loop().call_later(self._overlap, self._forget, old)

    def _set(self, key: Key, key_id: int) -> None:
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
    """Forget the old keys in a forked child, where nothing would end their time."""
    for key_id in list(rotator._retired):
        rotator._forget(key_id)
