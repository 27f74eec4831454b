"""One table of a call: how each track fares, since when and why. For applications to show, and people to paste.

It holds no key and no media: key ids, counters, times, and the names that the application gave to participants and
tracks.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Final, TypedDict

from frameseal._native import __version__
from frameseal.e2ee.track import HEALTHY, Direction, Kind, sum_counters

if TYPE_CHECKING:
    from frameseal.e2ee.manager import E2EEManager
    from frameseal.e2ee.track import Track
    from frameseal.e2ee.transforms import Transform

VERSION: Final = 1


class TrackReport(TypedDict):
    """One track."""

    participant_id: str
    """Who sends it; this side's own id for what it sends."""
    track_id: str | None
    """The id that the transport gave the track, if any."""
    kind: Kind
    """``"audio"`` or ``"video"``."""
    direction: Direction | None
    """``"send"`` or ``"receive"``; None for an internal error outside any track."""
    codec: str | None
    """Of its transforms, if there are any."""
    state: str | None
    """The `E2EEState`, as text; None before the first frame."""
    reason: str | None
    """As in `E2EEStateChange`."""
    diagnosis: str | None
    """The cause of the last `E2EEDiagnosis`, while the track fails."""
    key_id: int | None
    """The key id concerned. On a failure it is what the frame claimed."""
    keys_set: list[int]
    """The key ids under which there is a key for this track, ascending."""
    since: float | None
    """When the state began, in seconds since the epoch."""
    last_good: float | None
    """When a frame was last sealed or opened, to half a second. None: not yet."""
    counters: dict[str, int]
    """`stats()` of the track's transforms."""


FIELDS: Final = tuple(TrackReport.__annotations__)


class Report(TypedDict):
    """A call."""

    version: int
    """Of this layout: 1."""
    frameseal: str
    """The version of the package."""
    time: float
    """When it was made, in seconds since the epoch."""
    profile: str
    """The wire format."""
    can_encrypt: bool
    """Whether there is a key to send with."""
    tracks: list[TrackReport]
    """By participant, kind, direction and track."""


def report(manager: E2EEManager) -> Report:
    """Return what is known of a manager's tracks now. From any thread."""
    rows = [_row(manager, track, transforms) for track, transforms in manager._in_use()]
    return {
        "version": VERSION,
        "frameseal": __version__,
        "time": time(),
        "profile": manager.profile.value,
        "can_encrypt": manager.is_e2ee_enabled,
        "tracks": sorted(rows, key=_order),
    }


def _order(row: TrackReport) -> tuple[str, ...]:
    return row["participant_id"], row["kind"], str(row["direction"]), str(row["track_id"])


def _row(manager: E2EEManager, track: Track, transforms: list[Transform]) -> TrackReport:
    counters = sum_counters(transform.stats() for transform in transforms)
    track.record_frames(counters.get("frames", 0))
    codecs = sorted({transform.codec for transform in transforms if transform.codec is not None})
    return {
        "participant_id": track.participant_id,
        "track_id": track.track_id,
        "kind": track.kind,
        "direction": track.direction,
        "codec": ", ".join(codecs) or None,
        "state": None if track.state is None else track.state.value,
        "reason": track.reason,
        "diagnosis": None if track.state in HEALTHY else manager._diagnosis_of(track),
        "key_id": track.key_id,
        "keys_set": sorted({key_id for transform in transforms for key_id in transform.ring.key_ids}),
        "since": track.since,
        "last_good": track.last_good,
        "counters": counters,
    }
