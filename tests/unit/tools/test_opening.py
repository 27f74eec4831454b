"""Opened recordings become files: decoded again, pictures have their numbers, sound its tone, and gaps are gaps."""

import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import av
import pytest

from frameseal.tools.opening import open_frames
from frameseal.tools.opening.matroska import PARTS, RESERVED_FILES, UnusableFolder, file_names
from frameseal.tools.opening.source import UnreadableArchive
from frameseal.tools.opening.timeline import draw_timeline
from support.calls import assert_shown
from support.recorded import (
    assert_pure,
    heard,
    onset,
    pictures,
    recorded,
    shown,
    sounds,
    together,
)

VIDEO, AUDIO = ("vp8", "vp9", "h264", "h265"), ("opus", "pcmu", "pcma", "g722")


def packets(path):
    """Return the packets of each stream: time in milliseconds, bytes, and True for a keyframe."""
    with av.open(str(path)) as container:
        found = [[] for _ in container.streams]
        for packet in container.demux():
            if packet.size:
                found[packet.stream.index].append((packet.pts, bytes(packet), packet.is_keyframe))
        return found


def alice(folder, *tracks, **options):
    opened = open_frames(together(*tracks), folder, **options)
    (file,) = opened.files
    return opened, file


@pytest.mark.parametrize(("video", "audio"), [*zip(VIDEO, AUDIO, strict=True)])
def test_each_codec_plays_with_its_pictures_tone_and_sync(tmp_path, video, audio):
    """At one second picture 30 was drawn and the tone began. The network delays both by up to 80 ms."""
    opened, file = alice(
        tmp_path,
        recorded(pictures(video, 90), codec=video, jitter=0.08),
        recorded(sounds(audio, 3, silence=1), track="mic", codec=audio, jitter=0.08, ssrc=2, rtp_start=7, seed=9),
    )
    assert opened.complete
    found = shown(file.path)
    assert_shown([picture for _, picture in found], "red", 90)
    samples, times, rate = heard(file.path)
    assert_pure(samples[int(1.2 * rate) :], rate)
    assert len(samples) == 3 * rate, "a sample was lost or added"
    assert {round(later - earlier, 3) for earlier, later in pairwise(times)} <= {0.019, 0.02, 0.021}
    (thirty,) = [time for time, picture in found if picture.number == 30]
    assert abs(thirty - onset(file.path)) < 0.04


@pytest.mark.parametrize("codec", ["vp8", "vp9", "opus"])
def test_frames_are_remuxed_byte_by_byte(tmp_path, codec):
    frames = sounds(codec, 2) if codec in AUDIO else pictures(codec, 60)
    _, file = alice(tmp_path, recorded(frames, codec=codec))
    (written,) = packets(file.path)
    assert tuple(data for _, data, _ in written) == frames


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_start_codes_become_lengths_and_the_units_stay(tmp_path, codec):
    frames = pictures(codec, 60)
    _, file = alice(tmp_path, recorded(frames, codec=codec))
    with av.open(str(file.path)) as container:
        assert container.streams[0].codec_context.extradata[0] == 1  # avcC or hvcC, and no start code
    (written,) = packets(file.path)
    for (_, data, _), frame in zip(written, frames, strict=True):
        assert units_with_lengths(data) == units_with_start_codes(frame)


def units_with_lengths(data):
    units = []
    while data:
        length = int.from_bytes(data[:4], "big")
        units.append(data[4 : 4 + length])
        assert len(units[-1]) == length
        data = data[4 + length :]
    return units


def units_with_start_codes(frame):
    units = frame.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    assert units[0] == b""
    return units[1:]


@pytest.mark.parametrize("codec", VIDEO)
def test_no_encoder_is_started(tmp_path, codec, capfd):
    """An encoder would cost time and memory, and that of H.265 prints lines about itself."""
    frames = recorded(pictures(codec, 60), codec=codec)
    capfd.readouterr()
    alice(tmp_path, frames)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", ["pcmu", "pcma"])
