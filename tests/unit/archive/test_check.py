"""Verifying and repairing: segments that are removed, exchanged or cut, and spools that a kill has left."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frameseal.archive import ArchiveWriter, read, recordings, repair, verify
from frameseal.archive.places import Place, place_of
from frameseal.archive.schema import batch_of
from frameseal.archive.spool import SpoolWriter
from support.archives import Sender, archive, call, provider, rewrite, table


def killed(folder, frames, recording="room", number=0):
    """Leave a spool as a killed recorder does: without its end, and with half a batch behind it."""
    path = folder / f"{recording}.{number:08d}.arrows"
    spool = SpoolWriter(path)
    spool.write(batch_of(recording, frames))
    spool.abandon()
    with path.open("ab") as file:
        file.write(b"\xff\xff\xff\xff\x00\x02\x00\x00half")
    return path


def test_what_an_archive_holds_is_counted(tmp_path):
    keys = provider()
    frames = [*call(Sender(keys), 20), *call(Sender(keys, "bob"), 10), Sender(keys, "eve").audio(gap=True)]
    archive(tmp_path, frames, segments=3)
    (room,), strangers = verify(tmp_path)
    assert (room.name, room.frames, room.segments, room.spools, room.gaps) == ("room", 31, 3, 0, 1)
    assert room.participants == {"alice", "bob", "eve"}
    assert (room.first, room.last) == (frames[0].arrival, max(frame.arrival for frame in frames))
    assert room.is_closed and room.problems == strangers == []
    assert room.sha256 == place_of(tmp_path).sha256(place_of(tmp_path).segments()[-1])


class Counted:
    """A file that counts the bytes that are read."""

    def __init__(self, path, counts):
        self.file, self.counts = path.open("rb"), counts

    def read(self, size=-1):
        found = self.file.read(size)
        self.counts.append(len(found))
        return found

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_list_reads_no_sealed_frame(tmp_path, monkeypatch):
    sender = Sender(provider())
    frames = [sender.video(bytes(50_000)) for _ in range(40)]
    archive(tmp_path, [*frames[:39], replace(frames[39], gap=True)], segments=2)
    (verified,), _ = verify(tmp_path)
    read_bytes = []
    monkeypatch.setattr(
        Place, "open", lambda place, segment: pa.PythonFile(Counted(tmp_path / segment.file, read_bytes), "r")
    )
    (listed,), strangers = recordings(tmp_path)
    # Arrow reads the last 64 KiB of a file to find its footer, here twice for each of two segments.
    assert sum(read_bytes) < 300_000
    exact = sum(len(frame.sealed) for frame in frames)
    assert exact <= listed.sealed_bytes < exact + 30_000  # names, times and footers
    assert verified.sealed_bytes == exact
    assert replace(verified, sha256="", sealed_bytes=listed.sealed_bytes) == listed
    assert (listed.gaps, listed.is_closed, strangers) == (1, True, [])


def test_a_list_names_what_cannot_be_listed_and_counts_spools(tmp_path):
    frames = list(call(Sender(provider()), 30))
    archive(tmp_path, frames[:20], segments=2)
    killed(tmp_path, frames[20:], number=3)
    (tmp_path / "room.00000000.parquet").write_bytes(b"PAR1")
    (tmp_path / "other.parquet").touch()
    (listed,), (stranger,) = recordings(tmp_path)
    assert (listed.frames, listed.spools, listed.segments) == (20, 1, 3)
    assert [error.file for error in listed.problems] == ["room.00000000.parquet", "room.00000002.parquet"]
    assert stranger.file == "other.parquet"


def altered(path):
    rewrite(path, lambda found: found.slice(1))


def exchanged(path):
    other = archive(path.parent / "other", call(Sender(provider()), 30), segments=3)
    path.write_bytes((other / path.name).read_bytes())


@pytest.mark.parametrize("harm", [altered, exchanged])
def test_a_segment_that_was_exchanged_breaks_the_chain_behind_it(tmp_path, harm):
    archive(tmp_path, call(Sender(provider()), 30), segments=3)
    harm(tmp_path / "room.00000001.parquet")
    (room,), _ = verify(tmp_path)
    assert "room.00000002.parquet: the hash of the segment before is another" in str(room.problems[-1])


def test_segments_that_changed_places_and_copies_are_named(tmp_path):
    archive(tmp_path, call(Sender(provider()), 30), segments=3)
    first, second = (tmp_path / f"room.0000000{number}.parquet" for number in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    (tmp_path / "room.00000003.parquet").write_bytes(content)
    (room,), _ = verify(tmp_path)
    files = ["room.00000000.parquet", "room.00000001.parquet", "room.00000003.parquet"]
    assert [str(error) for error in room.problems if "another number" in error.problem] == [
        f"{file}: the segment has another number than its name: was the file renamed?" for file in files
    ]
    assert room.frames == 10


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_that_was_removed_is_missing(tmp_path, number):
    archive(tmp_path, call(Sender(provider()), 30), segments=3)
    (tmp_path / f"room.0000000{number}.parquet").unlink()
    (room,), _ = verify(tmp_path)
    missing = f"room.0000000{number}.parquet: the segment is missing: it was removed or renamed"
    assert missing in map(str, room.problems)
    assert len(room.problems) == 2  # the chain is broken as well


def test_the_end_that_was_removed_shows_by_hash_and_by_state(tmp_path):
    frames = list(call(Sender(provider()), 30))
    with ArchiveWriter(tmp_path, "room", segment_bytes=3_000) as writer:
        for frame in frames:
            writer.write(frame)
            writer.flush()
    (whole,), _ = verify(tmp_path)
    sorted(tmp_path.glob("*.parquet"))[-1].unlink()
    (cut,), _ = verify(tmp_path)
    assert whole.is_closed and not cut.is_closed
    assert whole.sha256 != cut.sha256


def test_a_cut_segment_is_a_problem_and_the_others_are_counted(tmp_path):
    archive(tmp_path, call(Sender(provider()), 30), segments=3)
    path = tmp_path / "room.00000001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "other.parquet").touch()
    (room,), (stranger,) = verify(tmp_path)
    assert room.frames == 20
    assert "room.00000001.parquet: not a Parquet file, or truncated" in str(room.problems[0])
    assert stranger.file == "other.parquet"


def test_a_spool_that_a_kill_has_left_becomes_the_next_link_of_the_chain(tmp_path):
    frames = list(call(Sender(provider()), 30))
    archive(tmp_path, frames[:20], segments=2)
    killed(tmp_path, frames[20:], number=2)
    (before,), _ = verify(tmp_path)
    assert (before.frames, before.spools, before.problems) == (30, 1, [])
    assert repair(tmp_path) == ["room.00000002.parquet"]
    (after,), _ = verify(tmp_path)
    assert (after.frames, after.spools, after.problems, after.is_closed) == (30, 0, [], False)
    assert [row["sealed"] for row in table(read(tmp_path)).to_pylist()] == [each.sealed for each in frames]
    assert repair(tmp_path) == []


def test_the_next_recorder_repairs_and_continues_the_chain(tmp_path):
    frames = list(call(Sender(provider()), 30))
    killed(tmp_path, frames[:10], number=0)
    killed(tmp_path, frames[10:20], number=1)
    archive(tmp_path, frames[20:])
    (room,), _ = verify(tmp_path)
    assert (room.frames, room.segments, room.spools, room.problems) == (30, 3, 0, [])


def test_a_kill_between_the_two_steps_leaves_no_row_twice(tmp_path):
    frames = list(call(Sender(provider()), 10))
    archive(tmp_path, frames)
    left = killed(tmp_path, frames)
    (tmp_path / ".room.00000001.parquet.partial").write_bytes(b"PAR1")
    assert table(read(tmp_path)).num_rows == 10
    assert repair(tmp_path) == []
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".room.lock", "room.00000000.parquet"]


def test_a_spool_whose_number_another_recorder_has_used_keeps_its_rows(tmp_path):
    """Two machines that record under one id to one server: neither may delete what the other has written."""
    theirs, own = list(call(Sender(provider()), 10)), list(call(Sender(provider(), "bob"), 6))
    archive(tmp_path, theirs)
    killed(tmp_path, own)
    assert repair(tmp_path) == ["room.00000001.parquet"]
    (room,), _ = verify(tmp_path)
    assert (room.frames, room.problems, room.participants) == (16, [], {"alice", "bob"})


def test_a_segment_that_is_damaged_does_not_cost_its_spool(tmp_path):
    frames = list(call(Sender(provider()), 10))
    archive(tmp_path, frames)
    left = killed(tmp_path, frames)
    segment = tmp_path / "room.00000000.parquet"
    segment.write_bytes(segment.read_bytes()[:-9])
    assert repair(tmp_path) == ["room.00000001.parquet"]
    assert not left.exists()
    assert table(read(tmp_path, on_error=lambda error: None)).num_rows == 10


def test_a_recording_that_somebody_writes_is_left_alone(tmp_path):
    killed(tmp_path, call(Sender(provider()), 4), "other")
    with ArchiveWriter(tmp_path, "room") as writer:
        writer.write(Sender(provider()).audio())
        writer.flush()
        assert repair(tmp_path) == ["other.00000000.parquet"]
        assert (tmp_path / "room.00000000.arrows").exists()


def test_a_damaged_spool_keeps_its_file_beside_the_rows_before_the_damage(tmp_path):
    path = tmp_path / "room.00000000.arrows"
    spool, sender = SpoolWriter(path), Sender(provider())
    spool.write(batch_of("room", call(sender, 4)))
    spool.abandon()
    with path.open("ab") as file:
        file.write(b"no message at all")
    repair(tmp_path)
    assert table(read(tmp_path, on_error=lambda error: None)).num_rows == 4
    _, (stranger,) = verify(tmp_path)
    assert stranger.file == "room.00000000.damaged"


def test_repair_leaves_segments_as_they_are(tmp_path):
    archive(tmp_path, call(Sender(provider()), 10))
    path = tmp_path / "room.00000000.parquet"
    before = path.read_bytes()
    assert repair(tmp_path) == []
    assert path.read_bytes() == before
    assert pq.read_metadata(path).num_rows == 10


def test_where_nothing_is_nothing_can_be_verified(tmp_path):
    for check in (verify, repair):
        with pytest.raises(FileNotFoundError):
            check(tmp_path / "none")
