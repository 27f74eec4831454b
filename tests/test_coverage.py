"""What `make coverage` reads from the counts, and that it fails on code that no test runs and no row names."""

import importlib
import tomllib

import pytest

from support.paths import ROOT

COVERAGE = ROOT / "rust/coverage"

SOURCE = """\
impl<'a> fmt::Display for Ring<'a> {
    pub(crate) fn seal(&self) -> Option<u8> {
        let key = self.key()?;
        if key == 0 {
            return None;
        }
        Some(key)
    }
}

fn free() {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    fn helper() {}
}
"""
# Line, column, end line, end column, count, file, expanded file, kind.
SEAL = [
    [2, 5, 8, 6, 3, 0, 0, 0],
    [3, 29, 3, 30, 0, 0, 0, 0],
    [4, 21, 6, 10, 0, 0, 0, 0],
]
FREE = [[11, 1, 11, 13, 1, 0, 0, 0]]
TESTS = [[16, 5, 16, 19, 0, 0, 0, 0]]


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(COVERAGE)
    return importlib.import_module("measure")


@pytest.fixture
def found(coverage, tmp_path):
    (tmp_path / "ring.rs").write_text(SOURCE)
    functions = [{"filenames": [str(tmp_path / "ring.rs")], "regions": regions} for regions in (SEAL, FREE, TESTS)]
    functions.append({"filenames": ["/elsewhere/other.rs"], "regions": FREE})
    return coverage.files({"data": [{"functions": functions}]}, tmp_path)


def rows(**counts: int):
    return {"ring.rs": {name: {"regions": count, "reason": "a reason"} for name, count in counts.items()}}


def test_lines_and_regions_are_counted_without_the_unit_tests(coverage, found):
    (file,) = found
    assert file.uncovered() == {"?": 1, "Ring::seal": 1}
    assert {line for line, ran in file.lines().items() if not ran} == {5, 6}
    assert coverage.table(found).splitlines()[-1].split() == ["all", "8", "6", "75.0", "%", "4", "2", "50.0", "%"]


def test_a_region_has_run_if_any_copy_of_its_function_has_run_it(coverage, tmp_path):
    (tmp_path / "ring.rs").write_text(SOURCE)
    copies = [[[*region[:4], count, 0, 0, 0] for region in SEAL] for count in (0, 1)]
    functions = [{"filenames": [str(tmp_path / "ring.rs")], "regions": regions} for regions in copies]
    (file,) = coverage.files({"data": [{"functions": functions}]}, tmp_path)
    assert file.uncovered() == {}


def test_code_that_no_test_runs_and_no_row_names_is_a_fault(coverage, found):
    assert coverage.faults(found, rows(**{"?": 1, "Ring::seal": 1})) == []
    (fault,) = coverage.faults(found, rows(**{"?": 1}))
    assert fault == "ring.rs: Ring::seal: no test runs 1 regions, and the list allows 0"
    assert len(coverage.faults(found, {})) == 2


def test_a_row_that_allows_too_much_is_told(coverage, found):
    loose = coverage.loose(found, rows(**{"?": 4, "Ring::seal": 1, "Ring::gone": 2}))
    assert loose == [
        "ring.rs: ?: 1 regions are uncovered, and the list allows 4",
        "ring.rs: Ring::gone: 0 regions are uncovered, and the list allows 2",
    ]


@pytest.mark.parametrize("case", [(2, 0, 0), (1, 0, 1), (2, 1, 1)])
def test_the_run_fails_on_a_fault_and_if_it_would_notice_none(coverage, found, tmp_path, monkeypatch, case):
    listed, unit, code = case
    names = ["?", "Ring::seal"][:listed]
    table = "".join(f'"{name}" = {{ regions = 1, reason = "known" }}\n' for name in names)
    (tmp_path / "core.toml").write_text(f'[reasons]\nknown = "It is known."\n["ring.rs"]\n{table}')
    for name, value in {"LIST": tmp_path / "core.toml", "ROOT": tmp_path, "WORK": tmp_path / "work"}.items():
        monkeypatch.setattr(coverage, name, value)
    monkeypatch.setattr(coverage, "tool", str)
    rounds = []
    monkeypatch.setattr(coverage, "built", lambda: {"frameseal": "a", "keys": "b"})
    monkeypatch.setattr(coverage, "run", rounds.append)
    monkeypatch.setattr(coverage, "exported", lambda binaries, pattern: pattern)
    less = [coverage.File("ring.rs", SOURCE.splitlines(), {coverage.Region((11, 1), (11, 13)): 0})]
    control = less if not unit else found
    monkeypatch.setattr(coverage, "files", lambda pattern: found if pattern == "*.profraw" else control)
    assert coverage.main([]) == code
    assert len(rounds) == (1 if listed == 2 else coverage.ROUNDS)


