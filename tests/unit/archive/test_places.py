"""Where an archive lies: names of files, addresses, and moves that are whole or not at all."""

from pathlib import Path

import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameseal.archive.places import MAX_NAME, Segment, numbers_missing, place_of, quoted, unquoted


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_every_id_of_a_recording_is_a_file_name_and_comes_back(recording):
    name = quoted(recording)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789~-")
    assert unquoted(name) == recording


@pytest.mark.parametrize("recording", ["..", "/etc", ".hidden", "_hidden", "a/../b", "con\0", "k=v"])
def test_an_id_leads_to_no_other_folder_and_hides_no_file(recording):
    assert not {"/", ".", "_", "=", "\0"} & set(quoted(recording))


@pytest.mark.parametrize("name", ["~", "~zz", "~2f", "~C3", "~41"])
def test_a_name_that_no_recording_has_is_no_segment(name):
    assert unquoted(name) is None


@pytest.mark.parametrize("recording", ["", "a" * (MAX_NAME + 1), "\ud83d"])
def test_an_id_that_no_file_can_have_is_refused(recording):
    with pytest.raises(ValueError, match="recording"):
        quoted(recording)


def test_of_a_spool_and_its_parquet_file_the_latter_counts(tmp_path):
    for name in ("room.00000000.arrows", "room.00000000.parquet", "room.00000001.arrows", ".room.lock"):
        (tmp_path / name).touch()
    assert [each.file for each in place_of(tmp_path).segments()] == ["room.00000000.parquet", "room.00000001.arrows"]


def test_only_files_that_might_be_segments_are_strangers(tmp_path):
    for name in ("part-0.parquet", "timeline.png", "room.00000000.damaged", ".x.partial", "a.1.parquet"):
        (tmp_path / name).touch()
    place = place_of(tmp_path)
    assert place.segments() == []
    assert sorted(place.strangers) == ["a.1.parquet", "part-0.parquet", "room.00000000.damaged"]


def test_a_hole_in_the_numbers_is_found_however_high_they_are():
    held = [Segment("room", number, "parquet") for number in (1, 2, 99_999_999)]
    assert [each.number for each in numbers_missing(held)] == [0, 99_999_998]


def test_a_location_that_is_none_is_refused_without_its_secrets():
    with pytest.raises(ValueError, match="location must be") as caught:
        place_of("nosuch://user:s3cret@host/x")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None
    with pytest.raises(TypeError, match="location must be"):
        place_of(3)
    with pytest.raises(TypeError, match="filesystem must be"):
        place_of("x", "s3")
    with pytest.raises(ValueError, match="location must not be empty"):
        place_of("")


def test_the_spools_of_an_archive_elsewhere_have_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMESEAL_SPOOL", str(tmp_path))
    elsewhere = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    places = [place_of(path, elsewhere) for path in ("a", "b", "a")]
    assert places[0].spools == places[2].spools != places[1].spools
    assert places[0].spools.parent == tmp_path
    assert place_of("a", elsewhere, tmp_path / "own").spools == tmp_path / "own"


def test_a_credential_does_not_change_the_folder_of_spools():
    address = "s3://{}bucket/x?endpoint_override=127.0.0.1:1&scheme=http"
    assert place_of(address.format("a:b@")).spools == place_of(address.format("")).spools


def test_an_upload_is_whole_or_not_at_all(tmp_path):
    segment, made = Segment("room", 0, "parquet"), tmp_path / "made"
    place = place_of("store", pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), tmp_path / "spool")
    place.make()
    made.write_bytes(b"content")
    (tmp_path / "store" / f".{segment.file}.partial").mkdir()  # nothing can be written under this name
    with pytest.raises(OSError):
        place.publish(made, segment)
    assert made.read_bytes() == b"content"
    assert not (tmp_path / "store" / segment.file).exists()
    (tmp_path / "store" / f".{segment.file}.partial").rmdir()
    place.publish(made, segment)
    assert (tmp_path / "store" / segment.file).read_bytes() == b"content"
    assert not made.exists()


def test_a_segment_of_another_recorder_is_never_replaced(tmp_path):
    segment, made = Segment("room", 0, "parquet"), tmp_path / "made"
    elsewhere = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    for place in (place_of("store", elsewhere, tmp_path / "spool"), place_of(tmp_path / "store")):
        place.make()
        (tmp_path / "store" / segment.file).write_bytes(b"theirs")
        made.write_bytes(b"own")
        with pytest.raises(FileExistsError, match="another recorder"):
            place.publish(made, segment)
        assert (tmp_path / "store" / segment.file).read_bytes() == b"theirs"
        made.write_bytes(b"theirs")  # an attempt whose answer was lost
        place.publish(made, segment)
        assert not made.exists()


def test_where_nothing_is_there_is_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="no archive"):
        place_of(tmp_path / "none").segments()
    assert Path(place_of(tmp_path / "none").folder).is_absolute()
