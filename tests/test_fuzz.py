"""What `make fuzz` makes of its targets, with scripts in their place: who fails is told, and who did nothing."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from support.paths import ROOT

FUZZ = ROOT / "rust/fuzz"

RAN = """echo 'INFO: Loaded 1 modules   (900 inline 8-bit counters): 900'
echo '#7 DONE cov: 321 ft: 654 corp: 12/99b'
echo 'stat::number_of_executed_units: 1000'
"""
FOUND = """for argument; do case $argument in -artifact_prefix=*) prefix=${argument#*=};; esac; done
echo input > "${prefix}crash-0123"
echo "thread 'main' panicked at src/keyring.rs:1:1:"; echo 'the nonce seals for the second time'
echo 'stack backtrace:'; echo '  0: somewhere'; exit 77
"""


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(FUZZ)
    return importlib.import_module("run")


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return path


def outcome(fuzz, tmp_path: Path, body: str):
    return fuzz.run(script(tmp_path / "open", body), 0.01, tmp_path / "work")


@pytest.mark.parametrize(("cores", "seconds"), [(1, 150), (2, 300), (3, 300), (4, 600), (64, 600)])
def test_four_targets_are_done_in_the_time_that_is_given(fuzz, cores, seconds):
    assert fuzz.share(600, 4, cores) == seconds


def test_a_target_that_runs_and_finds_nothing_passes_with_its_figures(fuzz, tmp_path):
    done = outcome(fuzz, tmp_path, RAN)
    assert done.fault() is None
    assert done.executions >= 1000
    assert done.executions % 1000 == 0
    assert re.search(r"321 of +900 +654 +12$", done.row())


def test_executions_are_those_of_all_spells(fuzz, tmp_path):
    spells = tmp_path / "spells"
    done = fuzz.run(script(tmp_path / "open", f"{RAN}echo >> {spells}"), 0.3, tmp_path / "work")
    assert done.executions == 1000 * len(spells.read_text().splitlines())


def test_a_finding_is_told_with_its_panic_and_kept_outside_of_the_corpus(fuzz, tmp_path):
    done = outcome(fuzz, tmp_path, FOUND)
    fault = done.fault()
    assert "the nonce seals for the second time" in fault
    assert "somewhere" not in fault
    assert done.finding == tmp_path / "work/findings/open/crash-0123"
    assert str(done.finding) in fault
    assert done.finding.read_text() == "input\n"


def test_a_finding_of_an_earlier_run_is_not_taken_for_a_new_one(fuzz, tmp_path):
    outcome(fuzz, tmp_path, FOUND)
    done = outcome(fuzz, tmp_path, "echo 'it cannot start'; exit 1")
    assert done.finding is None
    assert "it cannot start" in done.fault()
    assert outcome(fuzz, tmp_path, RAN).fault() is None


@pytest.mark.parametrize("log", ["", "stat::number_of_executed_units: 9", "#7 DONE cov: 321 ft: 654 corp: 12/99b"])
def test_a_target_that_runs_nothing_or_measures_no_coverage_fails(fuzz, tmp_path, log):
    assert "no input ran" in outcome(fuzz, tmp_path, f"echo '{log}'").fault()


def test_a_target_that_does_not_end_is_stopped_and_fails(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "GRACE_SECONDS", 0)
    assert "did not end in time" in outcome(fuzz, tmp_path, "exec sleep 170").fault()


@pytest.mark.parametrize("code", [0, 1])
def test_one_target_that_fails_is_enough_to_fail(fuzz, tmp_path, monkeypatch, capsys, code):
    for target in fuzz.targets():
        script(tmp_path / target, FOUND if code and target == "keyring" else RAN)
    monkeypatch.setattr(fuzz, "build", lambda: tmp_path)
    monkeypatch.setattr(fuzz, "run", lambda binary, _, run=fuzz.run: run(binary, 0.01, tmp_path / "work"))
    assert fuzz.main(["--seconds", "4"]) == code
    said = capsys.readouterr()
    assert all(re.search(rf"(?m)^{target} +[\d,]+ ", said.out) for target in fuzz.targets())
    assert ("second time" in said.err) == bool(code)


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["no-such-target"]])
def test_what_cannot_be_run_is_refused(fuzz, capsys, arguments):
    with pytest.raises(SystemExit):
        fuzz.main(arguments)
    assert re.search("--seconds 0|no-such-target", capsys.readouterr().err)


def test_every_target_is_built_has_a_corpus_and_is_replayed_with_the_tests(fuzz):
    built = [each["name"] for each in tomllib.loads((FUZZ / "Cargo.toml").read_text("utf-8"))["bin"]]
    replayed = re.findall(r'replay\("(\w+)"', (FUZZ / "../core/tests/corpus.rs").read_text("utf-8"))
    corpora = [path.name for path in (FUZZ / "corpus").iterdir()]
    assert fuzz.targets() == sorted(built) == sorted(replayed) == sorted(corpora)
