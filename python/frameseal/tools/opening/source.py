"""Reads a sealed recording with keys: the only module of this room that knows `frameseal.archive`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frameseal.keys.provider import KeyProvider
from frameseal.tools.opening.frames import OpenedFrame
from frameseal.tools.opening.text import printable

MAX_OTHERS = 20  # other recordings of an archive that are named

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


def opened_frames(
    location: str | Path,
    providers: Sequence[KeyProvider],
    report: Callable[[str], None],
    recording: str | None = None,
) -> Iterator[OpenedFrame]:
    """Yield the frames of one recording in their order, opened where a key opens them.

    :param providers: in the order of time, where keys were replaced under their own id.
    :param report: called with each part of the archive that is left out, in words. Reading continues behind it, and the
        next frame of each track has a `gap`.
    :param recording: the id of the recording. None means the first one of the archive.
    :raises ModuleNotFoundError: pyarrow is missing.
    :raises Exception: as `frameseal.archive.read` does, for an archive that cannot be read.
    """
    archive = importlib.import_module("frameseal.archive")
    pa = importlib.import_module("pyarrow")
    opener = archive.Opener(list(providers))
    chosen = None if recording is None else [recording]
    others: set[str] = set()
    damages: list[str] = []
    damages_before: dict[tuple[str, str], int] = {}

    def damaged(error: Exception) -> None:
        damages.append(str(error))
        report(str(error))

    for batch in archive.read(location, recordings=chosen, on_error=damaged):
        # A batch holds rows of one recording.
        of = str(batch.column("recording")[0]) if batch.num_rows else recording or ""
        recording = of if recording is None else recording
        if of == recording:
            for frame in frames_of(opener(pa.Table.from_batches([batch]))):
                place = (frame.participant, frame.track)
                is_first = damages_before.get(place, len(damages)) < len(damages)
                damages_before[place] = len(damages)
                yield replace(frame, gap=True) if is_first else frame
        elif of not in others and len(others) < MAX_OTHERS:
            others.add(of)
            report(f"the archive has another recording, {printable(of)}: pass --recording to open it")


def frames_of(table: Any) -> Iterator[OpenedFrame]:
    """Yield the rows of an opened table.

    :param table: a `pyarrow.Table` as `frameseal.archive.Opener` returns it.
    """
    columns = [table[name].to_pylist() for name in COLUMNS]
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
            arrival=arrival if isinstance(arrival, datetime) else datetime.fromtimestamp(0, UTC),
            key_id=key_id,
            gap=gap,
            # A row counts as opened only if both columns say so.
            frame=frame if is_open else None,
            reason=None if is_open and frame is not None else reason or "unknown",
        )
