"""Helpers of the call model's tests: two ends of one call, frames, a clock, and a recorder of state changes."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from frameseal import E2EEManager, E2EEState, E2EEStateChange, ExternalE2EEKeyProvider
from frameseal.e2ee.call import CallState

KEY = bytes(range(32))
OTHER_KEY = bytes(range(100, 132))

AUDIO = b"\xf8" + b"opus payload" * 4
VIDEO = b"\x01" + b"a VP8 delta frame" * 4
EMPTY = b""
NO_FRAME = b"\x90\x80\x12"  # too short for any trailer: the remains of a bandwidth probe after depacketising

# Enough for listeners and for the coroutines that they start. Nothing here waits for time to pass.
TURNS_OF_THE_LOOP = 5


async def delivered() -> None:
    """Let the loop run everything that was scheduled before this call."""
    for _ in range(TURNS_OF_THE_LOOP):
        await asyncio.sleep(0)


def provider(key: str | bytes | None = KEY, **options: Any) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider(**options)
    if key is not None:
        made.set_shared_key(key)
    return made


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class TimedCall(CallState):
    """The model of a call with the test's clock. It calls listeners at once, and has no loop."""

    def __init__(
        self,
        keys: Any,
        clock: Clock,
        profile: str = "videosdk",
        *,
        on_missing_key: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> None:
        self.listeners: defaultdict[str, list[Callable[[Any], object]]] = defaultdict(list)
        if on_missing_key is not None:
            self.on("e2ee-missing-key", on_missing_key)
        super().__init__(keys, profile, self._call_listeners, clock=clock, wall_clock=clock, **options)

    def on(self, event: str, listener: Callable[[Any], object]) -> None:
        self.listeners[event].append(listener)

    def _call_listeners(self, event: str, value: object) -> None:
        for listener in self.listeners[event]:
            listener(value)


def run_at_once(function: Callable[[], object]) -> bool:
    """Run the background work of a `TimedCall` in the thread that asks for it."""
    function()
    return True


class Recorder:
    """Records the state changes of a manager, in the order of their delivery. With a clock, it uses a `TimedCall`."""

    def __init__(self, key: str | bytes | None = KEY, clock: Clock | None = None, **options: Any) -> None:
        self.provider = provider(key, **options)
        self.manager = E2EEManager(self.provider, "videosdk") if clock is None else TimedCall(self.provider, clock)
        self.changes: list[E2EEStateChange] = []
        self.manager.on("e2ee-state-change", self.changes.append)

    async def states(self) -> list[E2EEState]:
        await delivered()
        return [change.state for change in self.changes]


def sealer(key: str | bytes = KEY, key_id: int = 0, kind: str = "audio") -> Callable[[bytes], bytes]:
    """Return a function that seals frames at the far end of the call."""
    far = ExternalE2EEKeyProvider()
    far.set_shared_key(key, key_id=key_id)
    transform = E2EEManager(far, "videosdk").sender_transform("bob", kind, "opus" if kind == "audio" else "vp8")

    def seal(frame: bytes) -> bytes:
        sealed = transform.encrypt(frame)
        assert sealed is not None
        return sealed

    return seal


class Failing:
    """Replaces the cipher of a transform, and fails in ways that no frame can provoke."""

    consecutive_failures = 1

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encrypt(self, frame: bytes) -> bytes:
        raise self.error

    decrypt = encrypt

    def stats(self) -> dict[str, int]:
        return {}
