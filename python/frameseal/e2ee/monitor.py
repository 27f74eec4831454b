"""Checks beside the frames of a call: stalled tracks, worn keys, senders that ratchet. It also limits rates.

Nothing here has a loop, a thread or a clock. `frameseal.e2ee.call.CallState` passes the time, and runs what these
classes return.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Final

from frameseal._fork import renew_in_child
from frameseal._rates import TokenBucket
from frameseal.e2ee.track import KEY_REQUEST_INTERVAL, Track, TrackTransform, sum_counters
from frameseal.events import KEY_USAGE, STALLED, E2EEKeyUsage
from frameseal.keys.provider import KeyProvider

if TYPE_CHECKING:
    from frameseal._native import KeyRing
    from frameseal.keys.protocol import KeyRingProvider

PERIOD: Final = 0.5  # seconds between two checks
STALLED_AFTER: Final = 2.0  # seconds

# The counters of a Decryptor that count failures.
FAILURE_COUNTERS: Final = ("malformed", "unknown_key", "authentication_failed", "replayed", "sender_mismatch")

# Rate limit of ratchet derivations per ring, which a forger can provoke. The ratchet window limits them as well: each
# step is derived once.
DERIVATION_BURST: Final = 4
DERIVATIONS_PER_SECOND: Final = 1.0

# Capacity for missing keys, and the rate limit of requests per participant. A forger may claim a new key id with
# each frame. This must neither fill the memory nor make the application ask at frame rate.
MAX_MISSING_KEYS: Final = 1024
REQUEST_BURST: Final = 16
REQUESTS_PER_SECOND: Final = 1.0

# Counters of an Encryptor for frames that some receivers cannot show, and the warning that is logged once a track.
DISPLAY_WARNINGS: Final = {
    "long_headers": "video that is sent has more than 255 bytes in front of its first slice: native receivers of the "
    "LiveKit family (libwebrtc m144 and before) cannot open such frames; have the encoder write shorter ones",
    "misread": "video that is sent has slice headers that cannot be kept readable (docs/formats/profiles.md): "
    "receivers built on libwebrtc may drop keyframes; have the encoder write pic_parameter_set_id 0",
}

Event = tuple[str, object]
"""The name of an event, and the object that its listeners receive."""

_logger = logging.getLogger("frameseal")


class KeyRequests:
    """Rations the requests for missing keys. Every method may be called from any thread."""

    _lock: Lock

    def __init__(self) -> None:
        """Start without a missing key."""
        renew_in_child(self, _lock=Lock)
        # For each missing key, the time of the last request, and the key's `last_set` at that time.
        self._requested: OrderedDict[tuple[str, int], tuple[float, int]] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def may_request(self, participant_id: str, key_id: int, now: float, last_set: int = 0) -> bool:
        """Return whether to request this key now.

        :param last_set: a number that grows each time the key is set. If it has grown, the earlier shortage has ended.
        """
        with self._lock:
            requested, set_before = self._requested.get((participant_id, key_id), (None, 0))
            if requested is not None and now - requested < KEY_REQUEST_INTERVAL and last_set <= set_before:
                return False
            bucket = self._buckets.pop(participant_id, None) or TokenBucket(REQUEST_BURST, REQUESTS_PER_SECOND)
            self._buckets[participant_id] = bucket
            if len(self._buckets) > MAX_MISSING_KEYS:
                self._buckets.popitem(last=False)
            if not bucket.spend(now):
                return False
            self._requested[participant_id, key_id] = now, max(last_set, set_before)
            self._requested.move_to_end((participant_id, key_id))
            if len(self._requested) > MAX_MISSING_KEYS:
                self._requested.popitem(last=False)
            return True

    def end_shortage(self, participant_id: str, key_id: int) -> None:
        """Allow a request at once when this key is missing the next time."""
        with self._lock:
            self._requested.pop((participant_id, key_id), None)

    def forget(self, participant_id: str) -> None:
        """Forget the requests for the keys of a participant who left."""
        with self._lock:
            for requested in [requested for requested in self._requested if requested[0] == participant_id]:
                del self._requested[requested]


@dataclass(eq=False, slots=True)
class _Search:
    """The search for the ratchet steps of one ring."""

    rate: TokenBucket = field(default_factory=lambda: TokenBucket(DERIVATION_BURST, DERIVATIONS_PER_SECOND))
    busy: bool = False  # a step is being derived


class RatchetSearch:
    """Rations the ratchet steps that frames ask for. Every method may be called from any thread.

    A step of a passphrase costs some 25 ms. So the caller derives it in a thread, one step per ring at a time.
    """

    _lock: Lock
    _searches: dict[int, _Search]  # by the id of the ring

    def __init__(self) -> None:
        """Start without a search."""
        # Derivations of the parent end in the parent.
        renew_in_child(self, _lock=Lock, _searches=dict)

    def begin(self, ring: KeyRing, now: float) -> Callable[[], None] | None:
        """Return the function that derives the next step. Run it in a thread, or else call `cancel`.

        Returns None if no frame asks for a step, a step is being derived, or the rate is spent.
        """
        key_ids = ring.pending_ratchets
        if not key_ids:
            return None
        with self._lock:
            search = self._searches.setdefault(id(ring), _Search())
            if search.busy or not search.rate.spend(now):
                return None
            search.busy = True
        return partial(_derive_step, ring, key_ids[0], search)

    def cancel(self, ring: KeyRing) -> None:
        """Forget a step that was begun, since nothing can run it."""
        with self._lock:
            self._searches.pop(id(ring), None)

    def retain(self, rings: Iterable[KeyRing]) -> None:
        """Forget all rings but these, since the others are no longer in use."""
        in_use = {id(ring) for ring in rings}
        with self._lock:
            self._searches = {ring: search for ring, search in self._searches.items() if ring in in_use}


def _derive_step(ring: KeyRing, key_id: int, search: _Search) -> None:
    try:
        ring.derive_ratchet_step(key_id)
    except ValueError:
        pass  # the key was removed meanwhile
    finally:
        search.busy = False


@dataclass(eq=False, slots=True)
class _Progress:
    """The counters of a receiving track at the last check."""

    opened: int = 0
    failed: int = 0
    ratchets: int = 0
    failing_since: float | None = None
    stalled: bool = False


class Monitor:
    """Compares the counters of tracks with those of the last check. For one thread at a time.

    :param provider: receives a note of each sender that ratcheted, if it is a `KeyProvider`.
    """

    def __init__(self, provider: KeyRingProvider) -> None:
        """Start without a check."""
        self._provider = provider
        self._progress: weakref.WeakKeyDictionary[Track, _Progress] = weakref.WeakKeyDictionary()
        self._warned: dict[str, int] = {}  # by participant, the key id of the last usage warning
        self._display_warned: dict[str, weakref.WeakSet[Track]] = {
            counter: weakref.WeakSet() for counter in DISPLAY_WARNINGS
        }

    def check(self, tracks: Iterable[tuple[Track, list[TrackTransform]]], now: float, time: float) -> Iterator[Event]:
        """Yield the events since the last check, which was `PERIOD` seconds ago.

        :param tracks: the tracks of the call, with their transforms.
        :param now: seconds, from a monotonic clock.
        :param time: seconds since the epoch.
        """
        sending = set()
        for track, transforms in tracks:
            if track.direction == "receive":
                yield from self._check_receiver(track, transforms, now, time)
            elif track.direction == "send":
                yield from self._check_sender(track, transforms, time)
                sending.add(track.participant_id)
        self._warned = {name: key_id for name, key_id in self._warned.items() if name in sending}

    def _check_receiver(
        self, track: Track, transforms: list[TrackTransform], now: float, time: float
    ) -> Iterator[Event]:
        progress = self._progress.setdefault(track, _Progress())
        counters = sum_counters(transform.stats() for transform in transforms)
        opened = counters.get("frames", 0)
        track.record_frames(opened, time)
        failed = sum(counters.get(name, 0) for name in FAILURE_COUNTERS)
        ratchets = counters.get("ratchets", 0)
        if ratchets > progress.ratchets and isinstance(self._provider, KeyProvider):
            # If several keys ratchet between two checks, the last one is named.
            key_ids = (transform.ring.ratcheted_key_id for transform in transforms)
            self._provider.note_ratcheted(track.participant_id, next((i for i in key_ids if i is not None), 0))
        if opened > progress.opened:
            progress.failing_since, progress.stalled = None, False
        elif failed > progress.failed:
            if progress.failing_since is None:
                progress.failing_since = now - PERIOD
            if not progress.stalled and now - progress.failing_since >= STALLED_AFTER and track.state is not None:
                progress.stalled = True
                yield STALLED, track.stalled(counters, time)
        elif not progress.stalled:
            progress.failing_since = None  # no frame arrives: the sender is muted or has left
        progress.opened, progress.failed, progress.ratchets = opened, failed, ratchets

    def _check_sender(self, track: Track, transforms: list[TrackTransform], time: float) -> Iterator[Event]:
        sealed = 0
        for transform in transforms:
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
                yield KEY_USAGE, E2EEKeyUsage(track.participant_id, key_id, used, stats["key_limit"])
        track.record_frames(sealed, time)
