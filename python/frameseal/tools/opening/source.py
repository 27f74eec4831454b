"""Reads a sealed recording with keys: the only module of this room that knows `frameseal.archive`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frameseal.keys.provider import KeyProvider
from frameseal.tools.opening.frames import OpenedFrame

if TYPE_CHECKING:
    import pyarrow

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

    :param providers: tried in order. The next one is tried for the rows that the ones before did not open.
    :raises ModuleNotFoundError: pyarrow is missing.
    :raises Exception: as `frameseal.archive.read` does, for an archive that cannot be read.
    """
    archive = importlib.import_module("frameseal.archive")
    pa = importlib.import_module("pyarrow")
    openers = [archive.Opener(provider) for provider in providers]
    for batch in archive.read(location):
        table = pa.Table.from_batches([batch])
        yield from frames_of(_opened(table, openers))


def _opened(table: Any, openers: Sequence[Any]) -> pyarrow.Table:
    """Return the table with the columns frame, opened and reason, from the first opener that opens each row."""
    pa, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    result = openers[0](table)
    for opener in openers[1:]:
        failed = compute.invert(result["opened"])
        if not compute.any(failed).as_py():
            break
        rows = pa.array([row for row, is_failed in enumerate(failed.to_pylist()) if is_failed], pa.int64())
        again = opener(table.take(rows))
        # Rows that open now replace their former selves. The order is the table's.
        chosen = list(range(len(table)))
        for place, (row, is_open) in enumerate(zip(rows.to_pylist(), again["opened"].to_pylist(), strict=True)):
            if is_open:
                chosen[row] = len(table) + place
        result = pa.concat_tables([result, again.cast(result.schema)]).take(pa.array(chosen, pa.int64()))
    return result


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
