"""What `make deny` makes of cargo-deny, with a script in its place: what is judged, and whom it does not believe."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from support.paths import ROOT

# Refuses a planted crate, as cargo-deny with deny.toml does.
REFUSES = """grep -q 'AGPL\\|path = "ring"\\|git = ' "$2" && exit 1
exit 0
"""


@pytest.fixture
def deny(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "release")
    module = importlib.import_module("deny")
    # Neither git nor cargo runs: the script reads the manifest that is planted.
    run = subprocess.run
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(module.subprocess, "run", lambda c, **k: done if c[0] in ("git", "cargo") else run(c, **k))
    return module


def script(folder: Path, body: str) -> Path:
    path = folder / "cargo-deny"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{body}')
    path.chmod(0o755)
    return path


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_every_lock_file_of_the_tree_is_judged(deny):
    found = {path.parent for path in deny.roots(ROOT)}
    places = (ROOT.glob("Cargo.lock"), ROOT.glob("rust/**/Cargo.lock"), ROOT.glob("benches/**/Cargo.lock"))
    assert found == {path.parent for place in places for path in place}
    assert {ROOT, ROOT / "rust/fuzz"} <= found


@pytest.mark.parametrize("advisories", [False, True])
def test_each_check_is_asked_for_and_advisories_on_request(deny, tmp_path, capsys, advisories):
    arguments = ["--command", str(script(tmp_path, REFUSES)), *(["--advisories"] if advisories else [])]
    assert deny.main(arguments) == 0
    lines = [line for line in asked(tmp_path) if str(ROOT / "Cargo.toml") in line]
    assert len(lines) == 1
    assert "--locked" in lines[0]
    assert lines[0].endswith(" bans licenses sources" + advisories * " advisories")
    assert ("left to ARGS=--advisories" in capsys.readouterr().out) != advisories


@pytest.mark.parametrize(
    ("body", "words"), [("exit 0", "accepts a planted fault"), ("exit 1", "refuses a sound crate")]
)
def test_a_cargo_deny_that_accepts_or_refuses_everything_is_not_believed(deny, tmp_path, capsys, body, words):
    assert deny.main(["--command", str(script(tmp_path, body))]) == 1
    said = capsys.readouterr().err
    assert all(f"{check} {words}" in said for check in deny.CHECKS)
    assert not any(str(ROOT / "rust/fuzz/Cargo.toml") in line for line in asked(tmp_path))


def test_one_crate_that_is_refused_fails(deny, tmp_path, capsys):
    program = script(tmp_path, f'[ "$2" = {ROOT}/rust/fuzz/Cargo.toml ] && exit 1\n{REFUSES}')
    assert deny.main(["--command", str(program)]) == 1
    assert "change the dependency or deny.toml" in capsys.readouterr().err


def test_a_planted_crate_has_its_fault_and_a_sound_one_none(deny, tmp_path):
    for name, crate in {"sound": deny.SOUND, **deny.PLANTED}.items():
        text = deny.plant(tmp_path / name, *crate).read_text()
        assert len(re.findall("AGPL|path = |git = ", text)) == (name != "sound")
    assert deny.PLANTED.keys() == set(deny.CHECKS)
