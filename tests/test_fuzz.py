"""What `make fuzz` makes of its targets, with scripts in their place: who fails is told, and who did nothing."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.paths import ROOT

FUZZ = ROOT / "rust/fuzz"

RAN = """echo 'INFO: Loaded 1 modules   (900 inline 8-bit counters): 900'
echo '#7 DONE cov: 321 ft: 654 corp: 12/99b'
echo 'stat::number_of_executed_units: 1000'
"""
RAISED = """echo ' === Uncaught Python exception: ==='; echo 'AssertionError: the ids differ'; echo
echo '==7== ERROR: libFuzzer: fuzz target exited'; exit 77
"""
FOUND = """for argument; do case $argument in -artifact_prefix=*) prefix=${argument#*=};; esac; done
echo input > "${prefix}crash-0123"
echo "thread 'main' panicked at src/keyring.rs:1:1:"; echo 'the nonce seals for the second time'
echo 'stack backtrace:'; echo '  0: somewhere'; exit 77
"""


CONTROLLED = """for argument; do case $argument in -artifact_prefix=*) prefix=${argument#*=};; esac; done
echo input > "${prefix}crash-0123"; exit 77
"""
STUB = SimpleNamespace(target="open", executions=1, row=str, fault=lambda: None)


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(FUZZ)
    return importlib.import_module("run")


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return path


def outcome(fuzz, tmp_path: Path, body: str, target: str = "open"):
    return fuzz.run([str(script(tmp_path / target, body))], target, 0.01, tmp_path / "work")


def totals(fuzz, tmp_path: Path) -> dict:
    return fuzz.Totals(tmp_path / "work/totals.json").read()


@pytest.mark.parametrize(("cores", "seconds"), [(1, 150), (2, 300), (3, 300), (4, 600), (64, 600)])
def test_four_targets_are_done_in_the_time_that_is_given(fuzz, cores, seconds):
    assert fuzz.shares(600, [1] * 4, cores) == pytest.approx([seconds] * 4, rel=0.01)


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_targets_with_cheap_inputs_have_more_of_the_time(fuzz, cores):
    weights = [12, 6, 6, 1, 1]
    seconds = fuzz.shares(600, weights, cores)
    assert max(seconds) <= 600.6
    assert sum(seconds) <= 600.6 * cores
    assert [share / seconds[-1] for share in seconds] == pytest.approx(weights)


def test_a_target_that_runs_and_finds_nothing_passes_with_its_figures(fuzz, tmp_path):
    done = outcome(fuzz, tmp_path, RAN)
    assert done.fault() is None
    assert done.executions >= 1000
    assert done.executions % 1000 == 0
    assert re.search(r"321 of +900 +654 +12$", done.row())


def test_executions_are_those_of_all_spells(fuzz, tmp_path):
    spells = tmp_path / "spells"
    done = fuzz.run([str(script(tmp_path / "open", f"{RAN}echo >> {spells}"))], "open", 0.3, tmp_path / "work")
    assert done.executions == 1000 * len(spells.read_text().splitlines())


def test_the_totals_of_the_same_sources_add_up(fuzz, tmp_path, capsys):
    first = outcome(fuzz, tmp_path, RAN)
    second = outcome(fuzz, tmp_path, RAN)
    outcome(fuzz, tmp_path, RAN, "wire")
    (sources,) = totals(fuzz, tmp_path)
    assert sources == fuzz.digest("open") == fuzz.digest("wire")
    figures = totals(fuzz, tmp_path)[sources]["targets"]["open"]
    assert figures["executions"] == first.executions + second.executions
    assert (figures["edges"], figures["all_edges"]) == (321, 900)
    assert fuzz.main(["--totals", "--work", str(tmp_path / "work")]) == 0
    said = capsys.readouterr().out
    assert f"sources {sources}, which are the present ones" in said
    together = sum(row["executions"] for row in totals(fuzz, tmp_path)[sources]["targets"].values())
    assert re.search(rf"(?m)^together +{together:,} ", said)


def test_the_totals_of_other_sources_stay_apart(fuzz, tmp_path, monkeypatch):
    outcome(fuzz, tmp_path, RAN)
    monkeypatch.setattr(fuzz, "digest", lambda target: "other")
    outcome(fuzz, tmp_path, RAN)
    apart = totals(fuzz, tmp_path)
    assert len(apart) == 2
    assert all(section["targets"]["open"]["executions"] % 1000 == 0 for section in apart.values())
    heads = [line for line in fuzz.Totals(tmp_path / "work/totals.json").table().splitlines() if "sources" in line]
    assert ["present" in line for line in heads] == [False, True]


def test_a_line_of_sources_changes_the_digest(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "ROOT", tmp_path)
    monkeypatch.setattr(fuzz, "HERE", tmp_path / "rust/fuzz")
    for folder in (
        "rust/core/src",
        "rust/fuzz/src",
        "rust/fuzz/fuzz_targets",
        "rust/fuzz/python_targets",
        "python/frameseal",
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "rust/core/src/lib.rs").write_text("one")
    (tmp_path / "rust/fuzz/python_targets/messages.py").write_text("one")
    before = fuzz.digest("open"), fuzz.digest("messages")
    (tmp_path / "python/frameseal/_json.py").write_text("one")
    assert fuzz.digest("open") == before[0]
    assert fuzz.digest("messages") != before[1]
    code = "one\n\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n    // two\n}\n"
    (tmp_path / "rust/core/src/lib.rs").write_text("one\n\n")
    before = fuzz.digest("open")
    (tmp_path / "rust/core/src/lib.rs").write_text(f"//! A comment\n{code}")
    assert fuzz.digest("open") == before, "neither comments nor tests run in a target"
    (tmp_path / "rust/core/src/lib.rs").write_text(f"two\n{code}")
    assert fuzz.digest("open") != before


def test_without_a_run_there_are_no_totals(fuzz, tmp_path, capsys):
    assert fuzz.main(["--totals", "--work", str(tmp_path)]) == 0
    assert "no run yet" in capsys.readouterr().out


def test_minimising_keeps_what_the_merge_keeps_and_no_copy_of_a_committed_input(fuzz, tmp_path):
    seeds, grown = tmp_path / "seeds/open", tmp_path / "work/corpus/open"
    for folder in (seeds, grown):
        folder.mkdir(parents=True)
    (seeds / "named").write_text("named")
    (seeds / "covered-by-others").write_text("covered")
    for name in ("first", "second", "superfluous"):
        (grown / name).write_text(name)
    # A merge copies what it keeps into the first folder, under other names: behind -merge and -max_len.
    merge = script(tmp_path / "open", 'cp "$5/first" "$3/0"; cp "$5/second" "$3/1"; cp "$4/named" "$3/2"')
    said = fuzz.minimise([str(merge)], "open", tmp_path / "work", tmp_path / "seeds")
    assert re.search(r"open +3 to +2 inputs; 1 of 2 committed ones", said)
    assert sorted(path.read_text() for path in grown.iterdir()) == ["first", "second"]


@pytest.mark.parametrize("merge", ["false", "true"])
def test_a_merge_that_fails_or_keeps_nothing_leaves_the_corpus(fuzz, tmp_path, merge):
    (tmp_path / "work/corpus/open").mkdir(parents=True)
    (tmp_path / "work/corpus/open/first").write_text("first")
    (tmp_path / "seeds/open").mkdir(parents=True)
    with pytest.raises(subprocess.CalledProcessError):
        fuzz.minimise([merge], "open", tmp_path / "work", tmp_path / "seeds")
    assert (tmp_path / "work/corpus/open/first").read_text() == "first"


@pytest.mark.parametrize("code", [0, 1])
def test_one_corpus_that_cannot_be_minimised_is_told(fuzz, tmp_path, monkeypatch, capsys, code):
    monkeypatch.setattr(fuzz, "build", lambda fast: tmp_path)
    script(tmp_path / "wire", "echo 'it cannot merge'; exit 1" if code else 'echo kept > "$3/0"')
    assert fuzz.main(["--minimise", "--work", str(tmp_path / "work"), "wire"]) == code
    said = capsys.readouterr()
    assert "it cannot merge" in said.err if code else "wire" in said.out


def test_an_exception_of_a_python_target_is_told(fuzz, tmp_path):
    assert "AssertionError: the ids differ" in outcome(fuzz, tmp_path, RAISED, "messages").fault()


def test_python_targets_are_named_and_left_out_without_atheris(fuzz, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "find_spec", lambda name: None)
    monkeypatch.setattr(fuzz, "build", lambda fast: tmp_path)
    monkeypatch.setattr(fuzz, "control", lambda command, target, work: None)
    ran = []
    monkeypatch.setattr(fuzz, "run", lambda command, target, seconds, work: ran.append(target) or STUB)
    assert fuzz.main(["--seconds", "60"]) == 0
    assert sorted(ran) == fuzz.targets()
    said = capsys.readouterr().out
    assert all(target in said for target in fuzz.python_targets())
    assert fuzz.main(["messages"]) == 1


def test_a_finding_is_told_with_its_panic_and_kept_outside_of_the_corpus(fuzz, tmp_path):
    done = outcome(fuzz, tmp_path, FOUND)
    fault = done.fault()
    assert "the nonce seals for the second time" in fault
    assert "somewhere" not in fault
    assert done.finding == tmp_path / "work/findings/open/crash-0123"
    assert str(done.finding) in fault
    assert done.finding.read_text() == "input\n"


def test_a_slow_input_is_no_finding(fuzz, tmp_path):
    slow = 'for argument; do case $argument in -artifact_prefix=*) echo > "${argument#*=}slow-unit-0123";; esac; done\n'
    done = outcome(fuzz, tmp_path, slow + RAN)
    assert done.finding is None
    assert done.fault() is None


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
    monkeypatch.setattr(fuzz, "build", lambda fast: tmp_path)
    monkeypatch.setattr(fuzz, "control", lambda command, target, work: None)
    monkeypatch.setattr(
        fuzz, "run", lambda command, target, _, work, run=fuzz.run: run(command, target, 0.01, tmp_path / "work")
    )
    assert fuzz.main(["--seconds", "20", *fuzz.targets()]) == code
    said = capsys.readouterr()
    assert all(re.search(rf"(?m)^{target} +[\d,]+ ", said.out) for target in fuzz.targets())
    assert ("second time" in said.err) == bool(code)


def test_a_control_that_finds_its_planted_fault_passes(fuzz, tmp_path):
    assert fuzz.control([str(script(tmp_path / "control", CONTROLLED))], "control", tmp_path / "work") is None
    assert not (tmp_path / "work/totals.json").exists()


@pytest.mark.parametrize("body", [RAN, "exit 1", "exec sleep 170"])
def test_without_a_finding_of_the_control_no_target_runs(fuzz, tmp_path, monkeypatch, capsys, body):
    monkeypatch.setattr(fuzz, "CONTROL_SECONDS", 0.1)
    monkeypatch.setattr(fuzz, "GRACE_SECONDS", 0)
    monkeypatch.setattr(fuzz, "find_spec", lambda name: None)
    monkeypatch.setattr(fuzz, "build", lambda fast: tmp_path)
    script(tmp_path / "control", body)
    assert fuzz.main(["--seconds", "60", "--work", str(tmp_path / "work"), "wire"]) == 1
    assert "control: the planted fault was not found" in capsys.readouterr().err


def test_the_python_control_has_its_fault_and_not_in_its_seed(fuzz, monkeypatch):
    monkeypatch.syspath_prepend(FUZZ / "python_targets")
    check = importlib.import_module(fuzz.CONTROLS[1]).check
    assert check(fuzz.CONTROL_SEED) and not check(b"")
    with pytest.raises(AssertionError):
        check(fuzz.CONTROL_SEED[:-7] + b"\x7f" + fuzz.CONTROL_SEED[-6:])


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["no-such-target"]])
def test_what_cannot_be_run_is_refused(fuzz, capsys, arguments):
    with pytest.raises(SystemExit):
        fuzz.main(arguments)
    assert re.search("--seconds 0|no-such-target", capsys.readouterr().err)


def test_every_target_is_built_has_a_corpus_and_is_replayed_with_the_tests(fuzz):
    built = [each["name"] for each in tomllib.loads((FUZZ / "Cargo.toml").read_text("utf-8"))["bin"]]
    replayed = re.findall(r'replay\("(\w+)"', (FUZZ / "../core/tests/corpus.rs").read_text("utf-8"))
    in_python = re.search(r"VERBS = (.*)", (ROOT / "tests/test_fuzz_targets.py").read_text("utf-8"))[1]
    corpora = sorted(path.name for path in (FUZZ / "corpus").iterdir())
    assert sorted([*fuzz.targets(), fuzz.CONTROLS[0]]) == sorted(built)
    assert fuzz.targets() == sorted(replayed)
    assert fuzz.CONTROLS[1] not in fuzz.python_targets() and (FUZZ / f"python_targets/{fuzz.CONTROLS[1]}.py").is_file()
    assert fuzz.python_targets() == sorted(re.findall(r'"(\w+)":', in_python))
    assert corpora == sorted([*fuzz.targets(), *fuzz.python_targets()])
    assert set(fuzz.SETTINGS) <= set(corpora)


def test_the_committed_corpus_is_small_and_named(fuzz):
    inputs = list((FUZZ / "corpus").glob("*/*"))
    assert sum(path.stat().st_size for path in inputs) < 100_000
    assert not [path for path in inputs if re.fullmatch("[0-9a-f]{32,}", path.name)]
    for path in inputs:
        max_len = fuzz.SETTINGS.get(path.parent.name, fuzz.Settings()).max_len
        assert not max_len or path.stat().st_size <= max_len, path
