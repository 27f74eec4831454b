"""Reads a sealed recording with keys: the only module of this room that knows `frameseal.archive`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frameseal.keys.provider import KeyProvider
from frameseal.tools.opening.frames import OpenedFrame

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


def opened_frames(location: str | Path, providers: Sequence[KeyProvider]) -> Iterator[OpenedFrame]:
    """Yield the frames of an archive in their order, opened where a key opens them.

    :param providers: in the order of time, where keys were replaced under their own id.
    :raises ModuleNotFoundError: pyarrow is missing.
    :raises Exception: as `frameseal.archive.read` does, for an archive that cannot be read.
    """
    archive = importlib.import_module("frameseal.archive")
    pa = importlib.import_module("pyarrow")
    opener = archive.Opener(list(providers))
    for batch in archive.read(location):
        yield from frames_of(opener(pa.Table.from_batches([batch])))


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
