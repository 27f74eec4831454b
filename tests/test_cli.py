"""The command line, but for the demo's call itself (test_demo.py)."""

import base64
import subprocess
import sys

import pytest

from frameseal.cli import main
from frameseal.e2ee import ExternalE2EEKeyProvider


def run(*arguments, code=None):
    """Run the command line in a Python of its own, after `code`."""
    program = f"{code or ''}\nimport sys; from frameseal.cli import main; sys.exit(main({list(arguments)!r}))"
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


def test_a_module_that_is_no_extra_is_not_explained_away():
    result = run("demo", code="import sys; sys.modules['frameseal.demo.call'] = None")
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr


def test_keygen_needs_no_extra():
    missing = "import sys\nfor name in ('rich', 'aiortc', 'av', 'numpy', 'PIL'): sys.modules[name] = None"
    assert run("keygen", code=missing).returncode == 0


def test_python_m_frameseal_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "frameseal", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "demo" in result.stdout and "keygen" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["seal"],
        ["demo", "--profile", "rot13"],
        ["demo", "--codec", "av1"],
        ["demo", "--seconds", "0"],
        ["demo", "--seconds", "long"],
        ["demo", "--loss", "nan"],
        ["demo", "--loss", "101"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: frameseal" in capsys.readouterr().err


def test_media_that_cannot_be_opened_is_one_line_and_exit_status_2(tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("not a film")
    for media in (text, tmp_path / "missing.mp4"):
        assert main(["demo", "--media", str(media), "--output", str(tmp_path / "demo.png")]) == 2
        error = capsys.readouterr().err
        assert str(media) in error and len(error.splitlines()) == 1


def test_a_picture_without_a_folder_is_refused_before_the_call(tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path / "missing" / "demo.png")]) == 2
    assert "missing" in capsys.readouterr().err


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
