"""The rows of an archive: what a frame may say, and what a file must hold to be a part of an archive."""

import dataclasses
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest

from frameseal.archive import SCHEMA, ArchiveError, SealedFrame
from frameseal.archive.schema import SPOOL_SCHEMA, batch_of, check_columns, checked
from support.archives import START, Sender, provider

COLUMNS = [
    "recording",
    "participant",
    "track",
    "kind",
    "codec",
    "profile",
    "ssrc",
    "rtp_timestamp",
    "clock_rate",
    "arrival",
    "key_id",
    "keyframe",
    "gap",
    "sealed",
]


def frame(**columns) -> SealedFrame:
    return Sender(provider()).audio(**columns)


def test_the_columns_are_those_of_the_format():
    assert SCHEMA.names == SPOOL_SCHEMA.names == COLUMNS
    assert SCHEMA.metadata == {b"frameseal_archive": b"1"}
    assert [field.name for field in dataclasses.fields(SealedFrame)] == COLUMNS[1:]


def test_a_row_holds_what_the_frame_says():
    own = frame(ssrc=2**32 - 1, rtp_timestamp=-(2**63), key_id=2**64 - 1, keyframe=False, gap=True)
    row = checked("f", batch_of("room", [own]), "room", 0).to_pylist()[0]
    assert row == {"recording": "room", **dataclasses.asdict(own)}


def test_the_time_of_a_frame_is_exact_to_the_microsecond_in_every_zone():
    late = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
    east = (START + timedelta(microseconds=1)).astimezone(timezone(timedelta(hours=5, minutes=30)))
    arrivals = batch_of("room", [frame(arrival=late), frame(arrival=east)]).column("arrival").to_pylist()
    assert arrivals == [late, START + timedelta(microseconds=1)]


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("participant", None, TypeError),
        ("participant", "\ud83d", ValueError),
        ("kind", "screen", ValueError),
        ("ssrc", 2**32, ValueError),
        ("ssrc", True, TypeError),
        ("rtp_timestamp", 2**63, ValueError),
        ("clock_rate", 0, ValueError),
        ("key_id", -1, ValueError),
        ("arrival", datetime(2026, 1, 1), ValueError),
        ("arrival", 0, TypeError),
        ("keyframe", 1, TypeError),
        ("gap", None, TypeError),
        ("sealed", bytearray(b"x"), TypeError),
    ],
)
def test_a_frame_that_would_spoil_a_batch_is_refused_alone(column, value, error):
    with pytest.raises(error, match=column):
        frame(**{column: value})


def rows(**columns: pa.Array) -> pa.RecordBatch:
    made = checked("f", batch_of("room", [frame(), frame()]), "room", 0)
    for name, column in columns.items():
        made = made.set_column(made.schema.get_field_index(name), name, column)
    return made.replace_schema_metadata(SCHEMA.metadata)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (rows(ssrc=pa.array(["1", "2"])), "column ssrc must be uint32, not string"),
        (rows(sealed=pa.array([b"x", b"y"])), "column sealed must be large_binary, not binary"),
        (rows().drop_columns(["gap"]), "column gap is missing"),
        (rows().replace_schema_metadata({}), "not a part of an archive"),
        (rows().replace_schema_metadata({"frameseal_archive": "2"}), "format must be 1"),
        (rows(sealed=pa.array([b"x", None], pa.large_binary())), "row 11: the column sealed must not be null"),
        (rows(recording=pa.array(["room", "other"])), "row 11: the row belongs to another recording"),
    ],
)
def test_a_batch_that_is_no_part_of_the_archive_is_refused_with_file_and_row(batch, words):
    with pytest.raises(ArchiveError, match=words) as caught:
        checked("folder/room.00000000.parquet", batch, "room", 10)
    assert caught.value.file == "room.00000000.parquet"


def test_a_column_that_stands_there_twice_is_refused():
    batch = rows()
    doubled = pa.schema([*batch.schema, batch.schema.field("sealed")], SCHEMA.metadata)
    with pytest.raises(ArchiveError, match="sealed is missing, or stands there twice"):
        check_columns("f", doubled)


def test_an_error_keeps_file_and_row_when_it_is_pickled():
    error = pickle.loads(pickle.dumps(ArchiveError("f.parquet", "damaged", 3)))
    assert (str(error), error.file, error.row) == ("f.parquet, row 3: damaged", "f.parquet", 3)
