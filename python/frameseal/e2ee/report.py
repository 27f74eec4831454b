"""One table of a call: the state of each track, its cause and its start. Applications show it, and people paste it.

It holds no key and no media: key ids, counters, times, and the names that the application chose for participants
and tracks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypedDict

from frameseal._native import __version__
from frameseal.e2ee.track import HEALTHY, Track, TrackTransform, sum_counters
from frameseal.enums import Profile
from frameseal.events import Direction, Kind

VERSION: Final = 1


class TrackReport(TypedDict):
    """One track."""

    participant_id: str
    """The sender. It is this side's own id for a track that is sent."""
    track_id: str | None
    """The id that the transport passed for the track. None if it passed none."""
    kind: Kind
    """``"audio"`` or ``"video"``."""
    direction: Direction | None
    """``"send"`` or ``"receive"``. None marks an internal error outside any track."""
    codec: str | None
    """The codecs of the track's transforms. None without a transform."""
    state: str | None
    """The `E2EEState`, as text. None before the first frame."""
    reason: str | None
    """The reason of the state, as in `E2EEStateChange`."""
    diagnosis: str | None
    """The cause in the last `E2EEDiagnosis`, while the track fails."""
    key_id: int | None
    """The key id concerned. On a failure it is the id that the frame claimed."""
    keys_set: list[int]
    """The ids of the keys for this track, ascending."""
    since: float | None
    """When the state began, in seconds since the epoch."""
    last_good: float | None
    """The time of the last frame that was sealed or opened, within half a second. None before the first frame."""
    counters: dict[str, int]
    """The sum of the ``stats()`` of the track's transforms."""


FIELDS: Final = tuple(TrackReport.__annotations__)


class Report(TypedDict):
    """A call."""

    version: int
    """The version of this layout: 1."""
    frameseal: str
    """The version of the package."""
    time: float
    """When the report was made, in seconds since the epoch."""
    profile: str
    """The wire format."""
    can_encrypt: bool
    """True if there is a key to send with."""
    tracks: list[TrackReport]
    """The tracks, sorted by participant, kind, direction and track id."""


class TrackFacts(NamedTuple):
    """A track as its call knows it."""

    track: Track
    transforms: list[TrackTransform]
    diagnosis: str | None
    """The cause in the last diagnosis. None if there was none."""


def report(profile: Profile, can_encrypt: bool, tracks: Iterable[TrackFacts], time: float) -> Report:
    """Return the report of a call, made at *time* (seconds since the epoch)."""
    return {
        "version": VERSION,
        "frameseal": __version__,
        "time": time,
        "profile": profile.value,
        "can_encrypt": can_encrypt,
        "tracks": sorted((_row(*facts, time) for facts in tracks), key=_order),
    }


def _order(row: TrackReport) -> tuple[str, ...]:
    return row["participant_id"], row["kind"], str(row["direction"]), str(row["track_id"])


def _row(track: Track, transforms: list[TrackTransform], diagnosis: str | None, time: float) -> TrackReport:
    counters = sum_counters(transform.stats() for transform in transforms)
    track.record_frames(counters.get("frames", 0), time)
    codecs = sorted({transform.codec for transform in transforms if transform.codec is not None})
    return {
        "participant_id": track.participant_id,
        "track_id": track.track_id,
        "kind": track.kind,
        "direction": track.direction,
        "codec": ", ".join(codecs) or None,
        "state": None if track.state is None else track.state.value,
        "reason": track.reason,
        "diagnosis": None if track.state in HEALTHY else diagnosis,
        "key_id": track.key_id,
        "keys_set": sorted({key_id for transform in transforms for key_id in transform.ring.key_ids}),
        "since": track.since,
        "last_good": track.last_good,
        "counters": counters,
    }
