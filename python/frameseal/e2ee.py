"""End-to-end encryption of a call, without the transport: who takes part, how each track fares, and who is told.

A transport (`frameseal.aiortc`, or one of your own) asks an `E2EEManager` for one transform per track and passes every
whole encoded frame through it. Transforms run in encoder and decoder threads; events reach listeners on the event loop
and nowhere else. docs/states.md is the model in prose; the names of the states are VideoSDK's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, time
from typing import Any, Final, Literal, cast
from weakref import WeakSet

from pyee.asyncio import AsyncIOEventEmitter

from frameseal._native import Decryptor, Encryptor
from frameseal.enums import E2EEState, Profile
from frameseal.providers import ExternalE2EEKeyProvider, KeyProvider
from frameseal.transforms import ReceiverTransform, SenderTransform, Transform

__all__ = [
    "E2EEManager",
    "E2EEState",
    "E2EEStateChange",
    "ExternalE2EEKeyProvider",
    "KeyProvider",
    "ReceiverTransform",
    "SenderTransform",
]

Kind = Literal["audio", "video"]
Direction = Literal["send", "receive"]

STATE_CHANGE: Final = "e2ee-state-change"

# A track that changes state at frame rate must not flood the application: this many changes at once, then one a second.
# Nothing is lost by it: a change that is held back is still a change when the next frame comes, and is reported then.
BURST_OF_CHANGES: Final = 32
CHANGES_PER_SECOND: Final = 1.0

# Events raised before there is a loop to deliver them on: the latest so many are kept.
KEPT_EVENTS: Final = 64

# The gravest first: what `E2EEManager.state` answers for a participant with several tracks of one kind.
_GRAVITY: Final = (
    E2EEState.InternalError,
    E2EEState.InvalidKey,
    E2EEState.EncryptionFailed,
    E2EEState.DecryptionFailed,
    E2EEState.MissingKey,
    E2EEState.EncryptionSuccess,
    E2EEState.DecryptionSuccess,
)

_logger = logging.getLogger("frameseal")
_in_error_listener: ContextVar[bool] = ContextVar("_in_error_listener", default=False)


@dataclass(frozen=True, slots=True)
class E2EEStateChange:
    """What a listener of ``"e2ee-state-change"`` receives: one track of one participant has changed its state."""

    participant_id: str
    """Whose media it is: the sender of the track, on both sides."""

    kind: Kind
    """``"audio"`` or ``"video"``."""

    state: E2EEState
    """The new state, different from the track's last one."""

    direction: Direction | None
    """``"send"`` or ``"receive"``; None for an internal error outside any track."""

    track_id: str | None
    """The id that the transport gave the track, if any."""

    key_id: int | None
    """The key id concerned, where known. On a failure it is what the frame claimed."""

    reason: str | None
    """Machine-readable: None on success; ``unknown_key``, ``authentication_failed``, ``malformed_frame``,
    ``replayed_frame`` or ``key_exhausted``; with InternalError an exception's class name, or whatever the transport
    reported."""

    counters: Mapping[str, int] = field(hash=False)
    """``stats()`` of the track's Encryptor or Decryptor at the time of the change."""

    time: float
    """When, in seconds since the epoch."""


@dataclass(eq=False, slots=True)
class Track:
    """The state of one track in one direction. Changed only under the manager's lock."""

    participant_id: str
    kind: Kind
    direction: Direction | None
    track_id: str | None
    state: E2EEState | None = None
    forgotten: bool = False
    allowance: float = BURST_OF_CHANGES
    refilled: float = 0.0
    transforms: WeakSet[Transform] = field(default_factory=WeakSet)

    def may_change(self) -> bool:
        """Take one change from the track's allowance, if there is one left (a token bucket)."""
        now = monotonic()
        self.allowance = min(BURST_OF_CHANGES, self.allowance + (now - self.refilled) * CHANGES_PER_SECOND)
        self.refilled = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True


