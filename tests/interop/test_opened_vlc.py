"""The files of `frameseal open` play in Debian's VLC, whose Matroska parser is not FFmpeg's: every codec, to the end.

`make interop` installs VLC. It plays into a file here, without a screen and as fast as it can. VLC refuses to run as
root.
"""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from frameseal.tools.opening import open_frames
from support.recorded import assert_pure, heard, pictures, recorded, shown, sounds, together

VLC = shutil.which("vlc")
pytestmark = pytest.mark.skipif(VLC is None, reason="needs VLC: make interop")

SECONDS = 2
NOBODY = 65534


@pytest.fixture
def folder():
    """Return a folder that the user of VLC can read and write. pytest's own is for the user of the test alone."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def played(path, chain, container):
    """Return the file into which VLC has played another one."""
    made = path.with_name(f"played.{container}")
    path.parent.chmod(0o777)
    subprocess.run(
        [
            VLC,
            "--intf=dummy",
            "--quiet",
            "--no-sout-audio" if "vcodec" in chain else "--no-sout-video",
            f"--sout=#transcode{{{chain}}}:std{{access=file,mux={container},dst={made}}}",
            path,
            "vlc://quit",
        ],
        check=True,
        timeout=60,  # for a VLC that does not end, not a measurement
        env={**os.environ, "HOME": str(path.parent)},
        **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}),
    )
    return made


@pytest.mark.parametrize("codec", ["vp8", "vp9", "h264", "h265"])
def test_vlc_shows_every_picture(folder, codec):
    """VLC's encoder repeats a picture at the start and holds back the last two."""
    frames = recorded(pictures(codec, SECONDS * 30), codec=codec)
    mic = recorded(sounds("opus", SECONDS), codec="opus", track="mic", ssrc=2)
    (file,) = open_frames(together(frames, mic), folder / "opened").files
    found = [picture.number for _, picture in shown(played(file.path, "vcodec=mp4v,vb=4000,fps=30", "mkv"))]
    assert found == sorted(found)
    assert set(found) >= set(range(SECONDS * 30 - 2))


@pytest.mark.parametrize("codec", ["opus", "pcmu", "pcma", "g722"])
def test_vlc_plays_the_sound(folder, codec):
    mic = recorded(sounds(codec, SECONDS), codec=codec, track="mic")
    camera = recorded(pictures("vp8", SECONDS * 30), codec="vp8", ssrc=2)
    (file,) = open_frames(together(mic, camera), folder / "opened").files
    samples, _, rate = heard(played(file.path, "acodec=s16l", "wav"))
    assert len(samples) == pytest.approx(SECONDS * rate, abs=0.05 * rate)
    assert_pure(samples, rate)
