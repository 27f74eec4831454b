"""What is looked at twice a second, beside the frames: tracks that stall, keys that wear out, senders that ratchet.

Frames pay nothing for it. It runs on the event loop, in bounded time; what takes longer (a ratchet step of a passphrase
is 25 ms) runs in a thread, one step at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from frameseal._fork import nothing, renew_in_child
from frameseal.e2ee.track import sum_counters
from frameseal.keys.provider import KeyProvider

if TYPE_CHECKING:
    from frameseal._native import KeyRing
    from frameseal.e2ee.manager import E2EEManager
    from frameseal.e2ee.track import Kind, Track
    from frameseal.e2ee.transforms import ReceiverTransform

PERIOD: Final = 0.5  # seconds
STALLED_AFTER: Final = 2.0  # seconds
FAILURE_COUNTERS: Final = (
    "malformed",
    "unknown_key",
    "authentication_failed",
    "replayed",
    "sender_mismatch",
)  # counters of a Decryptor
KEY_REQUEST_INTERVAL: Final = 5.0  # seconds between two events about one missing key

# A forger who makes receivers search gets so many derivations at once and then one a second, per ring; and never more
# than the ratchet window has steps, since each is derived once.
DERIVATION_BURST: Final = 4
DERIVATIONS_PER_SECOND: Final = 1.0
DERIVATIONS: Final = (DERIVATION_BURST, DERIVATIONS_PER_SECOND)

# Missing keys that are remembered: key ids are what frames claim, so there can be any number of them. Nor may a forger
# who claims a new one with each frame make the application ask at frame rate: so many at once per participant, then one
# a second.
MAX_MISSING_KEYS: Final = 1024
REQUEST_BURST: Final = 16
REQUESTS_PER_SECOND: Final = 1.0

# What an encryptor counts that some receivers cannot show, and what is logged of it, once a track.
DISPLAY_WARNINGS: Final = {
    "long_headers": "video that is sent has more than 255 bytes in front of its first slice: native receivers of the "
    "LiveKit family (libwebrtc m144 and before) cannot open such frames; have the encoder write shorter ones",
    "misread": "video that is sent has slice headers that cannot be kept readable (docs/formats/profiles.md): "
    "receivers built on libwebrtc may drop keyframes; have the encoder write pic_parameter_set_id 0",
}

STALLED: Final = "e2ee-stalled"
KEY_USAGE: Final = "e2ee-key-usage"

_logger = logging.getLogger("frameseal")


@dataclass(frozen=True, slots=True)
class E2EEKeyUsage:
    """What a listener of ``"e2ee-key-usage"`` receives: set a new key before the limit, where sealing ends."""

    participant_id: str
    """Whose key: this side's own id."""

    key_id: int
    """Under which id."""

    used: int
    """Frames that this side has sealed with it."""

    limit: int
    """Frames at which it is refused (`KeyExhausted`)."""


@dataclass(frozen=True, slots=True)
class E2EEMissingKey:
    """What a listener of ``"e2ee-missing-key"`` receives: frames name a key that is not there."""

    participant_id: str
    """Who sends them."""

    kind: Kind
    """``"audio"`` or ``"video"``: of the frame that was noticed."""

    key_id: int
    """The key id, or KID, that they claim. Not authenticated: ask for the key of this participant, not for any id."""


@dataclass(eq=False, slots=True)
class _Progress:
    """What the last look at a receiving track saw."""

    opened: int = 0
    failed: int = 0
    ratchets: int = 0
    failing_since: float | None = None
    stalled: bool = False


@dataclass(eq=False, slots=True)
class TokenBucket:
    """The derivations that one ring may still have, or the questions that one participant may still cause."""

    refilled: float
    burst: int
    each_second: float
    allowance: float = math.inf  # whatever the burst is
    busy: bool = False

    def take(self) -> bool:
        """Take one event from the allowance. Returns False if none is left."""
        now = monotonic()
        grown = self.allowance + (now - self.refilled) * self.each_second
        self.allowance, self.refilled = min(self.burst, grown), now
        if self.busy or self.allowance < 1:
            return False
        self.allowance -= 1
        return True


