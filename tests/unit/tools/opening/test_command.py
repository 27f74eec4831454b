"""`frameseal open` as a program: keys, exit status, table, picture, and what it refuses."""

import base64
import errno
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import frameseal.archive
from frameseal import KeyProvider, KeyRing, Profile
from frameseal.archive import ArchiveWriter
from frameseal.profiles import PROFILES
from frameseal.tools.cli import main
from frameseal.tools.opening.timeline import FAILED, FOOT, PICTURE, SPOKE
from support.archives import archive, end_segment, rewrite
from support.calls import PASSPHRASE
from support.recorded import pictures, recorded, sealed, shown, sounds, together
from support.secret_search import MARKER, shows

OTHER = bytes(range(32))


def ring(key=PASSPHRASE, key_id=0):
    made = KeyRing("livekit")
    made.set_passphrase(key, key_id) if isinstance(key, str) else made.set_key(key, key_id)
    made.sending_key_id = key_id
    return made


def meeting(seconds=2):
    """Return the frames of Alice (camera and microphone) and of Bob (camera)."""
    alice = recorded(pictures("vp8", seconds * 30), codec="vp8")
    mic = recorded(sounds("opus", seconds, silence=1), codec="opus", track="mic", ssrc=2)
    bob = recorded(pictures("h264", seconds * 30, colour="blue"), participant="bob", codec="h264", ssrc=3)
    return list(together(alice, mic, bob))


