"""Writing: what a kill costs, full disks, forks, other writers, uploads that fail, and no plaintext on disk."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pyarrow.fs as pafs
import pytest

from frameseal.archive import ArchiveWriter, UnsealedFrame, read, verify
from frameseal.archive import writer as writer_module
from frameseal.archive.schema import batch_of
from frameseal.archive.spool import SpoolWriter
from support.archives import KEY, Sender, archive, call, provider, table
from support.forks import in_a_child

RECORDER = """
import sys, time
from frameseal.archive import ArchiveWriter
from support.archives import Sender, provider
sender = Sender(provider())
writer = ArchiveWriter(sys.argv[1], "room", segment_bytes=int(sys.argv[2]))
while True:
    frame = sender.video(b"%d" % sender.sent)
    writer.write(frame)
    print(time.monotonic(), flush=True)
    time.sleep(0.005)
"""


def waiting(condition, timeout=20.0):
    """Wait until a thread of the writer has done something. The bound is far above what it needs."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never happened"
        threading.Event().wait(0.01)


def rows_of(folder):
    return sum(batch.num_rows for batch in read(folder))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize("segment_bytes", [1 << 30, 20_000])
def test_a_recorder_that_is_killed_loses_less_than_a_second(tmp_path, segment_bytes):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RECORDER, tmp_path, str(segment_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        times = [float(child.stdout.readline()) for _ in range(400)]
        child.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        times += map(float, child.stdout.read().split())
    rows = rows_of(tmp_path)
    kept = table(read(tmp_path))
    assert sum(killed - moment > 1.0 for moment in times) <= rows
    # The rows that are there are the first ones, without a hole.
    ticks = kept["rtp_timestamp"].to_pylist()
    assert ticks == [number * 1800 for number in range(rows)]
    # The next recorder of the room goes on, and turns into segments what was left.
    sender = Sender(provider())
    with ArchiveWriter(tmp_path, "room") as writer:
        for frame in (sender.video(), sender.audio(), sender.video()):
            writer.write(frame)
    assert rows_of(tmp_path) == rows + 3
    # Frames of the track that went on are missing. The other track begins.
    assert table(read(tmp_path))["gap"].to_pylist() == [False] * rows + [True, False, False]
    (recording,), strangers = verify(tmp_path)
    assert (recording.problems, recording.spools, recording.is_closed, strangers) == ([], 0, True, [])
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in (".arrows", ".partial")]


@pytest.mark.parametrize("segments", [1, 3])
def test_a_recording_that_goes_on_has_a_gap_in_each_track_that_it_had(tmp_path, segments):
    keys = provider()
    alice, bob, eve = (Sender(keys, name) for name in ("alice", "bob", "eve"))
    archive(tmp_path, [bob.audio(), *call(alice, 10)], segments=segments)
    archive(tmp_path, [eve.audio(), *call(alice, 4)], "other")
    for _ in range(2):  # each writer again
        with ArchiveWriter(tmp_path, "room") as writer:
            for frame in (alice.audio(), alice.audio(), eve.audio(), bob.audio(), alice.video(), bob.audio()):
                writer.write(frame)
    gaps = table(read(tmp_path, recordings=["room"]))["gap"].to_pylist()
    assert gaps[:11] == [False] * 11
    assert gaps[11:] == [True, False, False, True, True, False, True, False, True, True, True, False]


def test_a_segment_that_cannot_be_read_does_not_keep_a_recorder_from_going_on(tmp_path):
    sender = Sender(provider())
    archive(tmp_path, call(sender, 10))
    (tmp_path / "room.00000000.parquet").write_bytes(b"PAR1 no more")
    archive(tmp_path, call(sender, 4))
    assert table(read(tmp_path, on_error=lambda error: None)).num_rows == 4


def test_a_frame_reaches_the_spool_without_another_frame(tmp_path):
    with ArchiveWriter(tmp_path, "room") as writer:
        start = time.monotonic()
        writer.write(Sender(provider()).audio())
        waiting(lambda: rows_of(tmp_path) == 1)
        assert time.monotonic() - start < 5  # half a second, on a machine that is ten times slower


def test_a_full_segment_becomes_parquet_while_the_recording_goes_on(tmp_path):
    sender = Sender(provider())
    with ArchiveWriter(tmp_path, "room", segment_bytes=10_000) as writer:
        for _ in range(3):
            for frame in call(sender, 100):
                writer.write(frame)
            writer.flush()
        waiting(lambda: len(list(tmp_path.glob("*.parquet"))) == 3)
        assert rows_of(tmp_path) == 300
    assert len(list(tmp_path.glob("room.*"))) == 4


def test_a_segment_ends_after_its_time_without_another_frame(tmp_path):
    with ArchiveWriter(tmp_path, "room", segment_seconds=0.01) as writer:
        writer.write(Sender(provider()).audio())
        waiting(lambda: list(tmp_path.glob("*.parquet")))


