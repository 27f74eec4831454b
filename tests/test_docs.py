"""What the documents show works: their Python runs, their links lead somewhere.

A block that cannot run by itself (it needs a call, or a listener's event) is marked ```python no-run; it is compiled.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import frameseal
from support.paths import ROOT

DOCUMENTS = sorted(
    [path for place in ("*", "docs/**/*", "benches/*", "release/*", "tests/**/*") for path in ROOT.glob(f"{place}.md")]
)

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks():
    for document in DOCUMENTS:
        for number, (info, source) in enumerate(FENCE.findall(document.read_text("utf-8")), 1):
            if info.split()[:1] == ["python"]:
                name = f"{document.relative_to(ROOT).as_posix()}:{number}"
                yield pytest.param(info.split()[1:], source, id=name)


@pytest.mark.parametrize(("marks", "source"), [*blocks()])
def test_a_python_block_runs(marks, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert marks in ([], ["no-run"])
    program = compile(source, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if marks else 0)
    if not marks:
        exec(program, {"__name__": "block"})


def test_the_readme_shows_a_frame_being_sealed():
    assert any("encrypt(" in source for info, source in FENCE.findall((ROOT / "README.md").read_text("utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_project_lead_somewhere(document):
    text = FENCE.sub("", document.read_text("utf-8"))
    broken = []
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = document.parent / path if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as the usual renderers make them."""
    headings = HEADING.findall(FENCE.sub("", document.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_reference_has_every_public_name_with_its_docstring(tmp_path):
    """The pages that autodoc fills. docs/check_site.py looks for the same names in what it made of them."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs/pages.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "reference/frameseal.rst").read_text("utf-8")
    assert [name for name in frameseal.__all__ if f":: frameseal.{name}\n" not in page] == []


@pytest.mark.parametrize("package", ["rust/core/src", "python/frameseal"])
def test_the_tree_of_the_architecture_names_every_room_and_every_file_of_the_core(package):
    (tree,) = re.findall(
        r"```\n(rust/core/src/.*?)^```$", (ROOT / "docs/architecture.md").read_text("utf-8"), re.M | re.S
    )
    core, _, python = tree.partition("python/frameseal/")
    named = {*re.findall(r"[\w/]+/|\w+\.(?:rs|pyi?)", core if package == "rust/core/src" else python)}
    rooms = {f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / package).iterdir()}
    rooms -= {"lib.rs", "__main__.py", "__pycache__/", "py.typed", "tools/"}
    if package == "rust/core/src":
        rooms |= {path.name for path in (ROOT / package).glob("*/*.rs")} - {"mod.rs"}
    assert {room for room in rooms if not room.startswith("_native.abi3") and room not in named} == set()


# --- the table of claims (docs/security.md) --------------------------------------------------------------------------

CLAIMS = "## Claims and the tests that show them\n"


def claims() -> list[list[str]]:
    """The rows of the tables, a cell each for claim, tests, and what these do not show."""
    section = (ROOT / "docs/security.md").read_text("utf-8").partition(CLAIMS)[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] != "claim" and not row[0].startswith("---")]


def is_a_test(reference: str) -> bool:
    path, _, name = reference.partition("::")
    file = ROOT / path
    if not file.is_file():
        return False
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        return re.search(rf"(?m)^(async )?def {name}\(", text) is not None and name.startswith("test_")
    # In Rust a test has an attribute, directly in front of it or of others that it has.
    return re.search(rf"#\[test\]\n(\s*#\[[^\n]*\n)*\s*fn {name}\(", text) is not None


def test_what_is_no_test_is_not_taken_for_one():
    assert is_a_test("tests/test_docs.py::test_what_is_no_test_is_not_taken_for_one")
    assert is_a_test("rust/core/tests/corpus.rs::programs_of_the_corpus_repeat_no_nonce_and_open_nothing_twice")
    assert is_a_test("rust/core/tests/properties.rs::one_flipped_bit_is_an_error")
    for reference in ("tests/test_docs.py::test_gone", "tests/test_gone.py::test_gone", "tests/test_docs.py::claims"):
        assert not is_a_test(reference)
    assert not is_a_test("rust/core/tests/corpus.rs::replay")


def test_every_claim_names_tests_that_there_are_and_what_they_leave_open():
    rows = claims()
    assert len(rows) > 30
    broken = []
    for row in rows:
        claim, tests, hole = row if len(row) == 3 else (str(row), "", "")
        named = re.findall(r"`([^`]+::\w+)`", tests)
        if not named or not hole.endswith(".") or re.sub(r"`[^`]+::\w+`|<br>", "", tests).strip():
            broken.append(claim)
        broken += [reference for reference in named if not is_a_test(reference)]
    assert broken == []


# --- the tables of evidence (docs/assurance.md) ----------------------------------------------------------------------

ASSURANCE = ROOT / "docs/assurance.md"
HEADER = "| claim | evidence | what it does not show |"


def evidence() -> dict[str, list[list[str]]]:
    """The rows of each heading that has a table of evidence, a list of cells each."""
    found = {}
    for section in ASSURANCE.read_text("utf-8").split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        if HEADER in text:
            found[heading] = cells(text.partition(HEADER)[2])
    return found


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.removeprefix("|").removesuffix("|").split(" | ")] for line in lines]


def make_targets() -> set[str]:
    text = "\n".join(
        (ROOT / name).read_text("utf-8") for name in ("Makefile", "rust/assurance.mk", "release/release.mk")
    )
    return {name for line in re.findall(r"(?m)^([a-z][a-z -]*):(?!=)", text) for name in line.split()}


def made(text: str) -> set[str]:
    """The targets that commands in backticks make."""
    return set(re.findall(r"`make ([a-z-]+)[^`]*`", text))


def row_faults(row: list[str]) -> list[str]:
    """Why a row of evidence does not hold: its cells, its commands, its tests."""
    if len(row) != 3:
        return [f"{len(row)} cells"]
    _, shown, hole = row
    tests = re.findall(r"`([\w./-]+\.(?:py|rs)::\w+)`", shown)
    found = [f"no target {name}" for name in sorted(made(shown) - make_targets())]
    found += [f"no test {reference}" for reference in tests if not is_a_test(reference)]
    found += [
        f"no file {name}" for name in re.findall(r"`([\w./-]+/\w+\.(?:py|rs))`", shown) if not (ROOT / name).is_file()
    ]
    if not made(shown) and not tests:
        found.append("neither a command nor a test")
    if not hole.endswith("."):
        found.append("no full sentence says what it does not show")
    return found


def test_every_row_of_evidence_names_a_command_or_a_test_that_there_is():
    rows = [(heading, row) for heading, rows in evidence().items() for row in rows]
    assert {f"{heading}: {row[0]}": faults for heading, row in rows if (faults := row_faults(row))} == {}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("A | `make nothing`: seconds | A hole.", "no target nothing"),
        ("A | `make test` runs `tests/test_gone.py` | A hole.", "no file tests/test_gone.py"),
        ("A | `tests/test_docs.py::test_gone` | A hole.", "no test tests/test_docs.py::test_gone"),
        ("A | We have thought about it. | A hole.", "neither a command nor a test"),
        ("A | `make test` | no sentence", "no full sentence says what it does not show"),
        ("A | `make test`", "2 cells"),
    ],
)
def test_a_row_without_evidence_is_found(row, fault):
    assert row_faults(row.split(" | ")) == [fault]
    assert row_faults(["A", "`make fuzz ARGS=open`, 3 s *(CI)*", "A hole."]) == []


def test_the_threat_model_says_everything_of_every_actor():
    section = ASSURANCE.read_text("utf-8").partition("\n## Threat model\n")[2].partition("\n## ")[0]
    header, *actors = cells(section)
    assert header == ["actor", "has", "can", "cannot", "what stops it", "what frameseal does not defend"]
    assert [row[0] for row in actors if len(row) != len(header) or not all(row)] == []
    named = re.findall(r"(?m)^\| \*\*(.*?)\*\*", section)
    assert named == ["SFU", "signalling server", "member", "former member", "key server", "local attacker",
                     "dependency", "network", "archive"]  # fmt: skip


def ci_targets() -> set[str]:
    """The targets that `.ci/run` makes."""
    command = r'(?m)^(?:section "[^"]*" )?(?:with_nothing_skipped )?make ([a-z-]+)'
    return set(re.findall(command, (ROOT / ".ci/run").read_text("utf-8")))


def test_ci_runs_the_targets_that_its_lines_make():
    assert {"check", "demo", "fuzz", "interop", "test"} <= ci_targets()


def test_a_row_says_ci_exactly_when_ci_runs_its_command():
    rows = [row for rows in evidence().values() for row in rows]
    assert [row[0] for row in rows if ("*(CI)*" in row[1]) != bool(made(row[1]) & ci_targets())] == []


def test_every_heading_of_evidence_has_a_row_and_every_command_of_ci_a_target():
    headings = re.findall(r"(?m)^## (.+)$", ASSURANCE.read_text("utf-8"))
    assert [heading for heading in headings if heading != "Threat model" and not evidence().get(heading)] == []
    assert ci_targets() <= make_targets()
