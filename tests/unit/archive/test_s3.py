"""An archive on a server with the API of S3, on 127.0.0.1."""

import os
import secrets
import threading
from datetime import timedelta

import pyarrow.fs as pafs
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from frameseal.archive import ArchiveWriter, Opener, read, repair, verify, writer
from support.archives import START, Sender, archive, call, provider, table


class Server:
    """moto, with requests that a test counts, delays or breaks off."""

    def __init__(self):
        self._app = DomainDispatcherApplication(create_backend_app)
        self.fetched = {}
        """Bytes of the objects that were sent, by the object's name."""
        self.breaks = lambda environ: False
        """Returns True for an upload that ends in its middle."""
        self.broken = threading.Event()
        self.arrived = threading.Event()
        """An upload has begun."""
        self.go_on = threading.Event()
        """Uploads wait for it."""
        self.go_on.set()
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(".parquet"):
            self.arrived.set()
            self.go_on.wait(60)
            if self.breaks(environ):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH", 0)) // 2)
                self.broken.set()
                raise ConnectionAbortedError
        body = list(self._app(environ, start_response))
        if environ["REQUEST_METHOD"] == "GET":
            name = environ["PATH_INFO"].rpartition("/")[2]
            self.fetched[name] = self.fetched.get(name, 0) + sum(map(len, body))
        return body

    def stop(self):
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server():
    found = Server()
    yield found
    found.stop()


