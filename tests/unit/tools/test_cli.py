"""The command line, but for the demo's call itself (test_demo.py)."""

import base64
import subprocess
import sys

import pytest

import frameseal
from frameseal.keys.provider import ExternalE2EEKeyProvider
from frameseal.tools.cli import main
from support import archives


def run(*arguments, code=None):
    """Run the command line in a Python of its own, after `code`."""
    program = f"{code or ''}\nimport sys; from frameseal.tools.cli import main; sys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def test_keygen_prints_32_random_bytes_and_says_how_to_use_them(capsys):
    keys = set()
    for _ in range(2):
        assert main(["keygen"]) == 0
        printed = capsys.readouterr()
        key = base64.urlsafe_b64decode(printed.out.strip())
        assert len(key) == 32
        assert "set_shared_key(base64.urlsafe_b64decode(KEY))" in printed.err
        assert len(printed.err.splitlines()) == 1
        ExternalE2EEKeyProvider().set_shared_key(key)
        keys.add(key)
    assert len(keys) == 2


def test_keygen_prints_a_passphrase_of_as_much_entropy(capsys):
    passphrases = set()
    for _ in range(2):
        assert main(["keygen", "--passphrase"]) == 0
        printed = capsys.readouterr()
        passphrase = printed.out.strip()
        assert len(bytes.fromhex(passphrase)) == 32
        assert "set_passphrase" in printed.err
        passphrases.add(passphrase)
    assert len(passphrases) == 2


@pytest.mark.parametrize("module", ["rich", "aiortc", "PIL", "numpy"])
def test_a_missing_extra_is_named_with_its_fix_in_one_line(module):
    result = run("demo", code=f"import sys; sys.modules[{module!r}] = None")
    assert result.returncode == 2
    assert 'pip install "frameseal[cli]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_extra_of_archives_is_named():
    result = run("archive", "ls", ".", code="import sys; sys.modules['pyarrow'] = None")
    assert result.returncode == 2
    assert 'pip install "frameseal[archive]"' in result.stderr


@pytest.mark.parametrize(
    ("arguments", "module", "extras"),
    [
        (["record", "--janus", "ws://x", "--room", "1", "-o", "made"], "pyarrow", "archive,cli,livekit"),
        (["record", "--janus", "ws://x", "--room", "1", "-o", "made"], "aiohttp", "archive,cli,livekit"),
        (["record", "--livekit", "ws://x", "-o", "made"], "livekit", "archive,cli,livekit"),
        (["demo", "--record", "made", "--passphrase", "x"], "pyarrow", "archive,cli"),
    ],
)
def test_the_extras_of_recordings_are_named(arguments, module, extras, tmp_path):
    result = run(*arguments, code=f"import sys, os; sys.modules[{module!r}] = None; os.chdir({str(tmp_path)!r})")
    assert result.returncode == 2
    assert f'pip install "frameseal[{extras}]"' in result.stderr


def test_a_recorded_demo_needs_the_extras_of_demo_and_archives_alone():
    missing = "import sys\nfor name in ('aiohttp', 'livekit'): sys.modules[name] = None"
    assert run("keygen", code=f"{missing}\nimport frameseal.tools.recording.keyless").returncode == 0


def test_an_archive_is_listed_verified_and_repaired(tmp_path, capsys):
    archives.archive(tmp_path, archives.call(archives.Sender(archives.provider(), "al\x1bice"), 20), segments=2)
    for action in ("ls", "verify"):
        assert main(["archive", action, str(tmp_path)]) == 0
        printed = capsys.readouterr()
        assert "room: 20 frames" in printed.out and "0 gaps, closed" in printed.out
        assert r"participants: al\x1bice" in printed.out
    assert main(["archive", "repair", str(tmp_path)]) == 0
    (tmp_path / "room.00000000.parquet").unlink()
    for action in ("ls", "verify"):
        assert main(["archive", action, str(tmp_path)]) == 1
        assert "room.00000000.parquet: the segment is missing" in capsys.readouterr().err
    assert main(["archive", "ls", str(tmp_path / "none")]) == 2
    assert "there is no archive at this location" in capsys.readouterr().err


def test_a_module_that_is_no_extra_is_not_explained_away():
    result = run("demo", code="import sys; sys.modules['frameseal.tools.demo.call'] = None")
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr


def test_keygen_needs_no_extra():
    missing = "import sys\nfor name in ('rich', 'aiortc', 'av', 'numpy', 'PIL'): sys.modules[name] = None"
    assert run("keygen", code=missing).returncode == 0


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"frameseal {frameseal.__version__}\n"


def test_python_m_frameseal_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "frameseal", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "demo" in result.stdout and "keygen" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "COMMAND"),
        (["seal"], "choose from"),
        (["demo", "--profile", "rot13"], "livekit"),
        (["demo", "--codec", "av1"], "h264"),
        (["demo", "--seconds", "0"], "a number from 1 to 600 seconds"),
        (["demo", "--seconds", "long"], "a number from 1 to 600 seconds"),
        (["demo", "--loss", "nan"], "a number from 0 to 30 percent"),
        (["demo", "--loss", "101"], "a number from 0 to 30 percent"),
        (["demo", "--passphrase", ""], "must not be empty"),
        (["inspect", "00", "--passphrase", ""], "must not be empty"),
        (["inspect", "00", "--key-hex", "0"], "hex digits, two for each byte"),
        (["meet", "--port", "1.5"], "a whole number from 0 to 65535"),
        (["meet", "--sfu", "janus"], "janus=ws://HOST:PORT"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(arguments, hint, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "usage: frameseal" in error
    assert hint in error
    assert "<Profile" not in error


def test_media_that_cannot_be_opened_is_one_line_and_exit_status_2(tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("not a film")
    for media in (text, tmp_path / "missing.mp4"):
        assert main(["demo", "--media", str(media), "--output", str(tmp_path / "demo.png")]) == 2
        error = capsys.readouterr().err
        assert "the media cannot be read" in error and len(error.splitlines()) == 1
        assert str(media) not in error


def test_a_picture_that_cannot_be_written_is_refused_before_the_call(tmp_path, capsys):
    for output in (tmp_path / "missing" / "demo.png", tmp_path):
        assert main(["demo", "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert "picture" in error and len(error.splitlines()) == 1
        assert str(output.parent) not in error
    assert list(tmp_path.iterdir()) == []


def test_bench_prints_a_row_for_each_profile_and_direction_in_the_time_it_is_given():
    done = run("bench", "--seconds", "3")
    assert (done.returncode, done.stderr.strip()) == (0, "")
    for row in (
        "livekit, encrypt",
        "livekit, decrypt",
        "sframe, encrypt",
        "sframe, decrypt",
        "cryptography: AEAD only",
    ):
        line = next(line for line in done.stdout.splitlines() if row in line)
        figures = [int(figure.replace(",", "")) for figure in line.replace(row, "").split() if figure[0].isdigit()]
        assert len(figures) == 5 and all(figure > 0 for figure in figures)
    assert "of a core to open" in done.stdout
