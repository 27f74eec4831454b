"""Reading: order, filters, flat memory, and archives that are damaged, exchanged or still written."""

import os
import subprocess
import sys
import threading
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from frameseal.archive import SCHEMA, ArchiveError, ArchiveWriter, read, recording_ids, schema, verify
from support.archives import START, Sender, archive, call, provider, rewrite, table


def test_frames_are_read_as_they_were_written(tmp_path):
    frames = list(call(Sender(provider()), 50))
    batches = list(read(archive(tmp_path, frames, segments=3)))
    assert all(batch.schema.equals(SCHEMA, check_metadata=True) for batch in batches)
    assert [row["sealed"] for batch in batches for row in batch.to_pylist()] == [each.sealed for each in frames]


def test_the_recordings_of_an_archive_are_listed_from_the_names_of_its_files(tmp_path):
    for name in ("weekly: b/c", "daily"):
        archive(tmp_path, call(Sender(provider()), 2), name, segments=2)
    (tmp_path / "daily.00000000.parquet").write_bytes(b"not opened")
    with ArchiveWriter(tmp_path, "running"):
        assert recording_ids(tmp_path) == ["daily", "running", "weekly: b/c"]
    with pytest.raises(FileNotFoundError):
        recording_ids(tmp_path / "none")


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


def with_null(name):
    def harm(path):
        def change(found):
            values = [None if at == 3 else value for at, value in enumerate(found[name].to_pylist())]
            kind = found.schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            return found.set_column(found.schema.get_field_index(name), name, pa.array(values, kind))

        rewrite(path, change)

    return harm


def with_times_of_no_calendar(path):
    times = pa.array([0, 0, 2**62, *[0] * 7], pa.timestamp("us", "UTC"))
    rewrite(path, lambda found: found.set_column(9, "arrival", times))


def with_letters_of_no_alphabet(path):
    offsets = pa.array(range(0, 22, 2), pa.int32()).buffers()[1]
    names = pa.Array.from_buffers(pa.string(), 10, [None, offsets, pa.py_buffer(b"\xff\xfe" * 10)])
    rewrite(path, lambda found: found.set_column(1, "participant", names))


def with_a_column_twice(path):
    rewrite(path, lambda found: found.append_column("sealed", found["sealed"]))


def with_a_footer_of_two_gigabytes(path):
    content = path.read_bytes()
    path.write_bytes(content[:-8] + (2**31 - 1).to_bytes(4, "little") + content[-4:])


def with_a_folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "truncated"),
        *((with_null(name), f"row 3: the column {name} must not be null") for name in ("track", "gap", "sealed")),
        (with_times_of_no_calendar, "row 2: the column arrival must be between the years 1 and 9999"),
        (with_letters_of_no_alphabet, "row 0: the rows are damaged"),
        (with_a_column_twice, "column sealed is missing, or stands there twice"),
        (with_a_footer_of_two_gigabytes, "truncated"),
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


def a_file(path):
    path.write_bytes(b"PAR1")


@pytest.mark.parametrize("make", [a_file, os.mkdir])
def test_what_is_no_segment_is_reported_and_everything_else_opens(tmp_path, make):
    archive(tmp_path, call(Sender(provider()), 4))
    make(tmp_path / "part-0.parquet")
    errors = []
    assert sum(batch.num_rows for batch in read(tmp_path, on_error=errors.append)) == 4
    assert [error.file for error in errors] == ["part-0.parquet"]
    with pytest.raises(ArchiveError, match="part-0"):
        list(read(tmp_path))


def test_a_folder_in_the_place_of_a_segment_is_reported(tmp_path):
    frames = list(call(Sender(provider()), 30))
    archive(tmp_path, frames, segments=3)
    with_a_folder_instead(tmp_path / "room.00000001.parquet")
    errors = []
    assert table(read(tmp_path, on_error=errors.append)).num_rows == 20
    assert [str(error).partition(": ")[2][:14] for error in errors] == ["not a segment ", "the segment is"]


def in_row_groups(folder, frames):
    """Write a segment that has a row group for each ten frames, if `ROW_GROUP_ROWS` is 10. Return its path."""
    with ArchiveWriter(folder, "room") as writer:
        for start in range(0, len(frames), 10):
            for frame in frames[start : start + 10]:
                writer.write(frame)
            writer.flush()
    return folder / "room.00000000.parquet"


def test_damage_costs_its_row_group_and_the_next_one_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.archive.spool.ROW_GROUP_ROWS", 10)
    frames = list(call(Sender(provider()), 30))
    path = in_row_groups(tmp_path, frames)
    second = pa.parquet.ParquetFile(path).metadata.row_group(1).column(13).data_page_offset
    content = bytearray(path.read_bytes())
    content[second : second + 40] = bytes(40)
    path.write_bytes(content)
    errors = []
    rows = table(read(tmp_path, on_error=errors.append)).to_pylist()
    assert [row["sealed"] for row in rows] == [each.sealed for each in frames[:10] + frames[20:]]
    assert [(error.file, error.row) for error in errors] == [("room.00000000.parquet", 10)]
    (room,), _ = verify(tmp_path)
    assert (room.frames, [error.row for error in room.problems]) == (20, [10])