class E2EEManager(AsyncIOEventEmitter):
    """The end-to-end encryption of one call: hands out transforms and reports how they fare.

    :param provider: where the keys come from.
    :param profile: the wire format, for all tracks of the call.
    :param loop: where events are delivered. By default the loop that is running, or else the first one bound.
    :raises ValueError: for an unknown profile.

    Emits ``"e2ee-state-change"`` with one `E2EEStateChange`, on change only, per participant, kind, direction and
    track. Listeners may be functions or coroutine functions. One that raises is logged to the logger ``frameseal``, and
    its exception is emitted as ``"error"`` for whoever listens; media and other listeners do not notice. All methods
    but the emitter's own may be called from any thread.
    """

    def __init__(
        self,
        provider: KeyProvider,
        profile: Profile | str = Profile.VIDEOSDK,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Make a manager; it knows no participant yet."""
        super().__init__()
        try:
            self._profile = Profile(profile)
        except ValueError:
            raise ValueError(f"unknown profile {profile!r}: expected one of {', '.join(Profile)}") from None
        self._provider = provider
        self._local_id = ""
        self._state_lock = threading.Lock()
        self._tracks: dict[tuple[str, str, str | None, str | int], Track] = {}
        self._serial = count()
        self._undelivered: deque[E2EEStateChange] = deque(maxlen=KEPT_EVENTS)
        self._events_loop: asyncio.AbstractEventLoop | None = None
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return
        self.bind_loop(loop)

    @property
    def profile(self) -> Profile:
        """The wire format of the call."""
        return self._profile

    @property
    def is_e2ee_enabled(self) -> bool:
        """Whether frames can be sealed now: the ring that this side sends with has its sending key."""
        ring = self._provider.ring_for(self._profile, self._local_id)
        return ring.sending_key_id in ring.key_ids

    def bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver events on *loop*, those kept from before included. The first call wins, while its loop lives."""
        with self._state_lock:
            if self._events_loop is None or self._events_loop.is_closed():
                self._events_loop = loop
                kept = list(self._undelivered)
                self._undelivered.clear()
                for change in kept:
                    self._deliver(change)

    def sender_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> SenderTransform:
        """Return what seals the frames of one outgoing track; *participant_id* is this side's own id.

        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        ring = self._provider.ring_for(self._profile, participant_id)
        encryptor = Encryptor(ring, codec)
        transform = SenderTransform(self, encryptor, ring, self._provider.discard_frame_when_cryptor_not_ready)
        self._adopt(transform, participant_id, kind, "send", track_id)
        self._local_id = participant_id
        return transform

    def receiver_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> ReceiverTransform:
        """Return what opens the frames of one incoming track; *participant_id* is the id of who sends it.

        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        ring = self._provider.ring_for(self._profile, participant_id)
        decryptor = Decryptor(ring, codec)
        transform = ReceiverTransform(self, decryptor, ring, self._provider.discard_frame_when_cryptor_not_ready)
        self._adopt(transform, participant_id, kind, "receive", track_id)
        return transform

    def report_internal_error(self, participant_id: str, kind: str, reason: str) -> None:
        """Put every track of this participant and kind into InternalError: for what goes wrong around the transforms.

        The next frame that a track's transform handles well brings it back. Callable from any thread.

        :param reason: a short machine-readable text without media or keys.
        """
        with self._state_lock:
            tracks = self._tracks_of(participant_id, kind)
            for track in tracks or [self._track(participant_id, _kind(kind), None, None)]:
                self._change(track, E2EEState.InternalError, None, reason, {})

    def state(self, participant_id: str, kind: str, *, track_id: str | None = None) -> E2EEState | None:
        """Return the last reported state, or None before the first frame.

        :param track_id: ask for this one track. Without it, and with several tracks of one kind (camera and screen),
            the answer is the gravest of their states: a track that fails is not hidden by one that works.
        """
        with self._state_lock:
            tracks = [t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id)]
            live = [track for track in tracks if track.transforms]
            states = {track.state for track in live or tracks}
        return next((state for state in _GRAVITY if state in states), None)

    def remove_participant(self, participant_id: str) -> None:
        """Forget the states of a participant who left. The transforms made for them still work, but report nothing."""
        with self._state_lock:
            for key in [key for key, track in self._tracks.items() if track.participant_id == participant_id]:
                self._tracks.pop(key).forgotten = True

    def emit(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Call the listeners of *event*; for the event loop's thread only. What a listener raises is logged."""
        if event != "error":
            return super().emit(event, *args, **kwargs)
        error = args[0] if args and isinstance(args[0], BaseException) else None
        _logger.error("a listener of %r raised", self, exc_info=error)
        # An error listener that itself raises would otherwise be told about its own exception, for ever. The variable
        # reaches coroutine listeners too: their done-callbacks run in a copy of this context.
        if not _in_error_listener.get() and self.listeners("error"):
            token = _in_error_listener.set(True)
            try:
                super().emit(event, *args, **kwargs)
            finally:
                _in_error_listener.reset(token)
        return True

    def __repr__(self) -> str:
        """Name the profile and the provider, which shows no keys."""
        return f"{type(self).__name__}({self._provider!r}, profile={self._profile.value!r})"

    def _adopt(
        self, transform: Transform, participant_id: str, kind: str, direction: Direction, track_id: str | None
    ) -> None:
        """Give *transform* its track: the known one of this id, so that a track attached anew keeps its state."""
        with self._state_lock:
            transform.track = self._track(participant_id, _kind(kind), direction, track_id)
            transform.track.transforms.add(transform)

    def _tracks_of(self, participant_id: str, kind: str) -> list[Track]:
        return [t for t in self._tracks.values() if (t.participant_id, t.kind) == (participant_id, kind)]

    def _track(self, participant_id: str, kind: Kind, direction: Direction | None, track_id: str | None) -> Track:
        """Find or make a track, forgetting those of the same participant and kind whose transforms are gone."""
        key = (participant_id, kind, direction, next(self._serial) if track_id is None else track_id)
        for other, track in list(self._tracks.items()):
            if other[:2] == key[:2] and other != key and not track.transforms:
                del self._tracks[other]
        return self._tracks.setdefault(key, Track(participant_id, kind, direction, track_id))

    def _report(
        self,
        track: Track,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        """Bring *track* to *state*. False only if the change is held back and must be reported again."""
        with self._state_lock:
            return self._change(track, state, key_id, reason, counters)

    def _change(
        self,
        track: Track,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        if track.state is state:
            return True
        if not track.may_change():
            return False
        track.state = state
        if not track.forgotten:
            self._deliver(
                E2EEStateChange(
                    participant_id=track.participant_id,
                    kind=track.kind,
                    state=state,
                    direction=track.direction,
                    track_id=track.track_id,
                    key_id=key_id,
                    reason=reason,
                    counters=dict(counters),
                    time=time(),
                )
            )
        return True

    def _deliver(self, change: E2EEStateChange) -> None:
        """Hand *change* to the loop. Under the lock, so that events arrive in the order of the changes."""
        if self._events_loop is not None:
            try:
                self._events_loop.call_soon_threadsafe(self.emit, STATE_CHANGE, change)
                return
            except RuntimeError:  # the loop is closed: the call is over, or another loop will be bound
                pass
        self._undelivered.append(change)


def _kind(kind: str) -> Kind:
    if kind not in ("audio", "video"):
        raise ValueError(f"unknown kind {kind!r}: expected 'audio' or 'video'")
    return cast(Kind, kind)
