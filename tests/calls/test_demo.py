"""`frameseal demo`: the call, the verdict on it, and what it leaves behind.

The verdict is worth something only if it can be bad: each way in which a call can be wrong is tried on a real call.
"""

import io
import re
import shlex
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from frameseal.tools import media
from frameseal.tools.cli import main
from frameseal.tools.demo import CallOptions, picture, run, sound
from frameseal.tools.demo.call import Status
from frameseal.tools.demo.observer import Eavesdropper, Observer
from frameseal.tools.demo.poster import draw_poster
from frameseal.tools.demo.published import SentMedia
from frameseal.tools.demo.verdict import failures, listen

SECONDS = 3.0


@pytest.fixture
def demo(tmp_path):
    """Runs the demo: exit status, what it printed, and its picture."""

    def demo(terminal=False, **options):
        printed = io.StringIO()
        console = Console(file=printed, force_terminal=terminal, width=100, color_system=None)
        output = tmp_path / "demo.png"
        status = run(CallOptions(**{"seconds": SECONDS, "passphrase": "of the test"} | options), output, console)
        return status, printed.getvalue(), Image.open(output)

    return demo


@pytest.mark.parametrize(("codec", "profile"), [("vp8", "videosdk"), ("h264", "livekit")])
def test_bob_sees_and_hears_alice_and_nobody_else_does(demo, codec, profile):
    status, printed, image = demo(codec=codec, profile=profile)
    assert status == 0, printed
    for line in (
        "alice: video EncryptionSuccess",
        "alice: audio EncryptionSuccess",
        "bob: video DecryptionSuccess",
        "bob: audio DecryptionSuccess",
        "eve: video DecryptionFailed (authentication_failed)",
        "eve: audio DecryptionFailed (authentication_failed)",
    ):
        assert line in printed
    assert "OK: Bob saw and heard Alice; the forwarder and Eve did not." in printed
    assert image.format == "PNG" and image.width > 1600


def test_bob_with_a_wrong_key_is_a_failure(demo):
    status, printed, _ = demo(bob_passphrase="another")
    assert status == 1
    assert "FAILED: Bob saw nothing" in printed


def test_eve_with_the_right_key_is_a_failure(demo):
    status, printed, _ = demo(eve_passphrase="of the test")
    assert status == 1
    assert "FAILED: Eve could see Alice" in printed


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_a_call_without_sealing_is_a_failure_for_the_forwarder_sees_it(demo, codec):
    status, printed, _ = demo(sealed=False, codec=codec)
    assert status == 1
    assert "FAILED: the forwarder could see Alice" in printed


def test_a_call_with_loss_still_gets_through(demo):
    status, printed, _ = demo(loss=0.03, seconds=6.0)
    assert status == 0, printed


def test_the_live_display_shows_states_counts_and_progress(demo):
    status, printed, _ = demo(terminal=True)
    assert status == 0, printed
    for text in ("EncryptionSuccess", "DecryptionSuccess", "DecryptionFailed", "no key", "frames ok", "of 3 s"):
        assert text in printed


def make_film(path: Path, rate: int, frames: int) -> Path:
    """Write drifting coloured tiles, with a chord that rises."""
    random = np.random.default_rng(7)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("aac", rate=44100)
        tiles = random.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)
        for n in range(frames):
            rgb = np.ascontiguousarray(np.roll(tiles, 4 * n, axis=1))
            container.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        t = np.arange(frames * 44100 // rate) / 44100
        samples = sum(np.sin(2 * np.pi * (f * t + 90 * t**2)) for f in (220, 277, 330)) * 4000
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None, :] / 32768, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path


def test_a_file_can_be_published_and_is_looped(demo, tmp_path):
    status, printed, _ = demo(media=make_film(tmp_path / "film.mp4", rate=25, frames=15), seconds=4.0)
    assert status == 0, printed
    sealed = re.findall(r"Alice sealed (\d+)", printed)
    assert int(sealed[-1]) > 15


def test_a_call_of_few_frames_a_second_lasts_until_it_can_be_judged(demo, tmp_path):
    status, printed, _ = demo(media=make_film(tmp_path / "film.mp4", rate=5, frames=15), seconds=1.0, terminal=True)
    assert status == 0, printed
    assert "until enough frames have passed" in printed


