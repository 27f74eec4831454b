"""What `make mutants` makes of cargo-mutants' outcomes: a missed mutant fails, and every exclusion needs its reason."""

import importlib
import json
import re

import pytest

from support.paths import ROOT

MUTANTS = ROOT / "rust/mutants"
NONCE = "rust/core/src/keyring/nonce.rs:57:34: replace ^ with | in Nonce::salted"
WIRE = "rust/core/src/wire/sframe.rs:9:1: replace parse -> Option<Header> with None"


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(MUTANTS)
    return importlib.import_module("mutants")


def written(path, **summaries: str):
    """Write outcomes as cargo-mutants does, with a baseline, which is no mutant."""
    names = {"nonce": NONCE, "wire": WIRE}
    outcomes = [{"scenario": "Baseline", "summary": "Success"}]
    outcomes += [{"scenario": {"Mutant": {"name": names[key]}}, "summary": each} for key, each in summaries.items()]
    path.write_text(json.dumps({"outcomes": outcomes}))
    return path


@pytest.mark.parametrize(
    ("summary", "code"), [("CaughtMutant", 0), ("Timeout", 0), ("Unviable", 0), ("MissedMutant", 1)]
)
def test_a_missed_mutant_fails_and_no_other_outcome_does(mutants, tmp_path, capsys, summary, code):
    found = mutants.outcomes(written(tmp_path / "outcomes.json", nonce="CaughtMutant", wire=summary))
    assert mutants.judged(found) == code
    said = capsys.readouterr()
    assert re.search(rf"(?m)^all +{1 + (summary == 'CaughtMutant')} ", said.out)
    assert (f"missed: {WIRE}" in said.err) == bool(code)


def test_a_mutant_that_the_quick_tests_miss_meets_all_tests(mutants, monkeypatch, tmp_path, capsys):
    tried = []

    def attempt(names, tests, output):
        tried.append((list(names), tests is None))
        return dict.fromkeys(names, "caught" if tests is None else "missed")

    monkeypatch.setattr(mutants, "CONFIG", tmp_path / "mutants.toml")
    mutants.CONFIG.write_text("exclude_re = [\n]\n")
    monkeypatch.setattr(mutants, "copy", lambda: None)
    monkeypatch.setattr(mutants, "listed", lambda *_: [NONCE, WIRE])
    monkeypatch.setattr(mutants, "attempt", attempt)
    assert mutants.main([]) == 0
    assert [each for each in tried if each[0]] == [([NONCE], False), ([NONCE], True), ([WIRE], False), ([WIRE], True)]
    assert mutants.main(["--files", "wire"]) == 0
    assert mutants.main(["--files", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('exclude_re = [\n    "a",\n]\n', "no reason"),
        ('exclude_re = [\n    # why\n    "a",\n    "b",\n]\n', "'b' has no reason"),
        ('exclude_re = [\n    # why\n    "a", "b",\n]\n', "on a line of its own"),
    ],
)
def test_an_exclusion_without_a_reason_of_its_own_is_refused(mutants, text, fault):
    with pytest.raises(mutants.Failure, match=fault):
        mutants.patterns(text)


def test_an_exclusion_that_fits_no_mutant_is_told(mutants):
    assert mutants.unused(["Nonce::salted", "Nonce::gone"], [NONCE, WIRE]) == ["Nonce::gone"]


def test_the_exclusions_of_the_project_have_reasons_and_belong_to_files_that_are_looked_at(mutants):
    reasons = mutants.patterns(mutants.CONFIG.read_text("utf-8"))
    assert all(len(reason) > 20 for reason in reasons.values())


def test_every_part_has_files_and_tests_that_exist(mutants):
    core = ROOT / "rust/core"
    files = [path.relative_to(core / "src").as_posix() for path in (core / "src").rglob("*.rs")]
    for part in mutants.PARTS:
        assert any(part.has(file) for file in files), part.name
        for test in part.tests:
            assert (core / "tests" / f"{test}.rs").is_file() or (core / "tests" / test / "main.rs").is_file(), test
    assert mutants.part_of(NONCE).name == "nonce"
    assert mutants.part_of("rust/core/src/error.rs:1:1: replace") is None


def test_a_draw_depends_on_the_commit_and_has_changed_mutants_and_others(mutants):
    changed, others = [f"a{number}" for number in range(50)], [f"b{number}" for number in range(50)]
    first = mutants.drawn(changed, others, 8, "one commit")
    assert first == mutants.drawn(changed, others, 8, "one commit") != mutants.drawn(changed, others, 8, "another")
    assert [name[0] for name in first] == ["a"] * 8 + ["b"] * 8
    assert mutants.drawn(changed[:3], [], 8, "one commit") == changed[:3]


def test_a_change_draws_from_its_own_lines_and_from_the_others(mutants, monkeypatch, tmp_path):
    tried = []
    monkeypatch.setattr(mutants, "CONFIG", tmp_path / "mutants.toml")
    mutants.CONFIG.write_text("exclude_re = [\n]\n")
    monkeypatch.setattr(mutants, "PARTS", [mutants.Part("nonce", "keyring/.*"), mutants.Part("wire", "wire/.*")])
    monkeypatch.setattr(mutants, "copy", lambda: None)
    monkeypatch.setattr(mutants, "listed", lambda *_: [NONCE, WIRE])
    monkeypatch.setattr(mutants, "attempt", lambda names, *_: tried.extend(names) or dict.fromkeys(names, "caught"))
    monkeypatch.setattr(mutants, "changed_since", lambda _: {WIRE})
    for arguments, expected in [
        (["--since", "HEAD~20"], [WIRE]),
        (["--since", "HEAD~20", "--sample", "8"], [NONCE, WIRE]),
        (["--sample", "8"], [NONCE, WIRE]),
    ]:
        tried.clear()
        assert mutants.main(arguments) == 0
        assert tried == expected


def test_a_copy_keeps_the_time_of_what_has_not_changed_and_loses_what_is_gone(mutants, tmp_path, monkeypatch):
    source, tree = tmp_path / "source", tmp_path / "tree"
    for name in ("Cargo.toml", "rust/core/a.rs", "rust/core/b.rs", "rust/core/target/c", "docs/d.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    monkeypatch.setattr(mutants, "ROOT", source)
    mutants.copy(tree)
    assert sorted(path.name for path in tree.rglob("*") if path.is_file()) == ["Cargo.toml", "a.rs", "b.rs"]
    before = (tree / "rust/core/a.rs").stat().st_mtime_ns
    (source / "rust/core/b.rs").unlink()
    (source / "rust/core/a.rs").touch()
    mutants.copy(tree)
    assert (tree / "rust/core/a.rs").stat().st_mtime_ns == before
    assert not (tree / "rust/core/b.rs").exists()


def test_a_commit_that_the_clone_has_not_means_that_nothing_has_changed(mutants, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    assert mutants.changed_since("HEAD~20") == set()
    assert "this clone has no commit HEAD~20" in capsys.readouterr().out