def test_a_region_that_a_later_round_runs_has_run(coverage, found, tmp_path, monkeypatch):
    (tmp_path / "core.toml").write_text("[reasons]\n")
    for name, value in {"LIST": tmp_path / "core.toml", "ROOT": tmp_path, "WORK": tmp_path / "work"}.items():
        monkeypatch.setattr(coverage, name, value)
    monkeypatch.setattr(coverage, "tool", str)
    monkeypatch.setattr(coverage, "built", lambda: {"frameseal": "a"})
    rounds = []
    monkeypatch.setattr(coverage, "run", rounds.append)
    monkeypatch.setattr(coverage, "exported", lambda binaries, pattern: pattern)
    monkeypatch.setattr(coverage, "files", lambda pattern: found if pattern != "*.profraw" or len(rounds) < 3 else [])
    assert coverage.main([]) == 0
    assert len(rounds) == 3


def test_every_row_of_the_list_has_a_reason_that_is_explained(coverage):
    listed = tomllib.loads((COVERAGE / "core.toml").read_text("utf-8"))
    reasons = listed.pop("reasons")
    assert coverage.without_reason(listed, reasons) == []
    assert {row["reason"] for rows in listed.values() for row in rows.values()} == set(reasons)
    assert coverage.without_reason({"a.rs": {"f": {"regions": 1, "reason": "none"}}}, reasons) == [
        "a.rs: f: the reason 'none' is not explained under [reasons]"
    ]


# --- the package -----------------------------------------------------------------------------------------------------


def report(missing: int, branches: int) -> dict:
    """Return a report as coverage.py writes it, of one file with one function."""
    summary = {"num_statements": 9, "covered_lines": 9 - missing, "num_branches": 4, "covered_branches": 4 - branches}
    summary["percent_covered"] = 100 * (13 - missing - branches) / 13
    function = {"missing_lines": [3] * missing, "missing_branches": [[3, 4]] * branches}
    module = {"missing_lines": [], "missing_branches": []}
    file = {"summary": summary, "functions": {"Track.seal": function, "": module}}
    return {"files": {"python/frameseal/e2ee/track.py": file}, "totals": summary}


@pytest.fixture
def package(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(COVERAGE)
    module = importlib.import_module("package")
    monkeypatch.setattr(module, "LIST", tmp_path / "package.toml")
    row = '["e2ee/track.py"]\n"Track.seal" = { left = 3, reason = "known" }\n'
    module.LIST.write_text(f'[reasons]\nknown = "It is known."\n{row}')
    return module


@pytest.mark.parametrize(
    ("control", "tests", "code"),
    [((9, 4), (0, 2, 1), 0), ((9, 4), (0, 2, 2), 1), ((9, 4), (1, 0, 0), 1), ((2, 1), (0, 0, 0), 1)],
)
def test_the_package_fails_on_a_fault_a_failed_test_and_if_a_fault_would_not_show(
    package, monkeypatch, control, tests, code
):
    reports = {"control": (0, report(*control)), "tests": (tests[0], report(*tests[1:]))}
    monkeypatch.setattr(package, "measured", lambda name, _: reports[name])
    assert package.main([]) == code


def test_without_a_list_the_package_is_shown_and_not_judged(package, monkeypatch, capsys):
    package.LIST.unlink()
    monkeypatch.setattr(package, "measured", lambda *_: (0, report(2, 1)))
    assert package.main([]) == 0
    assert '"Track.seal" = { left = 3, reason = "" }' in capsys.readouterr().out


def test_rows_keep_the_reasons_of_the_list_and_the_table_has_lines_and_branches(package):
    left = package.left_out(report(2, 2))
    assert left == {"e2ee/track.py": {"Track.seal": 4}}
    listed = tomllib.loads(package.LIST.read_text("utf-8"))
    assert package.rows(left, listed).splitlines()[-1] == '"Track.seal" = { left = 4, reason = "known" }'
    assert package.table(report(2, 2)).splitlines()[-1].split() == ["all", "9", "7", "4", "2", "69.2", "%"]