def test_g711_keeps_every_sample(tmp_path, codec):
    """Linear PCM holds all values of G.711, so that nothing is lost."""
    frames = sounds(codec, 1)
    _, file = alice(tmp_path, recorded(frames, codec=codec))
    with av.open(str(file.path)) as container:
        assert container.streams[0].codec_context.name == "pcm_s16le"
        assert container.streams[0].codec_context.sample_rate == 8000
    encoder = av.CodecContext.create("pcm_mulaw" if codec == "pcmu" else "pcm_alaw", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    with av.open(str(file.path)) as container:
        again = b"".join(bytes(packet) for frame in container.decode(audio=0) for packet in encoder.encode(frame))
    assert again == b"".join(frames)


# --- gaps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "unopened"])
@pytest.mark.parametrize("codec", VIDEO)
def test_after_missing_frames_pictures_go_on_with_the_next_keyframe(tmp_path, codec, how):
    """Frames 40 to 44 are missing, and the next keyframe is frame 60: no damaged picture is shown."""
    opened, file = alice(tmp_path, recorded(pictures(codec, 90), codec=codec, **{how: range(40, 45)}))
    found = shown(file.path)
    assert [picture.number for _, picture in found] == [*range(40), *range(60, 90)]
    times = [time for time, _ in found]
    assert times[40] - times[39] == pytest.approx(21 / 30, abs=0.002)
    assert file.tracks[0].waited == 15
    assert opened.complete is (how == "missing")


@pytest.mark.parametrize("codec", AUDIO)
def test_the_seconds_of_speech_are_those_with_sound(tmp_path, codec):
    opened, _ = alice(tmp_path, recorded(sounds(codec, 3, silence=1), track="mic", codec=codec))
    assert opened.history.people["alice"].spoke == {1, 2}


def test_missing_sound_is_a_gap_of_its_length(tmp_path):
    _, file = alice(tmp_path, recorded(sounds("opus", 3), codec="opus", track="mic", missing=range(50, 75)))
    (written,) = packets(file.path)
    times = [time for time, _, _ in written]
    assert len(times) == 125
    assert times[50] - times[49] == 20 + 500


def test_a_recording_that_begins_within_a_picture_begins_with_the_keyframe(tmp_path):
    opened, file = alice(tmp_path, recorded(pictures("vp8", 60)[10:], codec="vp8"))
    assert [picture.number for _, picture in shown(file.path)] == list(range(30, 60))
    assert file.tracks[0].waited == 20
    assert opened.complete, "the frames have opened"


def test_a_participant_who_leaves_and_comes_back_has_one_file_with_a_gap(tmp_path):
    _, file = alice(
        tmp_path,
        recorded(pictures("vp8", 60), codec="vp8"),
        recorded(pictures("vp8", 60, first=100), codec="vp8", at=20, ssrc=5, rtp_start=3),
    )
    found = shown(file.path)
    assert [picture.number for _, picture in found] == [*range(60), *range(100, 160)]
    assert found[60][0] - found[59][0] == pytest.approx(18 + 1 / 30, abs=0.04)


# --- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", VIDEO)
def test_pictures_may_change_their_size(tmp_path, codec):
    frames = pictures(codec, 30) + pictures(codec, 30, size=(640, 480), first=30)
    _, file = alice(tmp_path, recorded(frames, codec=codec))
    with av.open(str(file.path)) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(320, 240)] * 30 + [(640, 480)] * 30
    assert [picture.number for _, picture in shown(file.path)] == list(range(60))


def test_a_track_that_changes_its_codec_has_a_track_in_the_file_for_each(tmp_path):
    opened, file = alice(
        tmp_path,
        recorded(pictures("vp8", 30), codec="vp8"),
        recorded(pictures("h264", 30, first=30), codec="h264", at=1, ssrc=2),
    )
    assert opened.complete
    assert [picture.number for _, picture in shown(file.path, 0)] == list(range(30))
    second = shown(file.path, 1)
    assert [picture.number for _, picture in second] == list(range(30, 60))
    assert second[0][0] == pytest.approx(1, abs=0.04)


