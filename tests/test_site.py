"""The site of the documents: what its pages are made from, and what docs/check_site.py finds in a broken site."""

import importlib
import json
import subprocess
import sys
import zlib

import pytest

from support.paths import ROOT

DOCS = ROOT / "docs"

PAGE = """<!doctype html><html><head><link rel="stylesheet" href="_static/site.css"></head>
<body id="top"><a href="guide/keys.html#life">keys</a> <a href="https://example.org/">elsewhere</a>
<img src="_static/a%20picture.png"> <a href="rust/lib.rs.html#3-5">source</a></body></html>"""


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("pages")


@pytest.fixture
def check_site(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("check_site")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = {
        "index.html": PAGE,
        "guide/keys.html": '<h1 id="life">Keys</h1> <a href="../index.html#top">up</a> <a href="../guide">here</a>',
        "guide/index.html": '<a href="?q=1#">again</a>',
        "rust/lib.rs.html": "<pre>source</pre>",
        "_static/site.css": "body { background: url('a%20picture.png') } a { src: url(data:text/plain,) }",
        "_static/a picture.png": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_whole_site_has_no_fault(check_site, site):
    report = check_site.check(site)
    assert report.faults == []
    assert (report.pages, report.elsewhere) == (4, {"https://example.org/"})


@pytest.mark.parametrize(
    ("file", "planted", "fault"),
    [
        ("index.html", '<a href="guide/gone.html">', "index.html: guide/gone.html leads nowhere"),
        ("index.html", '<a href="guide/keys.html#gone">', "index.html: guide/keys.html#gone has no such anchor"),
        ("index.html", '<a href="#gone">', "index.html: #gone has no such anchor"),
        ("index.html", '<a href="../other.html">', "index.html: ../other.html leads out of the site"),
        ("index.html", '<a href="/guide/keys.html">', "is absolute, and the site may lie in any folder"),
        ("index.html", '<img src="gone.png">', "index.html: gone.png leads nowhere"),
        ("index.html", '<img srcset="gone.png 2x">', "index.html: gone.png leads nowhere"),
        ("index.html", '<p style="background: url(gone.png)">', "index.html: gone.png leads nowhere"),
        ("index.html", '<script src="https://cdn.example/a.js">', "loads https://cdn.example/a.js from elsewhere"),
        ("index.html", '<script src="//cdn.example/a.js">', "loads //cdn.example/a.js from elsewhere"),
        ("index.html", '<link rel="stylesheet" href="https://fonts.example/a">', "from elsewhere"),
        ("_static/site.css", "@import 'https://fonts.example/a';", "_static/site.css loads https://fonts.example/a"),
        ("_static/site.css", "p { src: url(gone.woff2) }", "_static/site.css: gone.woff2 leads nowhere"),
        ("rust/lib.rs.html", '<a href="lib.rs.html#main">', "has no such anchor"),
        ("guide/keys.html", f"built in {ROOT}/docs", "guide/keys.html names"),
    ],
)
def test_a_planted_fault_is_found(check_site, site, file, planted, fault):
    path = site / file
    path.write_text(path.read_text() + planted)
    (found,) = check_site.check(site).faults
    assert fault in found


def inventory(folder, entries: dict[str, str]) -> None:
    lines = "".join(f"{name} py:class 1 {address} -\n" for name, address in entries.items())
    (folder / "objects.inv").write_bytes(b"# a\n# b\n# c\n# d\n" + zlib.compress(lines.encode()))


def test_a_name_without_an_entry_or_its_docstring_is_found(check_site, tmp_path):
    (tmp_path / "a.html").write_text(
        '<dt id="m.Whole">Whole</dt> Seals “one” frame: see <i>Keys</i>. <dt id="m.Other">'
    )
    inventory(tmp_path, {"m.Whole": "a.html#$", "m.Other": "a.html#$", "m.Lost": "a.html#$"})
    asked = {
        "m.Whole": 'Seals "one"\nframe: see docs/guide/keys.md.\n\nAnd more.',
        "m.Other": "Opens it.",
        "m.Gone": "",
    }
    assert check_site.missing_entries(tmp_path, asked) == ["m.Other", "m.Gone"]


def test_pages_have_their_places_and_links_lead_to_them(pages, tmp_path):
    project = tmp_path / "project"
    files = {
        "docs/index.md": "# Index\n\n## I have a call\n\n[Keys](guide/keys.md#life), [again](guide/keys.md)\n\n"
        "## More\n\n[Read me](../README.md), [Keys](guide/keys.md)\n",
        "docs/guide/keys.md": "# Keys\n\n[one](../../examples/one.py) [all](../../examples)\n"
        "```md\n[no link](../../README.md)\n```\n[out](https://example.org/) [here](#keys) ![](../images/a.png)\n",
        "docs/images/a.png": "",
        "README.md": "# Read me\n\n[docs](docs/index.md)\n",
        "examples/one.py": "print(1)\n",
    }
    for name, text in files.items():
        (project / name).parent.mkdir(exist_ok=True, parents=True)
        (project / name).write_text(text)
    made = tmp_path / "made"
    pages.lay_out(made, project)
    assert {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} == {
        "index.md",
        "guide/keys.md",
        "images/a.png",
        "project/README.md",
        "project/examples/index.md",
        "project/examples/one.py.md",
    }
    keys = (made / "guide/keys.md").read_text()
    assert "[one](/project/examples/one.py.md) [all](/project/examples/index.md)" in keys
    assert "[no link](../../README.md)" in keys
    assert "[out](https://example.org/) [here](#keys) ![](/images/a.png)" in keys
    assert "[docs](/index.md)" in (made / "project/README.md").read_text()
    assert "[one.py](/project/examples/one.py.md)" in (made / "project/examples/index.md").read_text()
    assert "```python\nprint(1)\n" in (made / "project/examples/one.py.md").read_text()
    index = (made / "index.md").read_text()
    assert ":caption: I have a call\n:hidden:\n\nKeys </guide/keys>\n```" in index
    assert ":caption: More\n:hidden:\n\nRead me </project/README>\n```" in index, (
        "a page belongs where it is first named"
    )


def test_a_name_without_a_docstring_stops_the_reference():
    """In a process of its own, because the stub takes the place of the native classes."""
    program = f"""
import sys; sys.path.insert(0, {str(DOCS)!r})
import frameseal, reference
reference.use_stub()
print(len(reference.docstrings()["frameseal.KeyRing.set_key"]) > 100)
frameseal.KeyRing.ratchet.__doc__ = None
print(list(reference.gaps("frameseal")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "['frameseal.KeyRing.ratchet']"]


def test_the_diagrams_of_the_site_are_locked_with_hashes():
    stated = json.loads((DOCS / "mermaid/package.json").read_text("utf-8"))["dependencies"]
    locked = json.loads((DOCS / "mermaid/package-lock.json").read_text("utf-8"))["packages"]
    assert locked["node_modules/mermaid"]["version"] == stated["mermaid"]
    assert all(each["integrity"].startswith("sha512-") for name, each in locked.items() if name)
