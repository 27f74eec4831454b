"""A spool that is cut, damaged or foreign, and what becomes of it in Parquet."""

import errno
import os

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from frameseal.archive import SCHEMA, ArchiveError
from frameseal.archive.schema import SPOOL_SCHEMA, batch_of
from frameseal.archive.spool import END, RecordingLock, SpoolWriter, spool_batches, write_parquet
from support.archives import Sender, call, provider, table


def written(path, batches=3, rows=4):
    """Write a spool. Return the offset behind the schema and behind each batch."""
    sender, spool = Sender(provider()), SpoolWriter(path)
    ends = [spool.length]
    for _ in range(batches):
        spool.write(batch_of("room", call(sender, rows)))
        ends.append(spool.length)
    spool.close()
    return ends


def read(path):
    with pafs.LocalFileSystem().open_input_file(str(path)) as source:
        return list(spool_batches(path.name, source, "room"))


def test_a_spool_is_an_arrow_stream_that_others_read(tmp_path):
    path = tmp_path / "room.00000000.arrows"
    written(path)
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        assert stream.schema.equals(SPOOL_SCHEMA, check_metadata=True)
        assert [batch.num_rows for batch in stream] == [4, 4, 4]


def test_a_spool_that_is_cut_anywhere_yields_every_batch_before_the_cut(tmp_path):
    path = tmp_path / "room.00000000.arrows"
    ends = written(path)
    content = path.read_bytes()
    assert len(content) == ends[-1] + len(END)
    for cut in [0, *range(ends[0], len(content) + 1, 37), *ends]:
        path.write_bytes(content[:cut])
        assert len(read(path)) == sum(end <= cut for end in ends[1:]), cut


def test_zeros_behind_a_spool_are_its_end(tmp_path):
    """A file system that loses its power may leave them."""
    path = tmp_path / "room.00000000.arrows"
    ends = written(path)
    path.write_bytes(path.read_bytes()[: ends[2]] + bytes(5000))
    assert len(read(path)) == 2


@pytest.mark.parametrize("damage", [b"\xff" * 8, b"\xff\xff\xff\xff\xff\xff\xff\x80", b"GARBAGE-", b"PAR1PAR1"])
def test_a_damaged_spool_is_reported_with_its_row_behind_what_can_be_read(tmp_path, damage):
    path = tmp_path / "room.00000000.arrows"
    ends = written(path)
    content = bytearray(path.read_bytes())
    content[ends[1] : ends[1] + 8] = damage
    path.write_bytes(content)
    found = []
    with pytest.raises(ArchiveError, match=r"room\.00000000\.arrows, row 4: "), path.open("rb") as file:
        for batch in spool_batches(path.name, pa.PythonFile(file, "r"), "room"):
            found.append(batch)
    assert [batch.num_rows for batch in found] == [4]


def test_no_damaged_byte_crashes_a_reader(tmp_path):
    path = tmp_path / "room.00000000.arrows"
    written(path, batches=2, rows=2)
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            try:
                batches = read(path)
            except ArchiveError:
                continue
            assert sum(batch.num_rows for batch in batches) <= 4
            table(batches).to_pylist() if batches else None


def test_a_file_that_is_no_spool_is_refused(tmp_path):
    path = tmp_path / "room.00000000.arrows"
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ArchiveError, match=r"not a spool|not a part"):
        read(path)


def test_a_full_disk_leaves_the_spool_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "room.00000000.arrows"
    spool, sender = SpoolWriter(path), Sender(provider())
    spool.write(batch_of("room", call(sender, 4)))
    real, length = os.write, path.stat().st_size

    def full(descriptor, data):
        if len(data) <= 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:100])

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "write", full)
        spool.write(batch_of("room", call(sender, 4)))
    assert path.stat().st_size == length
    spool.write(batch_of("room", call(sender, 5)))
    spool.close()
    assert [batch.num_rows for batch in read(path)] == [4, 5]


def test_a_spool_never_replaces_a_file(tmp_path):
    path = tmp_path / "room.00000000.arrows"
    path.write_bytes(b"present")
    with pytest.raises(FileExistsError):
        SpoolWriter(path)
    assert path.read_bytes() == b"present"


def test_a_recording_has_one_writer(tmp_path):
    lock = RecordingLock(tmp_path / ".room.lock")
    with pytest.raises(BlockingIOError, match="somebody else writes"):
        RecordingLock(tmp_path / ".room.lock")
    lock.release()
    RecordingLock(tmp_path / ".room.lock").release()


def test_parquet_holds_every_row_in_bounded_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.archive.spool.ROW_GROUP_ROWS", 8)
    spool, path = tmp_path / "room.00000000.arrows", tmp_path / "room.parquet"
    written(spool, batches=5)
    batches = read(spool)
    digest, rows = write_parquet(path, iter(batches), number=3, previous="ab", is_final=True)
    file = pq.ParquetFile(path)
    assert (rows, len(digest)) == (20, 64)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [8, 8, 4]
    assert file.read().cast(SCHEMA).equals(table(batches).cast(SCHEMA))
    assert {name: value for name, value in file.schema_arrow.metadata.items() if name != b"ARROW:schema"} == {
        b"frameseal_archive": b"1",
        b"frameseal_segment": b"3",
        b"frameseal_previous": b"ab",
        b"frameseal_final": b"1",
    }


def test_ciphertext_is_stored_as_it_is_and_has_no_statistics(tmp_path):
    spool, path = tmp_path / "room.00000000.arrows", tmp_path / "room.parquet"
    written(spool)
    write_parquet(path, iter(read(spool)), number=0, previous="", is_final=False)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    assert columns["sealed"].compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in columns["sealed"].encodings
    assert columns["sealed"].statistics is None
    assert columns["arrival"].statistics.has_min_max
