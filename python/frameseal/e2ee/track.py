"""One track of a call: its state, and the protocols between its transforms and the call.

Nothing here reads a clock: the caller passes the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, cast
from weakref import WeakSet

from frameseal._rates import TokenBucket
from frameseal.enums import E2EEState
from frameseal.events import Direction, E2EEInjectedFrame, E2EEStalled, E2EEStateChange, Kind

if TYPE_CHECKING:
    from frameseal._native import KeyRing

# Rate limit of state changes per track, a token bucket: a track that flaps at frame rate must not flood the
# application. No change is lost: a change that is held back is reported with the next frame that confirms it.
CHANGE_BURST: Final = 32
CHANGES_PER_SECOND: Final = 1.0

# Seconds in which frames of a removed participant count as late ones: a jitter buffer still holds them.
GRACE_PERIOD: Final = 1.0

# Seconds between two requests for one missing key.
KEY_REQUEST_INTERVAL: Final = 5.0

# The states in descending severity: `E2EEManager.state` returns the most severe one of several tracks.
SEVERITY: Final = (
    E2EEState.InternalError,
    E2EEState.InvalidKey,
    E2EEState.EncryptionFailed,
    E2EEState.DecryptionFailed,
    E2EEState.MissingKey,
    E2EEState.EncryptionSuccess,
    E2EEState.DecryptionSuccess,
)

HEALTHY: Final = frozenset({E2EEState.EncryptionSuccess, E2EEState.DecryptionSuccess})

# States that a frame of another participant can cause.
DOUBTFUL: Final = frozenset({E2EEState.MissingKey, E2EEState.DecryptionFailed, E2EEState.InvalidKey})


class TrackTransform(Protocol):
    """The part of a transform that its track and its call use."""

    track: Track
    codec: str | None

    @property
    def ring(self) -> KeyRing:
        """Return the ring whose keys the transform uses."""

    def stats(self) -> dict[str, int]:
        """Return the counters of the transform's cipher."""


class TrackReporter(Protocol):
    """Receives the outcome of frames from transforms. `frameseal.e2ee.call.CallState` implements it.

    Every method may be called from any thread, and returns at once.
    """

    def now(self) -> float:
        """Return the time in seconds, from a monotonic clock."""

    def report_state(
        self,
        transform: TrackTransform,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        """Bring the transform's track to *state*. Returns False if the change must be reported again."""

    def report_failed_frame(self, transform: TrackTransform, frame: bytes) -> None:
        """Record how a frame that failed begins and ends, for a diagnosis."""

    def report_undecryptable(
        self, transform: TrackTransform, frame: bytes, key_id: int | None, *, missing: bool
    ) -> None:
        """Diagnose a frame that failed, and derive the ratchet steps that may open the next one.

        :param key_id: the key id that the frame claims, or None if it could not be read.
        :param missing: True if no key has this id.
        """

    def report_missing_key(self, transform: TrackTransform, key_id: int | None) -> None:
        """Request the missing key that a frame names."""

    def report_present_key(self, transform: TrackTransform, key_id: int) -> None:
        """End the shortage of a key: the next one is requested at once."""

    def report_opened(self, transform: TrackTransform) -> None:
        """Forget how earlier frames failed, since one has opened."""

    def report_sif_frame(self, transform: TrackTransform, counters: Mapping[str, int]) -> None:
        """Report a server's blank frame, the first one since a sealed frame."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Track:
    """The state of one track in one direction.

    It changes only under the lock of its call, except for `frames` and `last_good`, which the monitor writes.
    """

    participant_id: str
    kind: Kind
    direction: Direction | None
    track_id: str | None
    state: E2EEState | None = None
    key_id: int | None = None
    reason: str | None = None
    forgotten: bool = False
    grace_ends: float = 0.0
    declared_plain: bool = False
    """True if the sender declares that it does not encrypt, and no frame has opened since."""
    in_doubt: bool = False
    """True while the transport determines whose frames these are. Until then failures are not reported."""
    since: float | None = None
    """When the state began, in seconds since the epoch."""
    frames: int = 0
    """Frames sealed or opened at the last count."""
    last_good: float | None = None
    """When a count last found more frames than before, in seconds since the epoch."""
    changes: TokenBucket = field(default_factory=lambda: TokenBucket(CHANGE_BURST, CHANGES_PER_SECOND))
    transforms: WeakSet[TrackTransform] = field(default_factory=WeakSet)

    @property
    def is_live(self) -> bool:
        """True if a transform uses the track, or its sender has declared it before its first frame."""
        return self.declared_plain or bool(self.transforms)

    def forget(self, now: float) -> None:
        """Drop the state, since the participant or the track was removed. The track reports nothing from now on."""
        self.forgotten, self.state = True, None
        self.grace_ends = now + GRACE_PERIOD

    def is_late(self, now: float) -> bool:
        """Return whether a frame that arrives now is a late one of a removed participant."""
        return self.forgotten and now < self.grace_ends

    def change(self, state: E2EEState, key_id: int | None, reason: str | None, time: float) -> str | None:
        """Change to *state*. Returns ``"recovered"`` after a failure, otherwise None."""
        recovered = state in HEALTHY and self.state is not None and self.state not in HEALTHY
        self.state, self.key_id, self.reason, self.since = state, key_id, reason, time
        return "recovered" if recovered else None

    def record_frames(self, frames: int, time: float) -> None:
        """Record how many frames have been sealed or opened so far, as counted at *time*."""
        if frames > self.frames:
            self.last_good = time
        self.frames = frames

    def state_change(self, counters: Mapping[str, int], detail: str | None, time: float) -> E2EEStateChange:
        """Return the event for a change to the present state."""
        return E2EEStateChange(
            participant_id=self.participant_id,
            kind=self.kind,
            state=self._known_state(),
            direction=self.direction,
            track_id=self.track_id,
            key_id=self.key_id,
            reason=self.reason,
            counters=dict(counters),
            time=time,
            detail=detail,
        )

    def stalled(self, counters: Mapping[str, int], time: float) -> E2EEStalled:
        """Return the event for a stall in the present state."""
        return E2EEStalled(
            participant_id=self.participant_id,
            kind=self.kind,
            track_id=self.track_id,
            state=self._known_state(),
            key_id=self.key_id,
            reason=self.reason,
            counters=dict(counters),
            time=time,
        )

    def injected_frame(self, counters: Mapping[str, int], time: float) -> E2EEInjectedFrame:
        """Return the event for a server's blank frame."""
        return E2EEInjectedFrame(
            participant_id=self.participant_id,
            kind=self.kind,
            track_id=self.track_id,
            counters=dict(counters),
            time=time,
        )

    def _known_state(self) -> E2EEState:
        if self.state is None:
            raise RuntimeError("this track has no state yet")
        return self.state


def most_severe(states: Iterable[E2EEState | None]) -> E2EEState | None:
    """Return the most severe of these states. Returns None if no track has a state yet."""
    known = set(states)
    return next((state for state in SEVERITY if state in known), None)


def sum_counters(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up the counters of a track's transforms.

    The transforms share the counters of a key. Of these, the result is the maximum.
    """
    total: dict[str, int] = {}
    for each in counters:
        for name, value in each.items():
            before = total.get(name, 0)
            total[name] = max(before, value) if name.startswith("key_") and name != "key_exhausted" else before + value
    return total


def checked_kind(kind: str) -> Kind:
    """Return *kind*.

    :raises ValueError: if it is neither ``"audio"`` nor ``"video"``.
    """
    if kind not in ("audio", "video"):
        raise ValueError("kind must be 'audio' or 'video'")
    return cast(Kind, kind)
