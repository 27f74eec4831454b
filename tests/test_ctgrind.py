"""What `make ctgrind` makes of valgrind's reports: a leak fails, and so does a control that leaks unnoticed."""

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.paths import ROOT

CTGRIND = ROOT / "rust/ctgrind"

LEAK = ("UninitCondition", "Conditional jump or move depends on uninitialised value(s)")
INDEX = ("UninitValue", "Use of uninitialised value of size 8")
TAG = "aead_aes_gcm_open_gather_impl"


@pytest.fixture
def ctgrind(monkeypatch):
    spec = importlib.util.spec_from_file_location("ctgrind_run", CTGRIND / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def report(*errors: tuple[tuple[str, str], list[tuple[str, str]], int]) -> str:
    """What valgrind writes: each error is its kind, its frames as (address, function), and how often it happened."""
    told, counts = "", ""
    for number, ((kind, what), frames, count) in enumerate(errors):
        stack = "".join(f"<frame><ip>{ip}</ip><fn>{fn}</fn><file>a.rs</file></frame>" for ip, fn in frames)
        told += f"<error><unique>{number}</unique><kind>{kind}</kind><what>{what}</what><stack>{stack}</stack></error>"
        counts += f"<pair><count>{count}</count><unique>{number}</unique></pair>"
    return f"<valgrindoutput>{told}<errorcounts>{counts}</errorcounts></valgrindoutput>"


def outcome(ctgrind, xml: str, kind: str = "case", verdicts: str = "", code: int = 0):
    (case,) = ctgrind.listed(f"{kind}\ta-name\t{verdicts}")
    return ctgrind.Outcome(case, code, "what it said", list(ctgrind.parsed(xml)))


def test_a_case_without_reports_keeps_its_secrets(ctgrind):
    done = outcome(ctgrind, report())
    assert done.fault() is None
    assert re.search(r"^case +a-name +constant time +0  none$", done.row())


@pytest.mark.parametrize("error", [LEAK, INDEX, ("SyscallParam", "Syscall param write(buf) points to it")])
def test_a_report_fails_a_case_and_tells_the_way_there(ctgrind, error):
    done = outcome(ctgrind, report((error, [("0x1", "compare"), ("0x2", "frameseal::open")], 3)))
    assert re.search(r"a-name: .+, at\n +compare \(a.rs:\?\)\n +frameseal::open", done.fault())
    assert re.search(r"FAILED +3", done.row())


def test_a_verdict_is_a_branch_in_the_function_itself(ctgrind):
    """Functions that are inlined into it have its address."""
    inlined = [("0x1", "is_err"), ("0x1", TAG), ("0x2", "open")]
    assert outcome(ctgrind, report((LEAK, inlined, 8)), verdicts="gcm-tag=8").fault() is None
    called = [("0x1", "CRYPTO_memcmp"), ("0x2", TAG), ("0x3", "open")]
    assert "CRYPTO_memcmp" in outcome(ctgrind, report((LEAK, called, 8)), verdicts="gcm-tag=8").fault()
    assert "size 8" in outcome(ctgrind, report((INDEX, inlined, 8)), verdicts="gcm-tag=8").fault()


@pytest.mark.parametrize("verdicts", ["", "gcm-tag=7", "gcm-tag=9", "ctr-tag=8", "gcm-tag=8 same-key=1"])
def test_a_case_branches_as_often_as_it_states(ctgrind, verdicts):
    fault = outcome(ctgrind, report((LEAK, [("0x1", TAG)], 5), (LEAK, [("0x2", TAG)], 3)), verdicts=verdicts).fault()
    assert "gcm-tag=8; stated: " in fault


@pytest.mark.parametrize("errors", [[], [(LEAK, [("0x1", TAG)], 1)]])
def test_a_control_that_leaks_unnoticed_fails(ctgrind, errors):
    """A branch on a verdict is none of the leaks that it makes."""
    assert "nothing was reported" in outcome(ctgrind, report(*errors), kind="control").fault()


def test_a_control_that_is_reported_passes(ctgrind):
    done = outcome(ctgrind, report((INDEX, [("0x1", "table_look_up")], 1)), kind="control")
    assert done.fault() is None
    assert "reported" in done.row()


def test_lost_memory_is_no_leak_of_a_secret(ctgrind):
    lost = report((("Leak_DefinitelyLost", "152 bytes are lost"), [("0x1", "malloc")], 1))
    assert outcome(ctgrind, lost).fault() is None
    assert outcome(ctgrind, lost, kind="control").fault()


@pytest.mark.parametrize("kind", ["case", "control"])
def test_a_program_that_fails_shows_nothing(ctgrind, kind):
    leak = report((LEAK, [("0x1", "f")], 1))
    assert "exit code 101" in outcome(ctgrind, leak, kind=kind, code=101).fault()


def valgrind(tmp_path: Path, monkeypatch, body: str) -> None:
    """Puts a script in the place of valgrind. It finds the report's name in $report and the case in $case."""
    script = tmp_path / "bin/valgrind"
    script.parent.mkdir()
    find = "for case; do case $case in --xml-file=*) report=${case#*=};; esac; done"
    script.write_text(f"#!/bin/sh\n[ $1 = --version ] && exec echo valgrind-0\n{find}\n{body}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")


@pytest.mark.parametrize(
    "body", ["exit 0", 'echo "<valgrindoutput>" > "$report"', "echo 'it cannot start' >&2; exit 1", "kill -9 $$"]
)
def test_a_report_that_is_missing_or_cut_off_fails(ctgrind, tmp_path, monkeypatch, body):
    valgrind(tmp_path, monkeypatch, body)
    (case,) = ctgrind.listed("control\ta-name\t")
    stale = tmp_path / "reports/a-name.xml"
    stale.parent.mkdir()
    stale.write_text(report((LEAK, [("0x1", "f")], 1)))
    done = ctgrind.run(tmp_path / "program", case, tmp_path)
    assert "did not run to its end" in done.fault()
    assert ("it cannot start" in done.fault()) == ("start" in body)


def test_the_program_does_not_see_the_variable_that_leads_aws_lc_astray(ctgrind, tmp_path, monkeypatch):
    valgrind(tmp_path, monkeypatch, f'[ -z "${{OPENSSL_ia32cap+set}}" ] && echo \'{report()}\' > "$report"')
    monkeypatch.setenv("OPENSSL_ia32cap", "")
    (case,) = ctgrind.listed("case\ta-name\t")
    assert ctgrind.run(tmp_path / "program", case, tmp_path).fault() is None


@pytest.mark.parametrize("leaking", [["control"], [], ["control", "case"]])
def test_one_case_that_leaks_or_one_silent_control_is_enough_to_fail(ctgrind, tmp_path, monkeypatch, capsys, leaking):
    leak = report((LEAK, [("0x1", "f")], 1))
    say = "".join(f"[ $case = the-{kind} ] && echo '{leak}' > \"$report\"\n" for kind in leaking)
    valgrind(tmp_path, monkeypatch, f"echo '{report()}' > \"$report\"\n{say}exit 0")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nprintf 'case\\tthe-case\\t\\ncontrol\\tthe-control\\t\\n'")
    program.chmod(0o755)
    monkeypatch.setattr(ctgrind, "build", lambda: program)
    monkeypatch.setattr(ctgrind, "WORK", tmp_path)
    monkeypatch.setattr(ctgrind, "run", lambda program, case, run=ctgrind.run: run(program, case, tmp_path))
    fails = leaking != ["control"]
    assert ctgrind.main([]) == int(fails)
    said = capsys.readouterr()
    assert all(f"the-{kind}" in said.out for kind in ("case", "control"))
    assert ("the-" in said.err) == fails


def test_a_run_of_the_cases_without_a_control_fails(ctgrind, tmp_path, monkeypatch, capsys):
    valgrind(tmp_path, monkeypatch, f"echo '{report()}' > \"$report\"")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nprintf 'case\\tthe-case\\t\\n'")
    program.chmod(0o755)
    monkeypatch.setattr(ctgrind, "build", lambda: program)
    monkeypatch.setattr(ctgrind, "run", lambda program, case, run=ctgrind.run: run(program, case, tmp_path))
    assert ctgrind.main([]) == 1
    assert "no control has fired" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ctgrind.main(["no-such-case"])


def test_every_verdict_that_a_case_states_has_a_function(ctgrind):
    main, cases = ((CTGRIND / f"src/{name}.rs").read_text("utf-8") for name in ("main", "cases"))
    names = dict(re.findall(r'const (\w+): &str = "([\w-]+)";', main))
    stated = Counter(names[verdict] for verdict in re.findall(r"\((\w+_(?:TAG|KEY)), \d+\)", cases))
    assert set(stated) == set(names.values()) == set(ctgrind.VERDICTS.values())


def test_the_crypto_library_is_the_version_that_the_module_is_built_with():
    """The crate has a lock file of its own."""
    crates = r'(?m)^name = "(aws-lc-\w+)"\nversion = "(.+)"$'
    own, module = (re.findall(crates, (folder / "Cargo.lock").read_text("utf-8")) for folder in (CTGRIND, ROOT))
    assert own == module != []