def test_a_clock_that_jumps_ends_no_segment_and_loses_no_frame(tmp_path, monkeypatch):
    sender = Sender(provider())
    with ArchiveWriter(tmp_path, "room") as writer:
        monkeypatch.setattr(time, "time", lambda: 0.0)
        for frame in call(sender, 4):
            writer.write(replace(frame, arrival=frame.arrival.replace(year=1971)))
            writer.flush()
    assert rows_of(tmp_path) == 4
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_the_key_id_is_read_from_the_frame(tmp_path):
    keys = provider()
    keys.set_shared_key(bytes(32), 5)
    sender = Sender(keys)
    with ArchiveWriter(tmp_path, "room") as writer:
        writer.write(sender.audio(key_id=9))
        writer.write(replace(sender.audio(), sealed=b"", key_id=9))
    assert table(read(tmp_path))["key_id"].to_pylist() == [5, None]


@pytest.mark.parametrize("plain", [b"\xf8plain", b"\x00" * 40, b"x", bytes(2000)])
def test_a_frame_that_is_not_sealed_is_never_stored(tmp_path, plain):
    sender = Sender(provider())
    with ArchiveWriter(tmp_path, "room") as writer:
        with pytest.raises(UnsealedFrame, match="may be plaintext"):
            writer.write(replace(sender.audio(), sealed=plain))
        writer.write(sender.audio())
        writer.write(sender.audio())
    assert table(read(tmp_path))["gap"].to_pylist() == [True, False]


def test_neither_plaintext_nor_key_is_in_the_archive(tmp_path):
    secret = b"what alice said"
    with ArchiveWriter(tmp_path, "room") as writer:
        writer.write(Sender(provider()).audio(secret))
        writer.flush()
        stored = [path.read_bytes() for path in tmp_path.iterdir()]
    stored += [path.read_bytes() for path in tmp_path.iterdir()]
    assert not [each for each in stored if secret in each or KEY in each]


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_reported_and_what_was_written_stays_readable(tmp_path, monkeypatch):
    sender = Sender(provider())
    monkeypatch.setattr("frameseal.archive.writer.BUFFER_BYTES", 1_000)
    with ArchiveWriter(tmp_path, "room") as writer:
        for frame in call(sender, 4):
            writer.write(frame)
        writer.flush()
        with monkeypatch.context() as patch:
            patch.setattr(SpoolWriter, "write", no_space)
            built = []
            patch.setattr(writer_module, "batch_of", lambda *rows: built.append(rows) or batch_of(*rows))
            refused = 0
            for frame in call(sender, 20):
                try:
                    writer.write(frame)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    refused += 1
            assert refused == 15  # the buffer is bounded
            assert rows_of(tmp_path) == 4
            assert sum(len(frames) for _, frames in built) == 5  # no frame is built again for each that is refused
        for frame in call(sender, 4):
            writer.write(frame)
    rows = table(read(tmp_path))
    assert rows.num_rows == 13
    assert rows["gap"].to_pylist() == [False] * 9 + [True, True, False, False]


def test_a_disk_that_is_full_at_the_end_leaves_neither_thread_nor_lock(tmp_path, monkeypatch):
    writer = ArchiveWriter(tmp_path, "room")
    writer.write(Sender(provider()).audio())
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "write", no_space)
        with pytest.raises(OSError, match="incomplete"):
            writer.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frameseal-archive")]
    ArchiveWriter(tmp_path, "room").close()


FULL = """
import resource, sys
from frameseal.archive import ArchiveWriter, writer as module
from support.archives import Sender, provider
module.BUFFER_BYTES = 5_000
sender, is_lifted, accepted, refused = Sender(provider()), sys.argv[2] == "lifted", 0, 0
writer = ArchiveWriter(sys.argv[1], "room")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited))
while refused < 20:
    try:
        writer.write(sender.video(bytes(1_000)))
        accepted += 1
    except OSError:
        refused += 1
if is_lifted:
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    for _ in range(10):
        writer.write(sender.video())
try:
    writer.close()
    print(accepted)
except OSError as error:
    print(accepted, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit on the size of files")
@pytest.mark.parametrize("then", ["lifted", "for good"])
def test_a_file_that_may_not_grow_costs_what_it_cannot_hold_and_nothing_else(tmp_path, then):
    """The system itself refuses to write, in the middle of a batch: as a full disk does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL, tmp_path, then]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
    accepted, problem = done.stdout.split(maxsplit=1) if then != "lifted" else (done.stdout, "")
    rows = rows_of(tmp_path)
    if then == "lifted":
        assert rows == int(accepted) + 10
        gaps = table(read(tmp_path))["gap"].to_pylist()
        assert gaps == [False] * int(accepted) + [True] + [False] * 9
        (recording,), strangers = verify(tmp_path)
        assert (recording.problems, recording.is_closed, strangers) == ([], True, [])
        return
    assert "run frameseal archive repair" in problem
    # What is lost is the buffer: five frames of a thousand bytes, and the batch that did not fit.
    assert int(accepted) - 12 <= rows <= int(accepted)
    (recording,), strangers = verify(tmp_path)
    assert (recording.problems, recording.is_closed, strangers) == ([], False, [])
    archive(tmp_path, [Sender(provider()).video()])
    assert table(read(tmp_path))["gap"].to_pylist() == [False] * rows + [True]