@pytest.fixture
def open_archive(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command, and returns its exit status and what it printed.

    The function accepts the folder of an archive, or frames, which it first writes into one.
    """
    monkeypatch.setenv("COLUMNS", "200")

    def run(rows, *arguments):
        folder = rows if isinstance(rows, Path) else archive(Path(mkdtemp(dir=tmp_path)), rows)
        status = main(["open", str(folder), "-o", str(tmp_path / "opened"), *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.fixture
def passphrase_file(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def key_file(tmp_path, document, name="keys.json"):
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return path


def colours_of(path):
    """Return the colours of a time line without its legend."""
    image = np.asarray(Image.open(path))
    return {tuple(colour) for colour in image[:-FOOT].reshape(-1, 3)}


def test_a_recording_opens_with_the_passphrase_of_the_room(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring()})
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 0
    assert "alice.mkv" in printed and "bob.mkv" in printed
    folder = tmp_path / "opened"
    assert sorted(path.name for path in folder.iterdir()) == ["alice.mkv", "bob.mkv", "timeline.png"]
    assert [picture.number for _, picture in shown(folder / "alice.mkv")] == list(range(60))
    assert {picture.colour for _, picture in shown(folder / "bob.mkv")} == {"blue"}
    drawn = colours_of(folder / "timeline.png")
    assert {PICTURE, SPOKE} <= drawn and FAILED not in drawn


def test_with_one_key_of_two_one_half_opens_and_the_status_is_1(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring(OTHER, 5)})
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 1
    assert "Not everything has opened." in printed
    assert "60 unknown key (key id 5)" in printed
    assert sorted(path.name for path in (tmp_path / "opened").iterdir()) == ["alice.mkv", "timeline.png"]
    assert FAILED in colours_of(tmp_path / "opened" / "timeline.png")


def test_the_table_and_the_reasons_fit_into_80_columns(open_archive, passphrase_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = sealed(meeting(), {"alice": ring(), "bob": ring(OTHER, 5)})
    _, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert max(map(len, printed.splitlines())) <= 80
    assert "alice.mkv" in printed and "160 of 160" in printed
    assert "\nbob: 60 frames did not open: 60 unknown key (key id 5).\n" in printed


def test_without_the_right_key_nothing_opens_and_no_file_is_made(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring("another passphrase"), "bob": ring("another passphrase")})
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 1
    assert "authentication failed" in printed
    assert [path.name for path in (tmp_path / "opened").iterdir()] == ["timeline.png"]


def test_keys_by_participant_and_key_id(open_archive, tmp_path):
    rows = sealed(meeting(), {"alice": ring("of alice", 2), "bob": ring(OTHER, 5)})
    document = {
        "participants": {
            "alice": [{"key_id": 2, "passphrase": "of alice"}],
            "bob": [{"key_id": 5, "key": base64.urlsafe_b64encode(OTHER).decode()}],
        }
    }
    status, _ = open_archive(rows, "--key-file", key_file(tmp_path, document))
    assert status == 0


def test_keys_may_stand_in_several_files(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring(OTHER, 5)})
    other = {"shared": [{"key_id": 5, "key": base64.urlsafe_b64encode(OTHER).decode()}]}
    status, _ = open_archive(rows, "--passphrase-file", passphrase_file, "--key-file", key_file(tmp_path, other))
    assert status == 0


def test_a_key_that_changed_under_one_id_opens_with_both(open_archive, tmp_path):
    """The tag tells the two apart. Each batch holds rows of both keys."""
    frames = meeting(4)
    first = sealed(frames, {"alice": ring("first"), "bob": ring("first")})
    second = sealed(frames, {"alice": ring("second"), "bob": ring("second")})
    rows = first[:333] + second[333:]
    document = {"shared": [{"passphrase": "first"}, {"passphrase": "second"}]}
    status, printed = open_archive(rows, "--key-file", key_file(tmp_path, document))
    assert status == 0, printed
    assert [picture.number for _, picture in shown(tmp_path / "opened" / "alice.mkv")] == list(range(120))


@pytest.mark.parametrize("key", [PASSPHRASE, OTHER])
@pytest.mark.parametrize("steps", [1, 3])
def test_frames_behind_ratchet_steps_open_with_the_first_key(open_archive, tmp_path, key, steps):
    """Alice ratchets twice, and is followed each time. Bob does not."""
    rings, rows = {"alice": ring(key), "bob": ring(key)}, []
    frames = meeting(3)
    for number, third in enumerate((frames[:140], frames[140:280], frames[280:])):
        for _ in range(steps if number else 0):
            rings["alice"].ratchet(0)
        rows += sealed(third, rings)
    secret = {"passphrase": key} if isinstance(key, str) else {"key": base64.urlsafe_b64encode(key).decode()}
    status, printed = open_archive(rows, "--key-file", key_file(tmp_path, {"shared": [secret]}))
    assert status == 0, printed
    assert [picture.number for _, picture in shown(tmp_path / "opened" / "alice.mkv")] == list(range(90))


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_opens_also_those_without_a_ratchet(open_archive, tmp_path, profile):
    keys = KeyProvider()
    keys.set_shared_key(OTHER)
    (tmp_path / "key").write_bytes(base64.urlsafe_b64encode(OTHER) + b"\n")
    frames = [frame for frame in meeting() if frame.participant == "alice"]
    rows = sealed(frames, {"alice": keys.ring_for(Profile(profile), "alice")}, profile)
    status, printed = open_archive(rows, "--key-file", tmp_path / "key")
    assert status == 0, printed
    assert len(shown(tmp_path / "opened" / "alice.mkv")) == 60


HOSTILE = ("../x", "a\0b", "n" * 300, "a/b", "a_b", "Bob", "bob", "", "..", "-rf", "con", "josé", "\x1b[2J")


def test_any_name_of_a_participant_has_a_file_of_its_own_in_the_folder(open_archive, passphrase_file, tmp_path):
    tracks = [recorded(sounds("opus", 1), codec="opus", participant=name, track="mic") for name in HOSTILE]
    rows = sealed(together(*tracks), dict.fromkeys(HOSTILE, ring()))
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 0, printed
    names = [path.name for path in (tmp_path / "opened").iterdir()]
    assert len({name.lower() for name in names if name.endswith(".mkv")}) == len(HOSTILE)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*\.mkv|timeline\.png", name) for name in names)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["passphrase"]


def test_a_recording_that_still_runs_opens_as_far_as_it_was_written(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring()})
    with ArchiveWriter(tmp_path / "archive", "room") as writer:
        for row in rows[:100]:
            writer.write(row)
        end_segment(writer)
        for row in rows[100:]:
            writer.write(row)
        writer.flush()
        status, printed = open_archive(tmp_path / "archive", "--passphrase-file", passphrase_file)
    assert status == 0, printed
    assert [picture.number for _, picture in shown(tmp_path / "opened" / "alice.mkv")] == list(range(60))


def test_a_track_that_wraps_changes_its_codec_and_comes_back_is_whole(open_archive, tmp_path):
    """The RTP clock passes 2**32, VP8 becomes H264, and Alice rejoins with another SSRC, RTP start and key id."""
    first = recorded(pictures("vp8", 60), codec="vp8", rtp_start=2**32 - 90_000)
    second = recorded(pictures("h264", 60), codec="h264", at=2, rtp_start=2**32 + 90_000)
    third = recorded(pictures("h264", 60), codec="h264", at=10, ssrc=99, rtp_start=5)
    rows = sealed([*first, *second], {"alice": ring("before", 0)}) + sealed(third, {"alice": ring("after", 1)})
    document = {"shared": [{"key_id": 0, "passphrase": "before"}, {"key_id": 1, "passphrase": "after"}]}
    status, printed = open_archive(rows, "--key-file", key_file(tmp_path, document))
    assert status == 0, printed
    assert "changed its codec (vp8, then h264)" in printed
    early, late = (shown(tmp_path / "opened" / "alice.mkv", index) for index in (0, 1))
    assert [picture.number for _, picture in early] == list(range(60))
    assert [picture.number for _, picture in late] == [*range(60)] * 2
    assert early[0][0] == pytest.approx(0, abs=0.04)
    assert [late[number][0] for number in (0, 60)] == pytest.approx([2, 10], abs=0.04)


def test_an_archive_that_breaks_off_says_so_and_the_rest_opens(open_archive, passphrase_file, tmp_path, monkeypatch):
    """Such as a store in the network, whose errors may quote an address with a password."""
    read = frameseal.archive.read

    def broken(*arguments, **options):
        yield next(read(*arguments, **options))
        raise OSError(errno.EIO, "Input/output error", "s3://user:password@host")

    monkeypatch.setattr(frameseal.archive, "read", broken)
    rows = archive(tmp_path / "archive", sealed(meeting(4), {"alice": ring(), "bob": ring()}), segments=2)
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 1
    assert "Missing: the archive cannot be read further: Input/output error\n" in printed
    assert "password" not in printed
    assert len(shown(tmp_path / "opened" / "alice.mkv")) > 50


def of_another_recording(table):
    """Return a segment's table whose sixth row belongs to another recording."""
    names = table["recording"].to_pylist()
    names[5] = "tuesday"
    return table.set_column(0, table.schema.field(0).with_type(pa.string()), pa.array(names))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a Parquet file, or truncated"),
        (lambda path: path.unlink(), "the segment is missing"),
        (lambda path: rewrite(path, of_another_recording), ", row 5: the row belongs to another recording"),
        (lambda path: rewrite(path, lambda table: table.drop_columns("sealed")), "the column sealed is missing"),
    ],
)
def test_a_damaged_segment_is_named_and_everything_else_opens(open_archive, passphrase_file, tmp_path, damage, message):
    rows = sealed(meeting(4), {"alice": ring(), "bob": ring()})
    assert not any(row.gap for row in rows)  # the recorder knew nothing of the damage
    folder = archive(tmp_path / "archive", rows, segments=4)
    segments = sorted(folder.glob("*.parquet"))
    assert len(segments) == 4
    damage(segments[1])
    status, printed = open_archive(folder, "--passphrase-file", passphrase_file)
    assert status == 1
    (missing,) = [line for line in printed.splitlines() if line.startswith("Missing: ")]
    assert segments[1].name in missing and message in missing
    assert "Not everything has opened." in printed
    numbers = [picture.number for _, picture in shown(tmp_path / "opened" / "alice.mkv")]
    assert None not in numbers and numbers[0] == 0 and numbers[-1] == 119
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    assert len(steps) == 2, "there is one gap, and it ends with a keyframe"


