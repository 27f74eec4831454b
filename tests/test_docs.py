"""What the documents show works: their Python runs, their links lead somewhere.

A block that cannot run by itself (it needs a call, or a listener's event) is marked ```python no-run; it is compiled.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benches/*.md"), *ROOT.glob("tests/**/*.md")]
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
