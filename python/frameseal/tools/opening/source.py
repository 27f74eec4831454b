"""Reads a sealed recording with keys: the only module of this room that knows `frameseal.archive`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from frameseal import archive
from frameseal.keys.provider import KeyProvider
from frameseal.tools.opening.frames import OpenedFrame
from frameseal.tools.opening.hints import Hints
from frameseal.tools.text import printable

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_OTHERS = 20  # other recordings of an archive that are named
MAX_MESSAGE = 400  # characters: the name of a file has up to 255

COLUMNS = (
    "participant",
    "track",
    "kind",
    "codec",
    "ssrc",
    "clock_rate",
    "rtp_timestamp",
    "arrival",
    "key_id",
    "gap",
    "frame",
    "reason",
)


class UnreadableArchive(Exception):
    """There is no archive, or it has no such recording, or cannot be read: the message quotes no address."""


def opened_frames(
    location: str | Path,
    providers: Sequence[KeyProvider],
    report: Callable[[str], None],
    recording: str | None = None,
    hints: Hints | None = None,
) -> Iterator[OpenedFrame]:
    """Return the frames of one recording in their order, opened where a key opens them.

    :param providers: in the order of time, where keys were replaced under their own id.
    :param report: called with each part of the archive that is left out, in words. Reading continues behind it, and the
        next frame of each track has a `gap`.
    :param recording: the id of the recording. None means the first one of the archive.
    :param hints: receives frames that do not open, as long as it wants them.
    :raises UnreadableArchive: there is no archive, or it has no such recording. The iterator raises it if the archive
        cannot be read further.
    """
    problem = ""
    try:
        chosen = _chosen(location, recording, report)
    except (OSError, ValueError) as error:
        problem = _problem(error)
    if problem:
        raise UnreadableArchive(problem)
    return _frames(location, chosen, archive.Opener(list(providers)), report, hints)


def _frames(
    location: str | Path,
    chosen: list[str],
    opener: archive.Opener,
    report: Callable[[str], None],
    hints: Hints | None,
) -> Iterator[OpenedFrame]:
    damages: list[str] = []
    damages_before: dict[tuple[str, str], int] = {}

    def damaged(error: archive.ArchiveError) -> None:
        damages.append(printable(str(error), MAX_MESSAGE))
        report(damages[-1])

    problem = ""
    try:
        for batch in archive.read(location, recordings=chosen, on_error=damaged):
            for row, frame in enumerate(frames_of(opener(pa.Table.from_batches([batch])))):
                if hints is not None and hints.wants(frame):
                    hints.add(frame, batch["profile"][row].as_py(), batch["sealed"][row].as_py())
                place = (frame.participant, frame.track)
                is_first = damages_before.get(place, len(damages)) < len(damages)
                damages_before[place] = len(damages)
                yield replace(frame, gap=True) if is_first else frame
    except (OSError, ValueError) as error:
        problem = _problem(error)
    if problem:
        raise UnreadableArchive(problem)


def _problem(error: OSError | ValueError) -> str:
    """Return what is wrong with an archive, without its address, which may hold a secret."""
    if type(error) in (FileNotFoundError, ValueError):
        return str(error)
    return f"the archive cannot be read further: {getattr(error, 'strerror', None) or 'the location does not answer'}"


def _chosen(location: str | Path, recording: str | None, report: Callable[[str], None]) -> list[str]:
    """Return the recording to open, in a list. Report the other recordings if none was asked for.

    :raises UnreadableArchive: the archive has no such recording.
    """
    ids = archive.recording_ids(location)
    names = [printable(each) for each in ids]
    more = f" and {len(ids) - MAX_OTHERS} more" if len(ids) > MAX_OTHERS else ""
    if recording is None:
        for name in names[1 : MAX_OTHERS + 1]:
            report(f"the archive has another recording, {name}: pass --recording to open it")
        if len(ids) > MAX_OTHERS + 1:
            report(f"the archive has {len(ids) - MAX_OTHERS - 1} more recordings: frameseal archive ls lists them")
    elif recording not in ids:
        listed = ", ".join(names[:MAX_OTHERS]) or "none"
        raise UnreadableArchive(f"the archive has no recording of this id, but: {listed}{more}")
    return ids[:1] if recording is None else [recording]


def frames_of(table: pa.Table) -> Iterator[OpenedFrame]:
    """Yield the rows of an opened table.

    :param table: a `pyarrow.Table` as `frameseal.archive.Opener` returns it.
    """
    columns = [_values(table[name]) for name in COLUMNS]
    opened = table["opened"].to_pylist()
    for row, is_open in zip(zip(*columns, strict=True), opened, strict=True):
        participant, track, kind, codec, ssrc, clock_rate, rtp_timestamp, arrival, key_id, gap, frame, reason = row
        yield OpenedFrame(
            participant=participant,
            track=track,
            kind=kind,
            codec=codec,
            ssrc=ssrc,
            clock_rate=clock_rate,
            rtp_timestamp=rtp_timestamp,
            arrival=arrival,
            key_id=key_id,
            gap=gap,
            # A row counts as opened only if both columns say so.
            frame=frame if is_open else None,
            reason=None if is_open and frame is not None else reason or "unknown",
        )


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column. Names and times are converted here, since `to_pylist` takes long for them."""
    if pa.types.is_dictionary(column.type):
        found = []
        for chunk in column.chunks:
            names = chunk.dictionary.to_pylist()
            found += [names[index] for index in chunk.indices.to_pylist()]
        return found
    if pa.types.is_timestamp(column.type):
        return [EPOCH + timedelta(microseconds=ticks) for ticks in column.cast(pa.int64()).to_pylist()]
    return list(column.to_pylist())