def test_a_foreign_file_in_the_archive_is_named_and_all_frames_open(open_archive, passphrase_file, tmp_path):
    folder = archive(tmp_path / "archive", sealed(meeting(), {"alice": ring(), "bob": ring()}))
    pq.write_table(pa.table({"a": [1]}), folder / "stranger.parquet")
    status, printed = open_archive(folder, "--passphrase-file", passphrase_file)
    assert status == 1
    assert "Missing: stranger.parquet: not a segment of this archive" in printed
    assert len(shown(tmp_path / "opened" / "alice.mkv")) == 60


def test_of_several_recordings_one_is_opened_and_the_others_are_named(open_archive, passphrase_file, tmp_path):
    folder, rings = tmp_path / "archive", {"alice": ring(), "bob": ring()}
    archive(folder, sealed(meeting(), rings), "monday")
    archive(folder, sealed(meeting(3), rings), "tuesday")
    here = ("--passphrase-file", passphrase_file)
    status, printed = open_archive(folder, *here)
    assert status == 1
    assert printed.count("another recording, tuesday: pass --recording") == 1
    assert len(shown(tmp_path / "opened" / "alice.mkv")) == 60
    status, printed = open_archive(folder, *here, "--recording", "tuesday", "--overwrite")
    assert status == 0 and "monday" not in printed
    assert len(shown(tmp_path / "opened" / "alice.mkv")) == 90
    status, printed = open_archive(folder, *here, "--recording", "friday", "--overwrite")
    assert status == 2
    assert printed == "frameseal open: the archive has no recording of this id, but: monday, tuesday\n"