class Monitor:
    """The watch of one manager, which it does not keep alive."""

    _lock: Lock
    _loop: asyncio.AbstractEventLoop | None
    _derivations: dict[int, TokenBucket]

    def __init__(self, manager: E2EEManager) -> None:
        """Make a watch; it looks at nothing before `start`."""
        self._manager = weakref.ref(manager)
        # The parent's derivations and ticks end in the parent.
        renew_in_child(self, _lock=Lock, _loop=nothing, _derivations=dict, _ticking=bool)
        self._progress: weakref.WeakKeyDictionary[Track, _Progress] = weakref.WeakKeyDictionary()
        # When each missing key was last asked for, and the number of its last setting at that time.
        self._requested: OrderedDict[tuple[str, int], tuple[float, int]] = OrderedDict()
        self._requests: OrderedDict[str, TokenBucket] = OrderedDict()
        self._warned: dict[str, int] = {}
        self._display_warned: dict[str, weakref.WeakSet[Track]] = {
            counter: weakref.WeakSet() for counter in DISPLAY_WARNINGS
        }

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after the manager's tracks on *loop*, from any thread; without effect while another loop does."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop, self._ticking = loop, False
        self.wake()

    def wake(self) -> None:
        """Go on, now that there is a track to look after; from any thread. Without any, nothing ticks."""
        with self._lock:
            if self._loop is None or self._ticking:
                return
            with suppress(RuntimeError):  # the loop is closed: the call is over, or another loop will be bound
                self._loop.call_soon_threadsafe(self._tick)
                self._ticking = True

    def may_request(self, participant_id: str, key_id: int, last_set: int = 0) -> bool:
        """Return True if it is time to report that this key is missing. From any thread.

        *last_set* is a number that grows when the key is set and is missing again: the earlier shortage has ended.
        """
        now = monotonic()
        with self._lock:
            asked, set_before = self._requested.get((participant_id, key_id), (None, 0))
            if asked is not None and now - asked < KEY_REQUEST_INTERVAL and last_set <= set_before:
                return False
            bucket = self._requests.pop(participant_id, None)
            bucket = bucket or TokenBucket(now, REQUEST_BURST, REQUESTS_PER_SECOND)
            self._requests[participant_id] = bucket
            if len(self._requests) > MAX_MISSING_KEYS:
                self._requests.popitem(last=False)
            if not bucket.take():
                return False
            self._requested[participant_id, key_id] = now, max(last_set, set_before)
            self._requested.move_to_end((participant_id, key_id))
            if len(self._requested) > MAX_MISSING_KEYS:
                self._requested.popitem(last=False)
            return True

    def end_shortage(self, participant_id: str, key_id: int) -> None:
        """Ask at once when this key is missing the next time. From any thread."""
        with self._lock:
            self._requested.pop((participant_id, key_id), None)

    def forget(self, participant_id: str) -> None:
        """Forget what was asked for a participant who left. From any thread."""
        with self._lock:
            for asked in [asked for asked in self._requested if asked[0] == participant_id]:
                del self._requested[asked]

    def derive_ratchet_step(self, transform: ReceiverTransform) -> None:
        """Have the next ratchet step derived in a thread, if frames ask for one and may. From any thread."""
        ring = transform.ring
        wanted = ring.pending_ratchets
        if not wanted:
            return
        with self._lock:
            if self._loop is None:  # nobody derives, and nobody would let go of the bucket
                return
            bucket = self._derivations.setdefault(id(ring), TokenBucket(monotonic(), *DERIVATIONS))
            if not bucket.take():
                return
            bucket.busy = True
        try:
            self._loop.call_soon_threadsafe(self._derive, ring, wanted[0], bucket)
        except RuntimeError:  # the loop is closed: the call is over
            bucket.busy = False

    def _derive(self, ring: KeyRing, key_id: int, bucket: TokenBucket) -> None:
        def step() -> None:
            try:
                ring.derive_ratchet_step(key_id)
            except ValueError:
                pass  # the key was removed meanwhile
            finally:
                bucket.busy = False

        if self._loop is not None:
            self._loop.run_in_executor(None, step)

    def _tick(self) -> None:
        manager = self._manager()
        if manager is None or self._loop is None:
            return
        try:
            for track in manager.tracks():
                if track.direction == "receive":
                    self._check_receiver(manager, track)
                elif track.direction == "send":
                    self._count(manager, track)
            self._resume_searches(manager)
            sending = {track.participant_id for track in manager.tracks() if track.direction == "send"}
            self._warned = {name: key_id for name, key_id in self._warned.items() if name in sending}
        except Exception:
            _logger.exception("the watch of %r failed", manager)
        with self._lock:
            self._ticking = any(track.transforms for track in manager.tracks())
            if self._ticking:
                self._loop.call_later(PERIOD, self._tick)

    def _check_receiver(self, manager: E2EEManager, track: Track) -> None:
        progress = self._progress.setdefault(track, _Progress())
        counters = sum_counters(transform.stats() for transform in list(track.transforms))
        track.record_frames(counters.get("frames", 0))
        opened = counters.get("frames", 0)
        failed = sum(counters.get(name, 0) for name in FAILURE_COUNTERS)
        ratchets = counters.get("ratchets", 0)
        if ratchets > progress.ratchets and isinstance(manager.provider, KeyProvider):
            # Where several keys ratchet between two looks, the last of them is named.
            followed = (transform.ring.ratcheted_key_id for transform in list(track.transforms))
            manager.provider.note_ratcheted(track.participant_id, next((i for i in followed if i is not None), 0))
        now = monotonic()
        if opened > progress.opened:
            progress.failing_since, progress.stalled = None, False
        elif failed > progress.failed:
            if progress.failing_since is None:
                progress.failing_since = now - PERIOD
            if not progress.stalled and now - progress.failing_since >= STALLED_AFTER and track.state is not None:
                progress.stalled = True
                manager.deliver(STALLED, track.event(counters, "stalled"))
        elif not progress.stalled:
            progress.failing_since = None  # nothing comes: the sender is muted or gone
        progress.opened, progress.failed, progress.ratchets = opened, failed, ratchets

    def _count(self, manager: E2EEManager, track: Track) -> None:
        sealed = 0
        for transform in list(track.transforms):
            stats = transform.stats()
            sealed += stats["frames"]
            for counter, warning in DISPLAY_WARNINGS.items():
                if stats[counter] and track not in self._display_warned[counter]:
                    self._display_warned[counter].add(track)
                    _logger.warning(warning)
            used, key_id = stats["key_frames"], transform.ring.sending_key_id
            if used < stats["key_warning"] or not used:
                if self._warned.get(track.participant_id) == key_id:
                    del self._warned[track.participant_id]  # a fresh key under the same id
            elif self._warned.get(track.participant_id) != key_id:
                self._warned[track.participant_id] = key_id
                manager.deliver(KEY_USAGE, E2EEKeyUsage(track.participant_id, key_id, used, stats["key_limit"]))
        track.record_frames(sealed)

    def _resume_searches(self, manager: E2EEManager) -> None:
        """Go on with searches that frames have asked for and the rate has held back."""
        live = set()
        for track in manager.tracks():
            for transform in list(track.transforms) if track.direction == "receive" else []:
                live.add(id(transform.ring))
                self.derive_ratchet_step(transform)  # type: ignore[arg-type]
        with self._lock:
            self._derivations = {ring: bucket for ring, bucket in self._derivations.items() if ring in live}