HARMED = """
import sys
from pathlib import Path
import pyarrow as pa
from frameseal.archive import Opener, read, recordings, verify
from support.archives import START, provider
path = Path(sys.argv[1]) / "room.00000001.parquet"
whole = path.read_bytes()
kind = whole.index(b"\x15\x0c\x19", whole.rindex(b"PAR1", 0, -4))  # the type of a column, in the footer
places = [(kind + 1, 0x7F), *((at, value) for at in range(4, len(whole), 149) for value in (0, 0x7F, 0xFF))]
for at, value in places:
    path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    opener, errors = Opener(provider()), []
    for batch in read(sys.argv[1], on_error=errors.append):
        opener(pa.Table.from_batches([batch])).to_pylist()
    for _ in read(sys.argv[1], on_error=errors.append, participants=["alice"], since=START):
        pass
    verify(sys.argv[1]), recordings(sys.argv[1])
print(len(places))
"""


def test_no_damaged_byte_of_a_segment_ends_the_process_or_opens_as_another_error(tmp_path):
    """In a process of its own: pyarrow has functions that abort where a footer contradicts itself."""
    archive(tmp_path, call(Sender(provider()), 30), segments=3)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HARMED, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 50


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


def test_a_filter_does_not_read_the_frames_of_row_groups_without_wanted_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.archive.spool.ROW_GROUP_ROWS", 10)
    frames = list(call(Sender(provider()), 40))
    path = in_row_groups(tmp_path, frames)
    groups = pa.parquet.ParquetFile(path).metadata
    first, second = groups.row_group(0).column(13).data_page_offset, groups.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[first : second.dictionary_page_offset] = bytes(second.dictionary_page_offset - first)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="row 0"):
        list(read(tmp_path))
    found = table(read(tmp_path, since=frames[35].arrival))
    assert found.num_rows == 5
    assert pc.min(found["arrival"]).as_py() == frames[35].arrival


def test_reading_ahead_yields_the_same_and_reports_the_same_in_the_callers_thread(tmp_path):
    archive(tmp_path, call(Sender(provider()), 40), segments=4)
    cut(tmp_path / "room.00000002.parquet")
    (tmp_path / "stranger.parquet").write_bytes(b"")

    def found(**options):
        seen = []

        def note(error):
            seen.append((str(error), threading.current_thread()))

        for batch in read(tmp_path, on_error=note, **options):
            seen.append(batch)
        return seen

    alone, ahead = found(), found(read_ahead=True)
    assert len(alone) == 5
    assert ahead == alone
    with pytest.raises(ArchiveError, match=r"stranger\.parquet"):
        next(read(tmp_path, read_ahead=True))


def test_reading_ahead_reads_one_batch_while_the_caller_has_another(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.archive.spool.ROW_GROUP_ROWS", 10)
    in_row_groups(tmp_path, list(call(Sender(provider()), 40)))
    begun = []

    def noting(*arguments, checked=schema.checked):
        begun.append(threading.current_thread())
        return checked(*arguments)

    monkeypatch.setattr("frameseal.archive.reader.checked", noting)
    batches = read(tmp_path, read_ahead=True)
    assert begun == []
    first = next(batches)
    batches.close()  # waits for the thread
    assert first.num_rows == 10 and len(begun) == 2
    assert threading.current_thread() not in begun and not any(thread.is_alive() for thread in begun)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_does_not_wait_for_a_thread_that_its_parent_has(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.archive.spool.ROW_GROUP_ROWS", 10)
    in_row_groups(tmp_path, list(call(Sender(provider()), 40)))
    allowed = threading.Semaphore(2)

    def waiting(*arguments, checked=schema.checked):
        allowed.acquire()
        return checked(*arguments)

    monkeypatch.setattr("frameseal.archive.reader.checked", waiting)
    batches = read(tmp_path, read_ahead=True)
    next(batches)
    next(batches)  # and a thread waits with the third
    child = os.fork()
    if child == 0:
        code = 1
        try:
            next(batches)
        except RuntimeError as error:
            code = 0 if "call read again" in str(error) else 2
        finally:
            os._exit(code)
    allowed.release(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sum(batch.num_rows for batch in batches) == 20


def test_reading_ahead_is_a_bool(tmp_path):
    with pytest.raises(TypeError, match="read_ahead must be a bool, not int"):
        read(archive(tmp_path, call(Sender(provider()), 2)), read_ahead=2)
