"""The rows of an archive: one for each sealed frame, in Arrow's types. The names of the columns are the format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from frameseal._secrecy import utf8

FORMAT: Final = "1"
"""The value of ``frameseal_archive`` in the metadata of every schema."""

NAMES: Final = ("recording", "participant", "track", "kind", "codec", "profile")
"""The columns that hold names. Few values repeat in many rows."""

UNREADABLE: Final = (pa.ArrowException, OSError, EOFError, MemoryError, ValueError, TypeError, OverflowError)
"""The errors that Arrow raises where the bytes of a file are damaged."""

_KINDS = ("audio", "video")
_NAME = pa.dictionary(pa.int32(), pa.string())

SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, _NAME, nullable=False) for name in NAMES),
        pa.field("ssrc", pa.uint32(), nullable=False),
        pa.field("rtp_timestamp", pa.int64(), nullable=False),
        pa.field("clock_rate", pa.uint32(), nullable=False),
        pa.field("arrival", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("key_id", pa.uint64()),
        pa.field("keyframe", pa.bool_()),
        pa.field("gap", pa.bool_(), nullable=False),
        pa.field("sealed", pa.large_binary(), nullable=False),
    ],
    {"frameseal_archive": FORMAT},
)
"""The schema of the batches that `read` yields."""

SPOOL_SCHEMA: Final = pa.schema(
    [pa.field(field.name, pa.string(), nullable=False) if field.name in NAMES else field for field in SCHEMA],
    SCHEMA.metadata,
)
"""The schema of a spool: names are plain strings. So each batch can be read without the batches before it."""


class ArchiveError(Exception):
    """A part of an archive cannot be read, or is not what the archive says.

    :param file: the name of the file, without its folder. The folder may be an address that holds credentials.
    :param problem: what is wrong, and what to do.
    :param row: the first row of the file that is concerned, or None if that is the whole file.
    """

    def __init__(self, file: str, problem: str, row: int | None = None) -> None:
        self.file, self.problem, self.row = PurePosixPath(file).name, problem, row
        super().__init__(f"{self.file}{'' if row is None else f', row {row}'}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.problem, self.row)


class UnsealedFrame(ValueError):
    """A frame is not sealed in its profile's format. The archive does not accept it, since it may be plaintext."""


@dataclass(frozen=True, slots=True)
class SealedFrame:
    """One whole frame as it left the sender, and what the network says about it: a row of an archive.

    :raises TypeError: an argument is of another type.
    :raises ValueError: an argument is out of its range, or *arrival* has no time zone.
    """

    participant: str
    """The id of the participant who sent the frame."""
    track: str
    kind: str
    """"audio" or "video"."""
    codec: str
    """A name in `frameseal.CODECS`."""
    profile: str
    """A value of `frameseal.Profile`."""
    ssrc: int
    """The RTP SSRC, 0 to 2**32 - 1."""
    rtp_timestamp: int
    """The RTP timestamp in ticks of *clock_rate*, unwrapped: 64 bits, and ascending where the track is."""
    clock_rate: int
    """Ticks per second of the RTP clock, 1 to 2**32 - 1."""
    arrival: datetime
    """The time at which the frame was whole, with a time zone."""
    key_id: int | None
    """The key id that the frame claims, or None if it is empty. The writer reads it from the frame."""
    keyframe: bool | None
    """True if a decoder can start at the frame. None means that its clear bytes do not tell."""
    gap: bool
    """True if frames of the track are known to be missing before this frame."""
    sealed: bytes
    """The frame as it left the sender."""

    def __post_init__(self) -> None:
        for name in (*NAMES[1:],):
            utf8(name, _typed(name, getattr(self, name), str, "a str"))
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}")
        _within("ssrc", self.ssrc, 0, 2**32 - 1)
        _within("rtp_timestamp", self.rtp_timestamp, -(2**63), 2**63 - 1)
        _within("clock_rate", self.clock_rate, 1, 2**32 - 1)
        if self.key_id is not None:
            _within("key_id", self.key_id, 0, 2**64 - 1)
        if _typed("arrival", self.arrival, datetime, "a datetime").utcoffset() is None:
            raise ValueError("arrival must have a time zone: use datetime.now(UTC)")
        if self.keyframe is not None:
            _typed("keyframe", self.keyframe, bool, "a bool or None")
        _typed("gap", self.gap, bool, "a bool")
        _typed("sealed", self.sealed, bytes, "bytes")