def test_two_writers_of_one_recording_exclude_each_other(tmp_path):
    with ArchiveWriter(tmp_path, "room"):
        with pytest.raises(BlockingIOError, match="somebody else writes this recording"):
            ArchiveWriter(tmp_path, "room")
        ArchiveWriter(tmp_path, "other").close()
    ArchiveWriter(tmp_path, "room").close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_writer_that_was_closed_closes_no_other_file_in_a_forked_child(tmp_path):
    """The numbers of its files are those of others by then."""
    writers = [ArchiveWriter(tmp_path, f"room {number}") for number in range(3)]
    sender = Sender(provider())
    for writer in writers:
        writer.write(sender.audio())
        writer.close()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        assert in_a_child(lambda: bytes(is_open(other) for other in others)) == bytes([True] * len(others))
    finally:
        for other in others:
            os.close(other)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_writes_nothing_and_holds_no_lock(tmp_path):
    sender = Sender(provider())
    writer = ArchiveWriter(tmp_path, "room")
    for frame in call(sender, 3):
        writer.write(frame)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            writer.close()
            for attempt in (lambda: writer.write(frame), writer.flush):
                try:
                    attempt()
                except RuntimeError:
                    code += 1
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(code)
    os.read(ready[0], 1)
    writer.close()
    ArchiveWriter(tmp_path, "room").close()  # the child lives, and holds no lock
    os.write(done[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert rows_of(tmp_path) == 3


def test_many_threads_write_one_archive(tmp_path):
    keys = provider()
    with ArchiveWriter(tmp_path, "room", segment_bytes=50_000) as writer:

        def record(name):
            for frame in call(Sender(keys, name), 200):
                writer.write(frame)

        threads = [threading.Thread(target=record, args=(f"p{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = table(read(tmp_path)).to_pylist()
    for n in range(4):
        own = [row["arrival"] for row in rows if row["participant"] == f"p{n}"]
        assert len(own) == 200 and own == sorted(own)


class Server:
    """A file system that is not this machine's, and refuses the upload of the first segment while it is away."""

    def __init__(self, folder):
        self.folder = folder / "server/archive"
        self.folder.mkdir(parents=True)
        self.where = {
            "filesystem": pafs.SubTreeFileSystem(str(folder / "server"), pafs.LocalFileSystem()),
            "spool": folder / "spool",
        }

    def leave(self):
        (self.folder / ".room.00000000.parquet.partial").mkdir()

    def come_back(self):
        (self.folder / ".room.00000000.parquet.partial").rmdir()

    def files(self):
        return sorted(path.name for path in self.folder.glob("[!.]*"))


def test_an_upload_that_fails_is_tried_again_and_loses_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("frameseal.archive.writer.FIRST_RETRY", 0.01)
    server = Server(tmp_path)
    where = server.where
    sender = Sender(provider())
    with ArchiveWriter("archive", "room", segment_bytes=10_000, **where) as writer:
        server.leave()
        for frame in call(sender, 200):
            writer.write(frame)
        writer.flush()
        waiting(lambda: "is tried again" in caplog.text)
        for frame in call(sender, 10):
            writer.write(frame)
        writer.flush()
        assert server.files() == []
        assert sum(batch.num_rows for batch in read("archive", **where)) == 210
        server.come_back()
        waiting(server.files)
    assert server.files() == ["room.00000000.parquet", "room.00000001.parquet"]
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [".room.lock"]
    (recording,), _ = verify("archive", **where)
    assert (recording.frames, recording.problems) == (210, [])


def test_a_server_that_is_away_at_the_end_leaves_the_spool_for_later(tmp_path):
    server = Server(tmp_path)
    where = server.where
    writer = ArchiveWriter("archive", "room", **where)
    writer.write(Sender(provider()).audio())
    server.leave()
    with pytest.raises(OSError, match="repair"):
        writer.close()
    assert sum(batch.num_rows for batch in read("archive", **where)) == 1
    server.come_back()
    ArchiveWriter("archive", "room", **where).close()
    assert server.files() == ["room.00000000.parquet", "room.00000001.parquet"]


def test_a_closed_writer_accepts_nothing(tmp_path):
    writer = ArchiveWriter(tmp_path, "room")
    writer.close()
    writer.close()
    for attempt in (writer.flush, lambda: writer.write(Sender(provider()).audio())):
        with pytest.raises(ValueError, match="closed"):
            attempt()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"segment_seconds": 0}, ValueError),
        ({"segment_bytes": float("nan")}, ValueError),
        ({"segment_seconds": "1"}, TypeError),
        ({"recording": ""}, ValueError),
        ({"recording": 1}, TypeError),
        ({"location": None}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_and_make_no_file(tmp_path, options, error):
    with pytest.raises(error, match=next(iter(options))):
        ArchiveWriter(**{"location": tmp_path, "recording": "room"} | options)
    assert not list(tmp_path.iterdir())
    with ArchiveWriter(tmp_path, "room") as writer, pytest.raises(TypeError, match="frame must be"):
        writer.write(b"frame")
