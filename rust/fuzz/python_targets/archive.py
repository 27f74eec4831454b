"""Checks the readers of an archive's segments: spools, and the ends of Parquet files.

The first byte of an input chooses the form: a spool, a spool of our own whose bytes are damaged, or Parquet. Arrow is
not instrumented, and an error of its own is no finding as long as the reader reports it as one of the archive.
"""

from datetime import UTC, datetime
from functools import cache

import pyarrow as pa

from frameseal.archive.places import PARQUET, Segment
from frameseal.archive.reader import open_parquet
from frameseal.archive.schema import SCHEMA, SPOOL_SCHEMA, ArchiveError, SealedFrame, batch_of
from frameseal.archive.spool import END, spool_batches

RECORDING = "lesson"


@cache
def spool() -> bytes:
    """Return a spool with two batches of two rows."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    frames = [
        SealedFrame("alice", "t", "audio", "opus", "livekit", 1, at, 48000, moment, 0, True, False, b"sealed")
        for at in range(2)
    ]
    batch = batch_of(RECORDING, frames).serialize().to_pybytes()
    return SPOOL_SCHEMA.serialize().to_pybytes() + batch + batch + END


def check(data: bytes) -> bool:
    """Read a segment. Return True if it has rows."""
    if not data:
        return False
    form, body = data[0] % 3, data[1:]
    if form == 2:
        return _parquet(body)
    if form == 1:
        body = _damaged(body)
    rows = 0
    try:
        for batch in spool_batches("lesson.00000000.arrows", pa.BufferReader(body), RECORDING):
            assert batch.schema.equals(SCHEMA)
            batch.validate(full=True)
            assert set(batch.column("recording").to_pylist()) <= {RECORDING}
            rows += batch.num_rows
    except ArchiveError as error:
        assert error.file == "lesson.00000000.arrows" and str(error)
    return rows > 0


def _damaged(edits: bytes) -> bytes:
    """Return our spool with other bytes at some places: each edit is a place of two bytes and the byte."""
    whole = bytearray(spool())
    for at in range(0, len(edits) - 2, 3):
        whole[int.from_bytes(edits[at : at + 2]) % len(whole)] = edits[at + 2]
    return bytes(whole)


def _parquet(body: bytes) -> bool:
    try:
        file = open_parquet(Segment(RECORDING, 0, PARQUET), pa.BufferReader(body))
    except ArchiveError:
        return False
    return file.num_row_groups >= 0