def _typed(name: str, value: Any, expected: type, article: str) -> Any:
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be {article}, not {type(value).__name__}")
    return value


def _within(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}")


def batch_of(recording: str, frames: Iterable[SealedFrame]) -> pa.RecordBatch:
    """Return the rows of *frames* in the schema of a spool, in order."""
    rows = list(frames)
    columns: dict[str, list[Any]] = {"recording": [recording] * len(rows)}
    for name in SPOOL_SCHEMA.names[1:]:
        columns[name] = [getattr(frame, name) for frame in rows]
    columns["arrival"] = [_microseconds(arrival) for arrival in columns["arrival"]]
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SPOOL_SCHEMA], schema=SPOOL_SCHEMA)


def _microseconds(moment: datetime) -> int:
    span = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


_FIRST_ARRIVAL: Final = _microseconds(datetime.min.replace(tzinfo=UTC))
_LAST_ARRIVAL: Final = _microseconds(datetime.max.replace(tzinfo=UTC))


def checked(
    file: str, batch: pa.RecordBatch, recording: str, row: int, names: Sequence[str] = SCHEMA.names
) -> pa.RecordBatch:
    """Return a batch of a segment in `SCHEMA`.

    :param file: the name of the segment, for messages.
    :param recording: the recording that the segment's name says.
    :param row: the number of the batch's first row in its segment, for messages.
    :param names: the columns to return, beginning with ``recording``.
    :raises ArchiveError: a column is missing or of another type, or a row belongs to another recording, or arrived in a
        year that a datetime cannot hold.
    :raises pyarrow.ArrowInvalid: offsets, indices or letters are damaged.
    """
    check_columns(file, batch.schema, names)
    batch.validate(full=True)
    schema = pa.schema([SCHEMA.field(name) for name in names], SCHEMA.metadata)
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if field.name in NAMES and not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        column = column.cast(field.type)
        if not field.nullable:
            check_nulls(file, field.name, column, row)
        if field.name == "arrival":
            ticks = column.cast(pa.int64())
            is_outside = pc.or_(pc.less(ticks, _FIRST_ARRIVAL), pc.greater(ticks, _LAST_ARRIVAL))
            if (first := is_outside.index(True).as_py()) >= 0:
                raise ArchiveError(file, "the column arrival must be between the years 1 and 9999", row + first)
        columns.append(column)
    stated = columns[0]
    foreign = [name for name in stated.dictionary.to_pylist() if name != recording]
    if foreign:
        for at, name in enumerate(stated.to_pylist()):
            if name != recording:
                raise ArchiveError(file, "the row belongs to another recording: was the file renamed?", row + at)
    return pa.record_batch(columns, schema=schema)


def check_nulls(file: str, name: str, column: pa.Array, row: int) -> None:
    """Check that a column of a batch has no null.

    :param row: the number of the batch's first row in its file, for messages.
    :raises ArchiveError: it has one.
    """
    if column.null_count:
        first = column.is_null().index(True).as_py()
        raise ArchiveError(file, f"the column {name} must not be null", row + first)


def check_columns(file: str, schema: pa.Schema, names: Iterable[str] = SCHEMA.names) -> None:
    """Check that a file holds the rows of an archive.

    :param names: the columns to look for.
    :raises ArchiveError: the metadata do not name this format, or a column is missing or of another type.
    """
    stated = (schema.metadata or {}).get(b"frameseal_archive")
    if stated is None:
        raise ArchiveError(file, "not a part of an archive: its schema has no frameseal_archive")
    if stated != FORMAT.encode():
        raise ArchiveError(file, f"the archive's format must be {FORMAT}: use the frameseal that wrote it, or a newer")
    for name in names:
        wanted = SCHEMA.field(name).type
        if schema.get_field_index(name) < 0:
            raise ArchiveError(file, f"the column {name} is missing, or stands there twice")
        found = schema.field(name).type
        if name in NAMES and pa.types.is_dictionary(found):
            found = found.value_type
        if found != wanted and not (name in NAMES and (pa.types.is_string(found) or pa.types.is_large_string(found))):
            raise ArchiveError(file, f"the column {name} must be {wanted}, not {found}")
