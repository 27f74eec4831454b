"""One track of a call, and what listeners are told about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from typing import TYPE_CHECKING, Final, Literal, cast
from weakref import WeakSet

from frameseal.enums import E2EEState

if TYPE_CHECKING:
    from frameseal.e2ee.transforms import Transform

Kind = Literal["audio", "video"]
Direction = Literal["send", "receive"]

# A track that changes state at frame rate must not flood the application: this many changes at once, then one a second.
# Nothing is lost by it: a change that is held back is still a change when the next frame comes, and is reported then.
CHANGE_BURST: Final = 32
CHANGES_PER_SECOND: Final = 1.0

# Seconds after a participant was removed in which frames of theirs are late ones: a jitter buffer holds some so long.
GRACE_PERIOD: Final = 1.0

# The gravest first: what `E2EEManager.state` answers for a participant with several tracks of one kind.
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


@dataclass(frozen=True, slots=True)
class E2EEStateChange:
    """What a listener of ``"e2ee-state-change"`` receives: one track of one participant has changed its state.

    ``"e2ee-stalled"`` and ``"e2ee-injected-frame"`` give one too, with the state as it is.
    """

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

    detail: str | None = None
    """``"recovered"`` on a success that follows a failure; ``"stalled"`` and ``"injected"`` in the events named so;
    otherwise None."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Track:
    """The state of one track in one direction. Changed only under the manager's lock, but for what the watch keeps."""

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
    """Whether the sender says that it does not encrypt, and no frame has opened since."""
    in_doubt: bool = False
    """Whether the transport asks whose frames these are: failures are not this participant's yet."""
    since: float | None = None
    """When the state began, in seconds since the epoch."""
    frames: int = 0
    """Frames that had been sealed or opened when they were last counted."""
    last_good: float | None = None
    """When there were more than before, in seconds since the epoch."""
    allowance: float = CHANGE_BURST
    refilled: float = 0.0
    transforms: WeakSet[Transform] = field(default_factory=WeakSet)

    @property
    def is_live(self) -> bool:
        """Whether a transform is in use, or one is to come for what the sender has announced."""
        return self.declared_plain or bool(self.transforms)

    def may_change(self) -> bool:
        """Take one change from the track's allowance, if there is one left (a token bucket)."""
        now = monotonic()
        self.allowance = min(CHANGE_BURST, self.allowance + (now - self.refilled) * CHANGES_PER_SECOND)
        self.refilled = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    def forget(self) -> None:
        """Take note that the participant has been removed: nothing more is told of this track."""
        self.forgotten, self.state = True, None
        self.grace_ends = monotonic() + GRACE_PERIOD

    def is_late(self) -> bool:
        """Whether a frame that comes now is a late one of somebody who was removed."""
        return self.forgotten and monotonic() < self.grace_ends

    def change(self, state: E2EEState, key_id: int | None, reason: str | None) -> str | None:
        """Take on *state*; return the detail of this change."""
        recovered = state in HEALTHY and self.state is not None and self.state not in HEALTHY
        self.state, self.key_id, self.reason, self.since = state, key_id, reason, time()
        return "recovered" if recovered else None

    def record_frames(self, frames: int) -> None:
        """Take note of how many frames have been sealed or opened: of when the last one was, to half a second."""
        if frames > self.frames:
            self.last_good = time()
        self.frames = frames

    def event(self, counters: Mapping[str, int], detail: str | None) -> E2EEStateChange:
        """Return what listeners are told about the state as it is now."""
        if self.state is None:
            raise RuntimeError("this track has no state yet")
        return E2EEStateChange(
            participant_id=self.participant_id,
            kind=self.kind,
            state=self.state,
            direction=self.direction,
            track_id=self.track_id,
            key_id=self.key_id,
            reason=self.reason,
            counters=dict(counters),
            time=time(),
            detail=detail,
        )


def sum_counters(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add the counters of a track's transforms. What is counted for each key is the same for all of them."""
    total: dict[str, int] = {}
    for each in counters:
        for name, value in each.items():
            before = total.get(name, 0)
            total[name] = max(before, value) if name.startswith("key_") and name != "key_exhausted" else before + value
    return total


def checked_kind(kind: str) -> Kind:
    """Return *kind*. :raises ValueError: if it is neither audio nor video."""
    if kind not in ("audio", "video"):
        raise ValueError("unknown kind: expected 'audio' or 'video'")
    return cast(Kind, kind)