@pytest.fixture
def address(server, tmp_path, monkeypatch):
    """Return the address of an empty bucket."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FRAMESEAL_SPOOL", str(tmp_path))
    port = server.port
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    bucket = f"bucket-{secrets.token_hex(4)}"  # the servers of a process share their buckets
    pafs.FileSystem.from_uri(f"s3://key:secret@{bucket}?{query}")[0].create_dir(bucket)
    return f"s3://key:secret@{bucket}/rooms?{query}"


def test_a_recording_on_s3_is_written_killed_continued_read_and_opened(address, tmp_path):
    frames = list(call(Sender(provider()), 300))
    with ArchiveWriter(address, "room", segment_bytes=20_000) as writer:
        for frame in frames[:200]:
            writer.write(frame)
            writer.flush()
        assert table(read(address)).num_rows == 200  # segments there, the spool here
    with ArchiveWriter(address, "room") as writer:
        for frame in frames[200:]:
            writer.write(frame)
    rows = table(read(address))
    assert [row["sealed"] for row in rows.to_pylist()] == [each.sealed for each in frames]
    assert all(Opener(provider())(rows)["opened"].to_pylist())
    (room,), strangers = verify(address)
    assert (room.frames, room.spools, room.problems, strangers, room.is_closed) == (300, 0, [], [], True)
    assert room.segments > 2
    filesystem, folder = pafs.FileSystem.from_uri(address)
    names = [info.base_name for info in filesystem.get_file_info(pafs.FileSelector(folder))]
    assert len(names) == room.segments and all(name.endswith(".parquet") for name in names)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_server_that_is_away_leaves_the_spool_here(address, tmp_path):
    writer = ArchiveWriter(address, "room")
    for frame in call(Sender(provider()), 10):
        writer.write(frame)
    filesystem, folder = pafs.FileSystem.from_uri(f"{address}&allow_bucket_deletion=true")
    bucket = folder.partition("/")[0]
    filesystem.delete_dir(bucket)
    with pytest.raises(OSError, match="repair"):
        writer.close()
    assert [path.suffix for path in tmp_path.rglob("*.arrows")] == [".arrows"]
    with pytest.raises(OSError, match="cannot be read"):  # an archive of which a part is unknown is none
        read(address)
    filesystem.create_dir(bucket)
    assert table(read(address)).num_rows == 10
    assert repair(address) == ["room.00000000.parquet"]
    assert table(read(address)).num_rows == 10
    assert not list(tmp_path.rglob("*.arrows"))


def test_no_credential_is_in_an_error_or_a_file(address, tmp_path, caplog):
    with ArchiveWriter(address, "room") as writer:
        writer.write(Sender(provider()).audio())
        writer.flush()
        held = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        names = [os.fsencode(path) for path in tmp_path.rglob("*")]
    assert held and not [each for each in held + names if b"secret" in each]
    assert "secret" not in repr(writer) + caplog.text


def test_an_upload_that_breaks_off_is_tried_again_and_the_spool_stays_until_then(
    address, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(writer, "FIRST_RETRY", 0.01)
    server.breaks = lambda environ: True
    frames = list(call(Sender(provider()), 300))
    with ArchiveWriter(address, "room", segment_bytes=20_000) as recorder:
        for frame in frames:
            recorder.write(frame)
            recorder.flush()
        assert server.broken.wait(30)
        assert len(list(tmp_path.rglob("*.arrows"))) > 2  # none is lost, and the call goes on
        assert table(read(address)).num_rows == 300
        server.breaks = lambda environ: False
    (room,), strangers = verify(address)
    assert (room.frames, room.spools, room.problems, strangers, room.is_closed) == (300, 0, [], [], True)
    assert [row["sealed"] for row in table(read(address)).to_pylist()] == [each.sealed for each in frames]
    assert not list(tmp_path.rglob("*.arrows"))


def test_a_part_of_an_upload_is_no_segment(address, server, tmp_path):
    """A segment that needs several requests breaks off behind the first."""
    server.breaks = lambda environ: "partNumber=2" in environ["QUERY_STRING"]
    sender = Sender(provider())
    recorder = ArchiveWriter(address, "room")
    for _ in range(30):
        recorder.write(sender.video(os.urandom(1 << 20)))
    with pytest.raises(OSError, match="repair"):
        recorder.close()
    assert server.broken.is_set()
    filesystem, folder = pafs.FileSystem.from_uri(address)
    found = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    assert [info.base_name for info in found if info.type is pafs.FileType.File] == []
    assert len(list(tmp_path.rglob("*.arrows"))) == 1
    assert sum(batch.num_rows for batch in read(address)) == 30
    server.breaks = lambda environ: False
    assert repair(address) == ["room.00000000.parquet"]
    (room,), strangers = verify(address)
    assert (room.frames, room.problems, strangers) == (30, [], [])


def test_a_slow_server_stalls_no_frame(address, server, tmp_path):
    # Made before: Arrow makes a client of a server only while no request of the process is under way.
    filesystem, folder = pafs.FileSystem.from_uri(address)
    server.go_on.clear()
    frames = list(call(Sender(provider()), 300))
    with ArchiveWriter(address, "room", segment_bytes=20_000) as recorder:
        try:
            for frame in frames[:200]:
                recorder.write(frame)
                recorder.flush()
            assert server.arrived.wait(30)
            for frame in frames[
                200:
            ]:  # the upload waits for the test, so this ends only if writing waits for no upload
                recorder.write(frame)
                recorder.flush()
            spool = next(tmp_path.rglob("*.arrows")).parent
            assert sum(each.num_rows for each in read(folder, filesystem=filesystem, spool=spool)) == 300
        finally:
            server.go_on.set()
    assert [row["sealed"] for row in table(read(address)).to_pylist()] == [each.sealed for each in frames]
    assert not list(tmp_path.rglob("*.arrows"))


def test_what_filters_exclude_is_not_fetched(address, server):
    """Of a recording that is not wanted nothing is fetched. Of a segment outside the times no sealed frame is."""
    sender = Sender(provider())
    for _ in range(2):
        with ArchiveWriter(address, "room") as recorder:
            for _ in range(20):
                recorder.write(sender.video(os.urandom(50_000)))
    archive(address, [Sender(provider(), "bob").video(os.urandom(50_000)) for _ in range(20)], "other")
    # Parquet reads the end of a file in one request of 64 KiB. The columns that filters read are below it in size.
    without_frames = 2 * (64 << 10)

    def fetched(**filters):
        server.fetched.clear()
        rows = Opener(provider())(table(read(address, **filters)))
        assert all(rows["opened"].to_pylist())
        names = ("room.00000000.parquet", "room.00000001.parquet", "other.00000000.parquet")
        return rows.num_rows, [server.fetched.get(name, 0) for name in names]

    rows, (first, second, other) = fetched()
    assert rows == 60 and min(first, second, other) > 20 * 50_000
    rows, (first, second, other) = fetched(recordings=["room"])
    assert rows == 40 and min(first, second) > 20 * 50_000 and other == 0
    rows, (first, second, other) = fetched(recordings=["room"], since=START + timedelta(milliseconds=20 * 20))
    assert rows == 20 and first <= without_frames and second > 20 * 50_000 and other == 0
    rows, (first, second, other) = fetched(participants=["bob"], kinds=["video"])
    assert rows == 20 and max(first, second) <= without_frames and other > 20 * 50_000
