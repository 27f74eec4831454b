"""Reading: order, filters, flat memory, and archives that are damaged, exchanged or still written."""

import os
import subprocess
import sys
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from frameseal.archive import SCHEMA, ArchiveError, ArchiveWriter, read
from support.archives import START, Sender, archive, call, provider, rewrite, table


def test_frames_are_read_as_they_were_written(tmp_path):
    frames = list(call(Sender(provider()), 50))
    batches = list(read(archive(tmp_path, frames, segments=3)))
    assert all(batch.schema.equals(SCHEMA, check_metadata=True) for batch in batches)
    assert [row["sealed"] for batch in batches for row in batch.to_pylist()] == [each.sealed for each in frames]


def test_a_recording_is_read_while_it_is_written(tmp_path):
    sender = Sender(provider())
    with ArchiveWriter(tmp_path, "room") as writer:
        for frame in call(sender, 10):
            writer.write(frame)
        writer.flush()
        assert sum(batch.num_rows for batch in read(tmp_path)) == 10


def test_a_spool_that_becomes_parquet_meanwhile_is_read_once(tmp_path):
    writer = ArchiveWriter(tmp_path, "room")
    for frame in call(Sender(provider()), 10):
        writer.write(frame)
    writer.flush()
    batches = read(tmp_path)  # the list of segments is made, and no file is open
    writer.close()
    assert sum(batch.num_rows for batch in batches) == 10


def test_recordings_participants_kinds_and_times_are_filtered(tmp_path):
    keys = provider()
    archive(tmp_path, [*call(Sender(keys), 20), *call(Sender(keys, "bob"), 20)], "b", segments=2)
    archive(tmp_path, call(Sender(keys), 6), "a")

    def found(**chosen):
        rows = table(read(tmp_path, **chosen)).to_pylist()
        return [(row["recording"], row["participant"], row["kind"]) for row in rows]

    assert [name for name, _, _ in found()] == ["a"] * 6 + ["b"] * 40
    assert found(recordings=["a"]) == found()[:6]
    assert set(found(participants=["bob"])) == {("b", "bob", "audio"), ("b", "bob", "video")}
    assert len(found(participants=["alice", "bob"], kinds=["video"], recordings=["b"])) == 20
    since, until = START + timedelta(milliseconds=40), START + timedelta(milliseconds=100)
    arrivals = table(read(tmp_path, since=since, until=until, recordings=["a"])).column("arrival").to_pylist()
    assert arrivals == [START + timedelta(milliseconds=each) for each in (40, 60, 80)]
    assert list(read(tmp_path, participants=[])) == list(read(tmp_path, since=START + timedelta(days=1))) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"participants": "alice"}, TypeError),
        ({"kinds": [1]}, TypeError),
        ({"recordings": 3}, TypeError),
        ({"since": START.replace(tzinfo=None)}, ValueError),
        ({"until": 0}, TypeError),
    ],
)
def test_a_wrong_filter_is_refused_at_once(tmp_path, options, error):
    archive(tmp_path, call(Sender(provider()), 2))
    with pytest.raises(error, match=next(iter(options))):
        read(tmp_path, **options)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def of_another_recording(path):
    rewrite(
        path, lambda found: found.set_column(0, "recording", [pa.array(["other"] * len(found)).dictionary_encode()])
    )


def with_wrong_types(path):
    rewrite(path, lambda found: found.set_column(6, "ssrc", found["ssrc"].cast(pa.string())))


def exchanged(path):
    path.write_bytes((path.parent / "room.00000000.parquet").read_bytes())


def foreign(path):
    pa.parquet.write_table(pa.table({"a": [1]}), path)


def damaged_within(path):
    content = bytearray(path.read_bytes())
    content[4:400] = os.urandom(396)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "truncated"),
        (empty, "not a Parquet file"),
        (of_another_recording, "row 0: the row belongs to another recording"),
        (with_wrong_types, "column ssrc must be uint32"),
        (exchanged, "another number than its name"),
        (foreign, "not a part of an archive"),
        (damaged_within, r"damaged|another recording"),
        (lambda path: path.unlink(), "the segment is missing"),
    ],
)
def test_a_bad_segment_is_named_and_all_others_open(tmp_path, harm, words):
    frames = list(call(Sender(provider()), 30))
    archive(tmp_path, frames, segments=3)
    harm(tmp_path / "room.00000001.parquet")
    with pytest.raises(ArchiveError, match=words) as caught:
        list(read(tmp_path))
    assert caught.value.file == "room.00000001.parquet"
    errors = []
    rows = table(read(tmp_path, on_error=errors.append)).to_pylist()
    assert [row["sealed"] for row in rows] == [each.sealed for each in frames[:10] + frames[20:]]
    assert [error.file for error in errors] == ["room.00000001.parquet"]


def test_a_foreign_parquet_file_is_reported_and_everything_else_opens(tmp_path):
    archive(tmp_path, call(Sender(provider()), 4))
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1")
    errors = []
    assert sum(batch.num_rows for batch in read(tmp_path, on_error=errors.append)) == 4
    assert [error.file for error in errors] == ["part-0.parquet"]
    with pytest.raises(ArchiveError, match="part-0"):
        list(read(tmp_path))


READER = """
import resource, sys
from frameseal.archive import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(batch.num_rows for batch in read(sys.argv[1]))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_stays_flat_on_an_archive_that_is_larger(tmp_path):
    """A row group has 8 MiB. Reading 160 MiB may hold some of them, and what Arrow's allocator keeps."""
    sender = Sender(provider())
    big = [sender.video(os.urandom(200_000)) for _ in range(200)]
    with ArchiveWriter(tmp_path, "room", segment_bytes=64 << 20) as writer:
        for _ in range(4):
            for frame in big:
                writer.write(frame)
    done = subprocess.run([sys.executable, "-c", READER, tmp_path], capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == 800
    assert grown < 100, "MiB"


def test_a_filter_skips_row_groups_by_their_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.archive.spool.ROW_GROUP_ROWS", 10)
    frames = list(call(Sender(provider()), 40))
    with ArchiveWriter(tmp_path, "room") as writer:
        for start in range(0, 40, 10):
            for frame in frames[start : start + 10]:
                writer.write(frame)
            writer.flush()
    path = tmp_path / "room.00000000.parquet"
    second = pa.parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[4:second] = bytes(second - 4)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="row 0"):
        list(read(tmp_path))
    found = table(read(tmp_path, since=frames[35].arrival))
    assert found.num_rows == 5
    assert pc.min(found["arrival"]).as_py() == frames[35].arrival
