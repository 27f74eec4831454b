"""Lists, verifies and repairs an archive. None of it needs a key, and none shows that a frame is authentic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow.compute as pc
import pyarrow.fs as pafs

from frameseal.archive.places import PARQUET, SPOOL, Place, Segment, missing_error, numbers_missing, place_of, quoted
from frameseal.archive.reader import open_parquet, segment_batches
from frameseal.archive.schema import SCHEMA, UNREADABLE, ArchiveError
from frameseal.archive.spool import RecordingLock
from frameseal.archive.writer import remove_half_made, seal_spool


@dataclass(slots=True)
class Recording:
    """One recording of an archive, and what is wrong with it."""

    name: str
    segments: int = 0
    spools: int = 0
    """Segments that are not Parquet yet: a recorder writes them, or was killed."""
    frames: int = 0
    sealed_bytes: int = 0
    """The length of all sealed frames. `recordings` returns the size of the files, which is a little more."""
    gaps: int = 0
    first: datetime | None = None
    """The first arrival, or None without a frame."""
    last: datetime | None = None
    participants: set[str] = field(default_factory=set)
    is_closed: bool = False
    """True if the recorder closed the recording behind the last segment.

    With False a recorder still writes, or was killed, or the last segments were removed.
    """
    sha256: str = ""
    """The SHA-256 of the last Parquet segment, which covers all segments before it. Empty without a segment, and if
    the archive was listed only.

    Keep it elsewhere: whoever can write to the archive can compute the chain anew.
    """
    problems: list[ArchiveError] = field(default_factory=list)


LISTED: Final = ("recording", "participant", "arrival", "gap")
"""The columns that a list of the recordings needs."""

_Look = Callable[[Recording, Place, Segment], None]


def recordings(
    location: str | Path, *, filesystem: pafs.FileSystem | None = None, spool: str | Path | None = None
) -> tuple[list[Recording], list[ArchiveError]]:
    """List the recordings of an archive, and the problems that belong to none of them.

    It reads no sealed frame of a Parquet segment and computes no hash. So it sees fewer problems than `verify`.

    :param location: as for `ArchiveWriter`, like *filesystem* and *spool*.
    :raises FileNotFoundError: there is no archive at *location*.
    :raises TypeError, ValueError: as `read` does.
    """
    return _recordings(place_of(location, filesystem, spool), _list_parquet, LISTED)


def verify(
    location: str | Path, *, filesystem: pafs.FileSystem | None = None, spool: str | Path | None = None
) -> tuple[list[Recording], list[ArchiveError]]:
    """Read a whole archive and check it. Return its recordings, and the problems that belong to none of them.

    It checks that every row can be read and belongs to its recording, that no number is missing, and that each segment
    holds the SHA-256 of the one before.

    :param location: as for `ArchiveWriter`, like *filesystem* and *spool*.
    :raises FileNotFoundError: there is no archive at *location*.
    :raises TypeError, ValueError: as `read` does.
    """
    return _recordings(place_of(location, filesystem, spool), _check_chain, SCHEMA.names)


def _recordings(place: Place, look_at: _Look, columns: Sequence[str]) -> tuple[list[Recording], list[ArchiveError]]:
    segments = place.segments()
    strangers = [ArchiveError(name, "not a segment of this archive, or a damaged spool") for name in place.strangers]
    found: dict[str, Recording] = {}
    for segment in segments:
        recording = found.setdefault(segment.recording, Recording(segment.recording))
        _add(recording, place, segment, look_at, columns)
    for segment in numbers_missing(segments):
        found[segment.recording].problems.append(missing_error(segment))
    return list(found.values()), strangers


def _add(recording: Recording, place: Place, segment: Segment, look_at: _Look, columns: Sequence[str]) -> None:
    """Add a segment to the figures and problems of its recording. Segments arrive in order.

    :param look_at: is called with a Parquet segment first.
    :param columns: the columns to read.
    """
    recording.segments += 1
    recording.spools += segment.form == SPOOL
    try:
        if segment.form == PARQUET:
            look_at(recording, place, segment)
        for batch in segment_batches(place, segment, columns=columns, report=recording.problems.append):
            recording.frames += batch.num_rows
            if "sealed" in batch.schema.names:
                recording.sealed_bytes += pc.sum(pc.binary_length(batch.column("sealed"))).as_py() or 0
            recording.gaps += batch.column("gap").true_count
            recording.participants |= set(batch.column("participant").dictionary.to_pylist())
            if batch.num_rows:
                arrivals = pc.min_max(batch.column("arrival")).as_py()  # a clock that was set back is no defect
                recording.first = min(recording.first or arrivals["min"], arrivals["min"])
                recording.last = max(recording.last or arrivals["max"], arrivals["max"])
    except ArchiveError as error:
        recording.problems.append(error)
    except UNREADABLE:  # such as a time that no calendar has
        recording.problems.append(ArchiveError(segment.file, "the rows are damaged"))


def _list_parquet(recording: Recording, place: Place, segment: Segment) -> None:
    with place.open(segment) as source:
        file = open_parquet(segment, source)
        recording.is_closed = file.schema_arrow.metadata.get(b"frameseal_final") == b"1"
        # pyarrow ends the process if the sizes of columns are asked for, and the footer contradicts itself.
        recording.sealed_bytes += source.size()


def _check_chain(recording: Recording, place: Place, segment: Segment) -> None:
    before, recording.sha256 = recording.sha256, place.sha256(segment)
    with place.open(segment) as source:
        metadata = open_parquet(segment, source).schema_arrow.metadata
    recording.is_closed = metadata.get(b"frameseal_final") == b"1"
    if metadata.get(b"frameseal_previous") != before.encode():
        recording.problems.append(
            ArchiveError(segment.file, "the hash of the segment before is another: one of the two was exchanged")
        )


def repair(
    location: str | Path, *, filesystem: pafs.FileSystem | None = None, spool: str | Path | None = None
) -> list[str]:
    """Turn the spools of killed recorders into segments. Return the names of the segments.

    A recording that somebody writes at this moment stays as it is. Files that a killed recorder has left half made are
    removed: their rows are in the spool.

    :param location: as for `ArchiveWriter`, like *filesystem* and *spool*.
    :raises FileNotFoundError: there is no archive at *location*.
    :raises OSError: a file cannot be read or written. The spool is kept.
    """
    place = place_of(location, filesystem, spool)
    made = []
    for recording in sorted({each.recording for each in place.segments()}):
        if not place.spools.is_dir():
            break
        try:
            lock = RecordingLock(place.spools / f".{quoted(recording)}.lock")
        except BlockingIOError:
            continue
        try:
            made += _repair(place, recording)
        finally:
            lock.release()
    return made


def _repair(place: Place, recording: str) -> list[str]:
    remove_half_made(place, recording)
    made = []
    for segment in place.segments():
        if segment.recording == recording and segment.form == SPOOL:
            seal_spool(place, segment)
            made.append(segment.as_parquet().file)
    return made