@pytest.mark.parametrize(("elapsed", "is_over"), [(2.9, False), (3.0, False), (32.9, False), (33.0, True)])
def test_a_call_without_frames_is_awaited_for_a_bounded_time(elapsed, is_over):
    sent = SentMedia()
    status = Status(CallOptions(seconds=3.0), sent, Eavesdropper(sent), Observer(sent), Observer(sent), elapsed=elapsed)
    assert status.is_over is is_over


def test_a_file_with_sound_alone_comes_with_the_clock(demo, tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        noise = np.random.default_rng(3).normal(0, 20000, 3 * 48000)
        file.writeframes(np.convolve(noise, np.ones(32) / 32).astype(np.int16).tobytes())
    status, printed, _ = demo(media=path, seconds=4.0)
    assert status == 0, printed


# --- the recording ---------------------------------------------------------------------------------------------------


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Makes a folder the current one, and another one that of the user's state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def printed_command(printed: str) -> list[str]:
    (line,) = re.findall(r"(?m)^  (frameseal open .*)$", printed)
    return shlex.split(line)[1:]


def opened_media(path):
    """Return the numbers of the pictures that Alice drew, and the sound."""
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        heard = np.concatenate([media.mono(frame) for frame in container.decode(audio=0)])
    return [picture.read_number(rgb) for rgb in shown], heard


@pytest.mark.parametrize(("codec", "profile"), [("vp8", "videosdk"), ("h264", "livekit"), ("vp8", "sframe")])
def test_the_printed_command_opens_what_the_forwarder_recorded(in_folder, capsys, codec, profile):
    arguments = ["demo", "--seconds", "3", "--codec", codec, "--profile", profile, "--record", "demo-archive"]
    assert main(arguments) == 0
    command = printed_command(capsys.readouterr().out)
    assert command[:3] == ["open", "demo-archive", "--passphrase-file"]
    secret = Path(command[3])
    assert secret.stat().st_mode & 0o777 == 0o600 and secret == in_folder / "state/frameseal/demo.passphrase"
    stored = b"".join(path.read_bytes() for path in Path("demo-archive").iterdir())
    assert secret.read_bytes().strip() not in stored

    assert main(command) == 0
    numbers, heard = opened_media("opened/alice.mkv")
    # Eve received 20 frames or more. The recorder joined before her, and its jitter buffer keeps the last ones.
    assert len(numbers) > 10 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    tone = sound.find_tone(heard)
    assert tone.frequency == pytest.approx(440, abs=1) and tone.share > 0.9


def test_a_second_demo_in_one_archive_opens_with_the_same_passphrase_and_its_own_name(in_folder, capsys, monkeypatch):
    names = iter(("demo-1", "demo-2"))
    monkeypatch.setattr("frameseal.tools.recording.keyless.fresh_id", lambda name: next(names))
    for number in (1, 2):
        assert main(["demo", "--seconds", "2", "--record", "archive", "--output", "demo.png"]) == 0
        command = printed_command(capsys.readouterr().out)
        assert command[2:4] == (["--recording", "demo-2"] if number == 2 else command[2:4])
        assert main([*command[:-1], f"opened-{number}"]) == 0
        assert Path(f"opened-{number}/alice.mkv").is_file()


def test_with_a_passphrase_that_was_typed_no_file_holds_it(in_folder, capsys):
    assert main(["demo", "--seconds", "2", "--record", "archive", "--passphrase", "of the test"]) == 0
    printed = capsys.readouterr().out
    assert printed_command(printed) == ["open", "archive", "-o", "opened"]
    assert "and type the passphrase of the call" in printed and not (in_folder / "state").exists()


def test_a_passphrase_file_of_the_users_is_used_and_never_changed(in_folder, capsys):
    Path("secret").write_text("of the test\n")
    assert main(["demo", "--seconds", "2", "--record", "archive", "--passphrase-file", "secret"]) == 0
    assert main(printed_command(capsys.readouterr().out)) == 0
    assert Path("secret").read_text() == "of the test\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--record", "archive", "--passphrase-file", "archive/secret"], "lies inside the archive"),
        (
            ["--record", "file"],
            "the archive cannot be written: Not a directory|the archive cannot be written: File exists",
        ),
        (["--record", "nonsense://x"], "location must be a folder, or an address"),
        (["--passphrase-file", "file/secret"], "the passphrase file cannot be read or made"),
        (["--passphrase-file", "empty"], "must hold one line of UTF-8"),
    ],
)
def test_a_recording_that_cannot_be_made_is_one_line_and_exit_status_2(in_folder, capsys, arguments, reason):
    Path("file").write_text("no folder")
    Path("empty").touch()
    assert main(["demo", "--seconds", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(reason, error) and len(error.splitlines()) == 1


# --- what the verdict stands on ---------------------------------------------------------------------------------------


def stamped(number, seconds=0.0):
    rgb = picture.Clock().draw(number, seconds)
    picture.stamp(rgb, number)
    return rgb


def seen(sent, *pictures):
    observer = Observer(sent)
    for rgb in pictures:
        observer.see(av.VideoFrame.from_ndarray(rgb, format="rgb24"))
    return observer


@pytest.mark.parametrize("number", [0, 1, 4711, 65535])
def test_a_picture_tells_its_number(number):
    assert picture.read_number(stamped(number)) == number


def test_a_picture_without_a_stamp_or_of_another_size_has_no_number():
    assert picture.read_number(picture.Clock().draw(5, 0.2)) is None
    assert picture.read_number(stamped(5)[:, :320]) is None


def test_noise_is_not_taken_for_a_picture():
    random = np.random.default_rng(1)
    sent = SentMedia(thumbnails={n: picture.thumbnail(stamped(n)) for n in range(20)})
    noise = [random.integers(0, 255, (picture.HEIGHT, picture.WIDTH, 3), dtype=np.uint8) for _ in range(50)]
    observer = seen(sent, *noise)
    assert (observer.frames, observer.right) == (50, 0)


def test_a_right_number_on_a_wrong_picture_is_not_taken_for_it():
    sent = SentMedia(thumbnails={7: picture.thumbnail(stamped(7))})
    swapped = stamped(7)[:, :, ::-1].copy()
    forged = np.full_like(swapped, 128)
    picture.stamp(forged, 7)
    observer = seen(sent, stamped(7), swapped, forged)
    assert (observer.frames, observer.right) == (3, 1)


def test_a_frame_that_was_never_sent_does_not_count():
    assert seen(SentMedia(), stamped(7)).right == 0


def test_the_tone_is_known_from_other_tones_noise_and_silence():
    t = np.arange(96000) / 48000
    heard = sound.find_tone(sound.tone(0, 96000))
    assert heard.frequency == pytest.approx(440, abs=0.1) and heard.share == 1
    assert sound.find_tone((9000 * np.sin(2 * np.pi * 550 * t)).astype(np.int16)).share == 0
    assert sound.find_tone(np.random.default_rng(1).integers(-9000, 9000, 96000, dtype=np.int16)).share == 0
    assert sound.find_tone(np.zeros(96000, np.int16)) == sound.Tone(0, 0)
    assert sound.find_tone(np.zeros(0, np.int16)) == sound.Tone(0, 0)


def test_a_recording_is_known_from_another_however_late_it_starts():
    random = np.random.default_rng(1)
    one, other = (np.cumsum(random.normal(0, 300, 5 * 48000)).clip(-30000, 30000).astype(np.int16) for _ in range(2))
    sent = SentMedia(sound=[one], is_tone=False)
    assert listen(sent, one[31000:]).score > 0.9
    assert listen(sent, random.integers(-9000, 9000, 5 * 48000, dtype=np.int16)).score < 0.2
    assert listen(sent, np.zeros(96000, np.int16)).score == 0
    assert listen(sent, other).score < listen(sent, one).score


def test_a_call_that_never_came_about_has_a_poster_too(tmp_path):
    sent = SentMedia()
    nobody = Observer(sent)
    status = Status(CallOptions(), sent, Eavesdropper(sent), nobody, nobody, failures=["nobody came"])
    assert draw_poster(status).size == (1924, 675)


def test_a_call_in_which_nothing_was_sent_proves_nothing():
    class Nothing(Observer):
        frames_tried = sounds_tried = 0

    sent = SentMedia()
    wrong = failures(sent, Nothing(sent), Observer(sent), Observer(sent), eve_was_sent=0)
    assert any("reached Eve, which proves nothing: run a longer call (--seconds)" in reason for reason in wrong)
    assert "Bob saw nothing" in wrong
