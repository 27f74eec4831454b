"""An archive on a server with the API of S3, on 127.0.0.1."""

import os
import secrets

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from frameseal.archive import ArchiveWriter, Opener, read, repair, verify
from support.archives import Sender, call, provider, table


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Return the address of an empty bucket."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FRAMESEAL_SPOOL", str(tmp_path))
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    bucket = f"bucket-{secrets.token_hex(4)}"  # the servers of a process share their buckets
    pafs.FileSystem.from_uri(f"s3://key:secret@{bucket}?{query}")[0].create_dir(bucket)
    yield f"s3://key:secret@{bucket}/rooms?{query}"
    server.stop()


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
