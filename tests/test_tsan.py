"""What `make tsan` makes of its programs, with scripts in their place: a race fails it, and so does its silence."""

import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from support.paths import ROOT

TSAN = ROOT / "rust/tsan"

PASSED = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'\n"
RACE = "echo 'WARNING: ThreadSanitizer: data race (pid=1)'; echo '    #0 {where} file.rs:1'; exit {code}\n"
PLANTED = """case $3 in in_rust) where=planted::in_rust;; in_the_crypto_library) where=CTR_DRBG_generate;;
*) where=OpenPlan;; esac
""" + RACE.format(where="$where", code=66).replace("'    #0 $where file.rs:1'", '"    #0 $where file.rs:1"')


@pytest.fixture
def tsan(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(TSAN)
    module = importlib.import_module("tsan")
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    return module


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return path


def outcome(tsan, tmp_path: Path, body: str, name: str = "threads"):
    return tsan.run(name, [str(script(tmp_path / "program", body))], {})


def test_a_target_without_a_race_passes_with_the_number_of_its_tests(tsan, tmp_path):
    done = outcome(tsan, tmp_path, PASSED)
    assert done.fault() is None
    assert (done.passed, done.reports) == (3, 0)
    assert re.match(r"threads +3 +0 +0$", done.row())
    assert (tmp_path / "work/logs/threads.log").read_text() == done.log


@pytest.mark.parametrize("code", [0, 66])
def test_a_race_fails_its_target_and_is_told(tsan, tmp_path, code):
    done = outcome(tsan, tmp_path, PASSED + RACE.format(where="somewhere", code=code))
    assert "somewhere" in done.fault()


@pytest.mark.parametrize(("body", "told"), [("exit 0", "no test ran"), (f"{PASSED}exit 101", "ended with 101")])
def test_a_target_that_fails_or_runs_no_test_fails(tsan, tmp_path, body, told):
    assert told in outcome(tsan, tmp_path, body).fault()


def test_a_target_that_does_not_end_is_stopped_and_fails(tsan, tmp_path, monkeypatch):
    monkeypatch.setattr(tsan, "MAX_SECONDS", 0.2)
    assert "did not end" in outcome(tsan, tmp_path, "exec sleep 60").fault()


@pytest.mark.parametrize(
    "body",
    [PASSED, RACE.format(where="planted::in_rust", code=0), RACE.format(where="elsewhere", code=66)],
    ids=["no-report", "no-exit-code", "another-race"],
)
def test_a_planted_race_that_is_not_reported_as_such_is_missed(tsan, tmp_path, body):
    assert "missed this planted race" in outcome(tsan, tmp_path, body, "in_rust").missed()


@pytest.mark.parametrize(
    ("planted", "threads", "told"),
    [(PLANTED, PASSED, None), (PASSED, PASSED, "missed"), (PLANTED, RACE.format(where="here", code=66), "here")],
    ids=["all-well", "blind", "a-race"],
)
def test_one_fault_is_enough_to_fail(tsan, tmp_path, monkeypatch, capsys, *, planted, threads, told):
    built = {"planted": script(tmp_path / "planted", planted), "threads": script(tmp_path / "threads", threads)}
    monkeypatch.setattr(tsan, "build", lambda: dict(built))
    assert tsan.main([]) == (0 if told is None else 1)
    said = capsys.readouterr()
    assert ("3 tests without a race, 3 planted races found" in said.out) == (told is None)
    assert told is None or told in said.err


def test_programs_are_found_in_the_messages_of_cargo(tsan):
    messages = [
        {"reason": "compiler-artifact", "target": {"name": "frameseal"}, "executable": None},
        {"reason": "compiler-artifact", "target": {"name": "threads"}, "executable": "built/threads-1"},
        {"reason": "build-finished", "success": True},
    ]
    assert tsan.programs("\n".join(map(json.dumps, messages))) == {"threads": Path("built/threads-1")}


def test_every_planted_race_is_looked_for_and_every_test_with_threads_runs(tsan):
    planted = re.findall(r"fn (in_\w+)\(\)", (TSAN / "tests/planted.rs").read_text("utf-8"))
    assert sorted(planted) == sorted(tsan.PLANTED)
    core = ROOT / "rust/core/tests"
    # The models are no test of their own: their threads are loom's.
    threaded = {
        path.relative_to(core).parts[0].removesuffix(".rs")
        for path in core.rglob("*.rs")
        if re.search(r"thread::(scope|spawn)|plan_batch", path.read_text("utf-8"))
    } - {"models"}
    built = {each["name"] for each in tomllib.loads((TSAN / "Cargo.toml").read_text("utf-8"))["test"]}
    assert threaded <= built
