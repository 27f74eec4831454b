"""The model of a call without an event loop: participants, tracks, and the states that their frames cause.

`CallState` makes the transforms and keeps the state of each track. It passes each event to one function at once, in the
thread that caused the event. It reads the time from a clock that it receives. It checks nothing by itself: its owner
calls `CallState.tick`. `frameseal.E2EEManager` adds a loop; `frameseal.frame_cryptor.CallCryptor` needs none.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Final

from frameseal._fork import renew_in_child
from frameseal._native import Decryptor, Encryptor, KeyRing, SenderBindings
from frameseal._secrecy import Confidential, require
from frameseal.e2ee.diagnosis import Diagnostician
from frameseal.e2ee.hold import DEFAULT_HOLD_BYTES, MAX_HOLD_BYTES, MAX_HOLD_FRAMES
from frameseal.e2ee.monitor import KeyRequests, Monitor, RatchetSearch
from frameseal.e2ee.report import Report, TrackFacts, report
from frameseal.e2ee.track import DOUBTFUL, HEALTHY, Track, TrackTransform, checked_kind, most_severe
from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform
from frameseal.enums import E2EEState, Profile
from frameseal.events import (
    DIAGNOSIS,
    INJECTED_FRAME,
    MISSING_KEY,
    STATE_CHANGE,
    Direction,
    E2EEMissingKey,
    Kind,
)
from frameseal.keys.protocol import KeyRingProvider, bounded
from frameseal.keys.provider import KeyProvider
from frameseal.profiles import is_sframe, media_metadata

Deliver = Callable[[str, object], None]
"""Receives an event: its name, and the object for its listeners."""

Background = Callable[[Callable[[], object]], bool]
"""Runs a function in a thread beside the frames. Returns False if that is impossible now."""

_KEY_ID_BITS: Final = 0xFF

_logger = logging.getLogger("frameseal")


class CallState(Confidential):
    """The state of one call. It implements `frameseal.e2ee.track.TrackReporter` for its transforms.

    `E2EEManager` documents the options and methods that have the same names there. Every method may be called from any
    thread, but `tick` from one at a time.

    :param deliver: receives each event, in the thread that caused it and sometimes under a lock of the call. It must
        neither block nor call back.
    :param background: runs slow work in a thread. Without it, nothing is diagnosed and no ratchet step is derived.
    :param clock: returns seconds, from a monotonic clock.
    :param wall_clock: returns seconds since the epoch.
    :raises ValueError: for an unknown profile, a number out of its range, *bind_media* outside the profile sframe, or a
        provider with a ratchet window in a profile without a ratchet (stream).
    :raises TypeError: for a provider or *sif_trailer* of another type.
    """

    _lock: threading.Lock

    def __init__(
        self,
        provider: KeyRingProvider,
        profile: Profile | str,
        deliver: Deliver,
        *,
        background: Background | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        replay_window: int | None = None,
        hold_frames: int = 0,
        hold_bytes: int = DEFAULT_HOLD_BYTES,
        sif_trailer: bytes | None = None,
        pass_sif_frames: bool = False,
        bind_media: bool = False,
    ) -> None:
        """Start a call without participants."""
        require("provider", provider, "ring_for", "a provider of keys, such as a KeyProvider")
        self._profile = Profile(profile)
        # Refuse the options here rather than with the first frame of each track.
        sif_trailer = _checked_trailer(sif_trailer)
        ratchet_window = provider.ratchet_window if isinstance(provider, KeyProvider) else 0
        ring = KeyRing(self._profile, ratchet_window=ratchet_window)
        Decryptor(ring, replay_window=replay_window, sif_trailer=sif_trailer)
        if bind_media and not is_sframe(self._profile):
            raise ValueError(
                f"bind_media must be False in the profile {self._profile}: only sframe authenticates metadata"
            )
        self._provider = provider
        self._deliver, self._background = deliver, background
        self._clock, self._wall_clock = clock, wall_clock
        self._bind_media = bool(bind_media)
        # Only an SFrame names its sender.
        self._sender_bindings = SenderBindings() if is_sframe(self._profile) else None
        self._replay_window = replay_window
        self._hold_frames = bounded("hold_frames", hold_frames, 0, MAX_HOLD_FRAMES)
        self._hold_bytes = bounded("hold_bytes", hold_bytes, 1, MAX_HOLD_BYTES)
        self._sif_trailer = sif_trailer
        self._pass_sif_frames = pass_sif_frames
        self._receivers: weakref.WeakSet[ReceiverTransform] = weakref.WeakSet()
        self._local_id = ""
        renew_in_child(self, _lock=threading.Lock)
        self._tracks: dict[tuple[str, str, str | None, str | int], Track] = {}
        self._serial = count()
        self._monitor = Monitor(provider)
        self._requests = KeyRequests()
        self._searches = RatchetSearch()
        self._diagnostician = Diagnostician(provider, self._profile, clock)

    @property
    def profile(self) -> Profile:
        """The wire format of the call."""
        return self._profile

    @property
    def provider(self) -> KeyRingProvider:
        """The source of the keys."""
        return self._provider

    @property
    def can_encrypt(self) -> bool:
        """True if there is a key to send with."""
        return self._provider.ring_for(self._profile, self._local_id).can_encrypt

    @property
    def sif_trailer(self) -> bytes | None:
        """The trailer of a LiveKit server's blank frames, as in `E2EEManager.sif_trailer`."""
        return self._sif_trailer

    @sif_trailer.setter
    def sif_trailer(self, trailer: bytes | None) -> None:
        trailer = _checked_trailer(trailer)
        Decryptor(KeyRing(self._profile), sif_trailer=trailer)  # refuse a short one before any track has it
        with self._lock:
            self._sif_trailer = trailer
            for transform in list(self._receivers):
                transform.set_sif_trailer(trailer)

    # --- participants and tracks

    def sender_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> SenderTransform:
        """Return the transform that seals the frames of one outgoing track."""
        ring = self._provider.ring_for(self._profile, participant_id)
        encryptor = Encryptor(ring, codec)
        discard = self._provider.discard_frame_when_cryptor_not_ready
        transform = SenderTransform(self, encryptor, ring, discard, self._metadata(kind, codec), codec=codec)
        self._adopt(transform, participant_id, kind, "send", track_id)
        self._local_id = participant_id
        return transform

    def receiver_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> ReceiverTransform:
        """Return the transform that opens the frames of one incoming track."""
        ring = self._provider.ring_for(self._profile, participant_id)
        decryptor = Decryptor(
            ring,
            codec,
            self._replay_window,
            senders=self._sender_bindings,
            participant_id=None if self._sender_bindings is None else participant_id,
        )
        transform = ReceiverTransform(
            self,
            decryptor,
            ring,
            self._provider.discard_frame_when_cryptor_not_ready,
            self._metadata(kind, codec),
            codec=codec,
            hold=self._hold_frames,
            hold_bytes=self._hold_bytes,
            pass_sif_frames=self._pass_sif_frames,
        )
        self._adopt(transform, participant_id, kind, "receive", track_id)
        with self._lock:  # from now on the transform receives each change of the trailer
            self._receivers.add(transform)
            transform.set_sif_trailer(self._sif_trailer)
        return transform

    def release(self, transform: TrackTransform) -> None:
        """Record that *transform* receives no frames, for now or for good. `state` prefers tracks that do."""
        with self._lock:
            transform.track.transforms.discard(transform)
        if isinstance(transform, ReceiverTransform):
            transform.drop_held()

    def resume(self, transform: TrackTransform) -> None:
        """Record that *transform* receives frames again."""
        track = transform.track
        with self._lock:
            if track in self._tracks.values():
                track.transforms.add(transform)
                return
        if track.direction is not None:
            self._adopt(transform, track.participant_id, track.kind, track.direction, track.track_id)

    def remove_participant(self, participant_id: str) -> None:
        """Forget the states of a participant who left."""
        if self._sender_bindings is not None:
            self._sender_bindings.release(participant_id)
        with self._lock:
            self._forget(track for track in self._tracks.values() if track.participant_id == participant_id)
        self._requests.forget(participant_id)

    def remove_track(self, participant_id: str, kind: str, *, track_id: str | None = None) -> None:
        """Forget the state of a track that has ended. Without *track_id*, all tracks of the participant and kind."""
        with self._lock:
            self._forget(t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id))

    # --- states

    def state(self, participant_id: str, kind: str, *, track_id: str | None = None) -> E2EEState | None:
        """Return the last reported state, or the most severe one of several tracks. None before the first frame."""
        with self._lock:
            tracks = [t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id)]
            live = [track for track in tracks if track.is_live]
            return most_severe(track.state for track in live or tracks)

    def tracks(self) -> list[Track]:
        """Return the tracks that are known now."""
        with self._lock:
            return list(self._tracks.values())

    def report(self) -> Report:
        """Return the state of each track, its cause and its start, as plain data."""
        facts = [TrackFacts(track, used, self._diagnostician.cause_of(track)) for track, used in self._in_use()]
        return report(self._profile, self.can_encrypt, facts, self._wall_clock())

    def report_internal_error(
        self, participant_id: str, kind: str, reason: str, *, track_id: str | None = None
    ) -> None:
        """Put every track of this participant and kind into InternalError, or the one track with *track_id*."""
        with self._lock:
            tracks = [t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id)]
            for track in tracks or [self._track(participant_id, checked_kind(kind), None, track_id)]:
                self._change(track, E2EEState.InternalError, None, reason, {})

    def report_not_encrypted(self, participant_id: str, kind: str, *, track_id: str) -> None:
        """Put an incoming track into InternalError (``sender_not_encrypted``), since its sender declares it plain."""
        with self._lock:
            track = self._track(participant_id, checked_kind(kind), "receive", track_id)
            track.declared_plain = True
            self._change(track, E2EEState.InternalError, None, None, {})

    # --- time

    def tick(self) -> None:
        """Check every track, and continue the ratchet searches.

        The owner calls it every `frameseal.e2ee.monitor.PERIOD` seconds.
        """
        tracks = self._in_use()
        for event, value in self._monitor.check(tracks, self._clock(), self._wall_clock()):
            self._deliver(event, value)
        rings = [transform.ring for track, used in tracks if track.direction == "receive" for transform in used]
        for ring in rings:
            self._derive_ratchet_step(ring)
        self._searches.retain(rings)

    def is_active(self) -> bool:
        """Return whether a transform is in use. Otherwise there is nothing to check."""
        return any(track.transforms for track in self.tracks())

    # --- reports of transforms (`TrackReporter`)

    def now(self) -> float:
        """Return the time in seconds, from a monotonic clock."""
        return self._clock()

    def report_state(
        self,
        transform: TrackTransform,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        """Bring the transform's track to *state*. Returns False if the change must be reported again."""
        with self._lock:
            track = self._track_of(transform)
            return track is not None and self._change(track, state, key_id, reason, counters)

    def report_failed_frame(self, transform: TrackTransform, frame: bytes) -> None:
        """Record how a frame that failed begins and ends, for a diagnosis."""
        if not transform.track.in_doubt:
            self._diagnostician.note(transform.track, frame)

    def report_undecryptable(
        self, transform: TrackTransform, frame: bytes, key_id: int | None, *, missing: bool
    ) -> None:
        """Diagnose a frame that failed, and derive the ratchet steps that may open the next one."""
        track = transform.track
        if self._background is None or track.in_doubt:
            return
        is_due = not track.forgotten and self._diagnostician.is_due(track, missing=missing)
        if is_due and not self._background(partial(self._diagnose, transform, frame, key_id, missing)):
            self._diagnostician.cancel(track)
        self._derive_ratchet_step(transform.ring)

    def report_missing_key(self, transform: TrackTransform, key_id: int | None) -> None:
        """Request a key that is missing, unless it was requested a moment ago."""
        with self._lock:
            track = self._track_of(transform)
        if track is None or track.in_doubt or key_id is None:
            return
        last_set = self._last_set(track.participant_id, key_id)
        if self._requests.may_request(track.participant_id, key_id, self._clock(), last_set):
            self._deliver(MISSING_KEY, E2EEMissingKey(track.participant_id, track.kind, key_id))

    def report_present_key(self, transform: TrackTransform, key_id: int) -> None:
        """End the shortage of a key: the next one is requested at once."""
        self._requests.end_shortage(transform.track.participant_id, key_id)

    def report_opened(self, transform: TrackTransform) -> None:
        """Forget how earlier frames failed, since one has opened."""
        self._diagnostician.opened(transform.track)

    def report_sif_frame(self, transform: TrackTransform, counters: Mapping[str, int]) -> None:
        """Report a server's blank frame, the first one since a sealed frame."""
        track = transform.track
        with self._lock:
            if not track.forgotten and track.state is not None and track.changes.spend(self._clock()):
                self._deliver(INJECTED_FRAME, track.injected_frame(counters, self._wall_clock()))

    # ---

    def _diagnose(self, transform: TrackTransform, frame: bytes, key_id: int | None, missing: bool) -> None:
        try:
            diagnosis = self._diagnostician.diagnose(transform, frame, key_id, missing=missing)
            if diagnosis is not None:
                self._deliver(DIAGNOSIS, diagnosis)
        except Exception:
            _logger.exception("a diagnosis of %r failed", transform)
        finally:
            self._diagnostician.end()

    def _derive_ratchet_step(self, ring: KeyRing) -> None:
        if self._background is None:
            return
        step = self._searches.begin(ring, self._clock())
        if step is not None and not self._background(step):
            self._searches.cancel(ring)

    def _last_set(self, participant_id: str, key_id: int) -> int:
        """Return a number that grows when the provider receives this key, even if no frame ever opens with it."""
        if not isinstance(self._provider, KeyProvider):
            return 0
        # The low bits of a shared SFrame key's KID are its key id. The others name the sender.
        return self._provider.last_set(participant_id, key_id & _KEY_ID_BITS)

    def _metadata(self, kind: str, codec: str | None) -> bytes:
        """Return the metadata that frames of this kind and codec are authenticated with."""
        return media_metadata(kind, codec) if self._bind_media else b""

    def _adopt(
        self, transform: TrackTransform, participant_id: str, kind: str, direction: Direction, track_id: str | None
    ) -> None:
        """Assign *transform* its track: the known one of this id, so that a track attached anew keeps its state."""
        with self._lock:
            transform.track = self._track(participant_id, checked_kind(kind), direction, track_id)
            transform.track.transforms.add(transform)

    def _in_use(self) -> list[tuple[Track, list[TrackTransform]]]:
        """Return the tracks that are known now, with their transforms."""
        with self._lock:
            return [(track, list(track.transforms)) for track in self._tracks.values()]

    def _tracks_of(self, participant_id: str, kind: str) -> list[Track]:
        return [t for t in self._tracks.values() if (t.participant_id, t.kind) == (participant_id, kind)]

    def _track(self, participant_id: str, kind: Kind, direction: Direction | None, track_id: str | None) -> Track:
        """Find or make a track. Forgets tracks of the same participant and kind that have lost their transforms."""
        key = (participant_id, kind, direction, next(self._serial) if track_id is None else track_id)
        for other, track in list(self._tracks.items()):
            if other[:2] == key[:2] and other != key and not track.is_live:
                del self._tracks[other]
        return self._tracks.setdefault(key, Track(participant_id, kind, direction, track_id))

    def _track_of(self, transform: TrackTransform) -> Track | None:
        """Return the track that *transform* reports to. Returns None for late frames of a removed participant."""
        track = transform.track
        if not track.forgotten:
            return track
        if track.is_late(self._clock()):
            return None
        transform.track = self._track(track.participant_id, track.kind, track.direction, track.track_id)
        transform.track.transforms.add(transform)
        return transform.track

    def _forget(self, tracks: Iterable[Track]) -> None:
        removed = set(tracks)
        for key in [key for key, track in self._tracks.items() if track in removed]:
            self._tracks[key].forget(self._clock())  # first: a track in no table must not report
            del self._tracks[key]

    def _change(
        self,
        track: Track,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        if track.declared_plain:
            if state in HEALTHY:
                track.declared_plain = False
            else:
                state, key_id, reason = E2EEState.InternalError, None, "sender_not_encrypted"
        if track.state is state:
            return True
        if (track.in_doubt and state in DOUBTFUL) or not track.changes.spend(self._clock()):
            return False
        now = self._wall_clock()
        detail = track.change(state, key_id, reason, now)
        if not track.forgotten:
            self._deliver(STATE_CHANGE, track.state_change(counters, detail, now))
        return True


def _checked_trailer(trailer: object) -> bytes | None:
    if trailer is None:
        return None
    if isinstance(trailer, bytes | bytearray | memoryview):
        return bytes(trailer)
    raise TypeError(
        f"sif_trailer must be bytes or None, not {type(trailer).__name__}: pass JoinResponse.sif_trailer as it arrived"
    )