def test_camera_and_screen_are_tracks_of_one_file_with_their_names(tmp_path):
    _, file = alice(
        tmp_path,
        recorded(sounds("opus", 1), codec="opus", track="mic", ssrc=3),
        recorded(pictures("vp8", 30), codec="vp8", track="camera"),
        recorded(pictures("vp8", 30, colour="blue"), codec="vp8", track="screen", ssrc=2),
    )
    with av.open(str(file.path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "video", "audio"]
        assert {stream.metadata["title"] for stream in container.streams} == {"camera", "screen", "mic"}
        assert container.metadata["title"] == "alice"
    assert {picture.colour for index in (0, 1) for _, picture in shown(file.path, index)} == {"red", "blue"}


# --- what does not open ----------------------------------------------------------------------------------------------


def test_half_a_recording_opens_and_says_which_half(tmp_path):
    opened = open_frames(
        together(
            recorded(pictures("vp8", 60), codec="vp8"),
            recorded(pictures("vp8", 60), participant="bob", codec="vp8", unopened=range(60), key_id=3),
        ),
        tmp_path,
    )
    assert not opened.complete
    first, second = opened.files
    assert len(shown(first.path)) == 60
    assert not second.path.exists()
    assert opened.history.people["bob"].failures == {("authentication failed", 3): 60}
    assert opened.history.people["alice"].failures == {}


def test_nothing_opened_is_not_everything_opened(tmp_path):
    assert not open_frames([], tmp_path).complete


@pytest.mark.parametrize("codec", ["av1", "made-up", ""])
def test_a_codec_without_a_place_in_a_file_is_a_problem_and_the_rest_is_written(tmp_path, codec):
    strange = [replace(frame, codec=codec) for frame in recorded([b"frame"] * 30, track="strange", codec="vp8")]
    opened, file = alice(tmp_path, strange, recorded(sounds("opus", 1), codec="opus", track="mic", ssrc=2))
    assert len(opened.problems) == 1 and not opened.complete
    assert len(packets(file.path)) == 1


@pytest.mark.parametrize("codec", [*VIDEO, *AUDIO])
def test_frames_of_a_liar_make_no_exception(tmp_path, codec):
    """Whoever has a key may seal anything. The frames of others are written all the same."""
    junk = [os.urandom(length) for length in (1, 2, 3, 10, 200, 2000)] + [b"\0\0\0\1\x67", b"\0\0\0\1\x65" + bytes(40)]
    opened = open_frames(
        together(
            recorded([*junk, *([bytes(50)] * 20)], participant="mallory", codec=codec),
            recorded(pictures("vp8", 30), codec="vp8"),
        ),
        tmp_path,
    )
    assert len(shown(opened.files[1].path)) == 30


@pytest.mark.parametrize("years", [-2000, 5000])
def test_a_frame_of_another_millennium_is_written_like_any_other(tmp_path, years):
    frames = recorded(sounds("opus", 6), codec="opus", track="mic")
    strange = replace(frames[150], arrival=frames[150].arrival.replace(year=2026 + years), ssrc=77)
    opened, file = alice(tmp_path, [*frames[:150], strange, *frames[151:]])
    assert opened.complete and file.tracks[0].written == 300
    draw_timeline(opened.history, opened.clocks.start)


def test_a_source_that_fails_leaves_what_came_before(tmp_path):
    def failing():
        yield from recorded(pictures("vp8", 60), codec="vp8")
        raise UnreadableArchive("segment-2.parquet, row 7: truncated")

    opened = open_frames(failing(), tmp_path)
    assert len(shown(opened.files[0].path)) == 60
    assert opened.problems == ["segment-2.parquet, row 7: truncated"]
    assert not opened.complete


# --- names and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "participant", ["../../etc/passwd", "", ".", "..", "a/b", "a\\b", "C:\\x", "\0", "é" * 300, "-rf", "con", "\ud800"]
)
def test_no_participant_writes_outside_the_folder(tmp_path, participant):
    folder = tmp_path / "opened"
    opened = open_frames(recorded(sounds("opus", 0.5), participant=participant, codec="opus"), folder)
    (file,) = opened.files
    assert file.path.parent == folder and file.path.exists()
    assert len(file.path.name) < 100
    assert [path.name for path in tmp_path.iterdir()] == ["opened"]


def test_no_two_participants_share_a_file():
    """Also where a file system ignores case, and where somebody calls themselves as another's file."""
    first = file_names(["a/b"])["a/b"]
    people = [first, "a/b", "a\\b", "Bob", "bob", "BOB", "a_b", "", "_"]
    names = file_names(people)
    assert len({name.lower() for name in names.values()}) == len(people)


def test_a_folder_with_files_is_refused_and_stays_as_it_was(tmp_path):
    (tmp_path / "alice.mkv").write_bytes(b"precious")
    with pytest.raises(UnusableFolder, match="--overwrite"):
        open_frames(recorded(sounds("opus", 0.5), codec="opus"), tmp_path)
    assert (tmp_path / "alice.mkv").read_bytes() == b"precious"
    assert open_frames(recorded(sounds("opus", 0.5), codec="opus"), tmp_path, overwrite=True).complete
    assert (tmp_path / "alice.mkv").read_bytes() != b"precious"


def test_no_part_stays_behind_and_those_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / PARTS).mkdir()
    (tmp_path / PARTS / "0.mkv").write_bytes(b"opened media of a killed run")
    open_frames(recorded(sounds("opus", 0.5), codec="opus"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["alice.mkv"]


def test_an_unexpected_error_leaves_no_part_behind(tmp_path):
    def interrupted():
        yield from recorded(sounds("opus", 3), codec="opus")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_frames(interrupted(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UnusableFolder, match="Not a directory"):
        open_frames([], tmp_path / "file" / "opened")
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)


def test_more_tracks_than_files_may_be_open_are_named_and_the_others_are_written(tmp_path):
    """Each track has a file of its own until the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    people = [recorded(sounds("opus", 1), participant=f"guest{number}", codec="opus") for number in range(90)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVED_FILES + 80, hard))
    try:
        opened = open_frames(together(*people), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [file.path.exists() for file in opened.files] == [True] * 80 + [False] * 10
    assert len(opened.problems) == 10
    assert opened.problems[0].startswith("audio of guest80 (opus): there are more than 80 tracks")
    assert not opened.complete


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from frameseal.tools.opening import open_frames
from support.recorded import pictures, recorded
frames = recorded(pictures("vp8", 300, size=(640, 480)), codec="vp8")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    open_frames(frames, Path(sys.argv[1]))
except OSError as error:
    print("OSError", error.errno)
"""


def test_a_full_disk_is_an_error_and_leaves_no_file_that_looks_complete(tmp_path):
    """A limit on a file's size stands for the full disk: the same call fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "opened")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("OSError"), done.stderr
    assert list((tmp_path / "opened").iterdir()) == []