def test_an_empty_archive_is_said_and_no_success(open_archive, passphrase_file, tmp_path):
    (tmp_path / "folder").mkdir()
    with ArchiveWriter(tmp_path / "recording", "room"):
        pass
    for folder in ("folder", "recording"):
        status, printed = open_archive(tmp_path / folder, "--passphrase-file", passphrase_file)
        assert status == 2
        assert printed == "frameseal open: the archive has no frames\n"


def test_a_missing_archive_is_said(open_archive, passphrase_file, tmp_path):
    status, printed = open_archive(tmp_path / "missing", "--passphrase-file", passphrase_file)
    assert status == 2
    assert printed == "frameseal open: there is no archive at this location\n"
    assert not (tmp_path / "opened").exists()


def test_an_altered_frame_does_not_open_and_is_counted(open_archive, passphrase_file):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring()})
    altered = bytearray(rows[100].sealed)
    altered[-20] ^= 1  # in the tag
    rows[100] = replace(rows[100], sealed=bytes(altered))
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 1
    assert "Not everything has opened." in printed


def test_the_output_may_not_lie_in_the_archive(tmp_path, passphrase_file, capsys):
    """Whoever stores the archive must not receive opened media."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for output in (folder, folder / "opened", tmp_path / "link" / "opened", folder / ".." / "archive" / "opened"):
        status = main(["open", str(folder), "-o", str(output), "--passphrase-file", str(passphrase_file)])
        assert status == 2
        assert "inside the archive" in capsys.readouterr().err
    for option, name in (("--grid", "grid.mp4"), ("--transcript", "said")):
        arguments = [option, str(folder / name), "--passphrase-file", str(passphrase_file)]
        assert main(["open", str(folder), "-o", str(tmp_path / "opened"), *arguments]) == 2
        assert option in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", ["--passphrase", "--pass", "--key", "--key-hex"])
def test_a_key_on_the_command_line_is_refused_and_not_printed(option, capsys):
    """Other users of the machine read command lines, and shells keep them."""
    for arguments in ([option, MARKER], [f"{option}={MARKER}"]):
        with pytest.raises(SystemExit) as exit_:
            main(["open", "archive", "-o", "opened", *arguments])
        assert exit_.value.code == 2
        assert not shows(capsys.readouterr().err)


def test_without_a_key_and_a_terminal_it_says_how_to_pass_one(open_archive, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    status, printed = open_archive(sealed(meeting(), {"alice": ring(), "bob": ring()}))
    assert status == 2
    assert "--passphrase-file or --key-file" in printed


ON_TERMINAL = """
import sys
from frameseal.tools.cli import main
sys.exit(main(["open", sys.argv[1], "-o", sys.argv[2]]))
"""


def test_on_a_terminal_it_asks_shows_a_bar_and_never_the_passphrase(tmp_path):
    folder = archive(tmp_path / "archive", sealed(meeting(8), {"alice": ring(), "bob": ring()}))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PYTHONPATH=os.pathsep.join(sys.path), TERM="xterm", COLUMNS="160")
        os.execv(sys.executable, [sys.executable, "-c", ON_TERMINAL, str(folder), str(tmp_path / "opened")])
    seen = b""
    while b"Passphrase of the recording: " not in seen:
        seen += os.read(terminal, 4096)
    os.write(terminal, PASSPHRASE.encode() + b"\n")
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the terminal is closed with the program
            break
        if not piece:
            break
        seen += piece
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert PASSPHRASE.encode() not in seen
    assert b"opening" in seen and "━".encode() in seen
    assert b"alice.mkv" in seen


def test_a_full_folder_and_a_missing_recogniser_are_found_before_the_work(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring()})
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file, "--transcript", tmp_path / "said")
    assert status == 2 and "frameseal.recognizers" in printed
    assert not (tmp_path / "opened").exists()
    (tmp_path / "opened").mkdir()
    (tmp_path / "opened" / "alice.mkv").write_bytes(b"precious")
    status, printed = open_archive(rows, "--passphrase-file", passphrase_file)
    assert status == 2 and "--overwrite" in printed
    status, _ = open_archive(rows, "--passphrase-file", passphrase_file, "--overwrite")
    assert status == 0


def test_names_of_strangers_do_not_move_the_cursor(open_archive, passphrase_file):
    name = "\x1b[2J[bold]eve\u202e"
    frames = [replace(frame, participant=name) for frame in meeting() if frame.participant == "alice"]
    _, printed = open_archive(sealed(frames, {name: ring()}), "--passphrase-file", passphrase_file)
    assert "\x1b[2J" not in printed and "\u202e" not in printed
    assert "[bold]eve" in printed


def test_a_grid_is_written_beside(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring()})
    grid = tmp_path / "meeting.mp4"
    assert open_archive(rows, "--passphrase-file", passphrase_file, "--grid", grid)[0] == 0
    assert grid.stat().st_size > 1000


def test_a_grid_that_cannot_be_written_leaves_the_rest_and_status_1(open_archive, passphrase_file, tmp_path):
    rows = sealed(meeting(), {"alice": ring(), "bob": ring()})
    arguments = ["--passphrase-file", passphrase_file, "--grid", tmp_path / "missing" / "meeting.mp4"]
    status, printed = open_archive(rows, *arguments)
    assert status == 1
    assert "Missing: the grid: No such file or directory" in printed
    assert (tmp_path / "opened" / "alice.mkv").exists() and (tmp_path / "opened" / "timeline.png").exists()


@pytest.mark.parametrize("module", ["pyarrow", "rich", "PIL", "av", "numpy"])
def test_a_missing_package_is_named_with_its_fix_in_one_line(module, passphrase_file, tmp_path):
    program = f"""import sys
sys.modules[{module!r}] = None
from frameseal.tools.cli import main
sys.exit(main(["open", "x", "-o", {str(tmp_path / "opened")!r}, "--passphrase-file", {str(passphrase_file)!r}]))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert 'pip install "frameseal[archive,cli]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path(tmp_path / "opened" / "alice.mkv").exists()
