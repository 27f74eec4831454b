"""Lay out what Sphinx reads: the pages of docs/, and what they link to elsewhere in the project.

    python docs/pages.py FOLDER

A page of docs/ keeps its place. Anything else that a page links to goes into the folder `project`: other Markdown as it
is, a source file and a folder as pages that show them. The navigation is made from the sections of docs/index.md, so
that a page belongs where the index first names it.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A fence, which stays as it is, or the target of a link.
_LINK = re.compile(r"(?ms)^```.*?^```$|(?<=\]\()<?([^)\s>]+)>?(?=\))")
_PAGE = re.compile(r"\[([^\]]+)\]\(/([^)#]+)\.md[^)]*\)")
_SECTION = re.compile(r"(?m)^## (.+)$")
_PICTURES = (".png", ".svg")
_LANGUAGES = {".py": "python", ".rs": "rust", ".js": "javascript", ".toml": "toml"}

# In the navigation, behind the sections of the index.
REFERENCE = "\n```{toctree}\n:caption: Reference\n:hidden:\n\n/reference/index\n/reference/rust\n```\n"
RUST = """# Rust

The crate `frameseal` has its own reference: <a href="../rust/index.html">crate frameseal</a>. The
[architecture](/architecture.md) shows which file holds what.
"""


def place(path: Path, root: Path = ROOT) -> str:
    """Return the name that a file or folder of the project has among the pages."""
    inside = path.relative_to(root)
    if inside.parts[0] == "docs":
        return inside.relative_to("docs").as_posix()
    name = f"project/{inside.as_posix()}"
    if path.is_dir():
        return f"{name}/index.md"
    return name if path.suffix in (".md", *_PICTURES) else f"{name}.md"


def lay_out(folder: Path, root: Path = ROOT) -> None:
    """Write the pages into *folder*, which is empty."""
    waiting = sorted((root / "docs").rglob("*.md"))
    written: set[str] = set()
    while waiting:
        path = waiting.pop()
        name = place(path, root)
        if name in written:
            continue
        written.add(name)
        if path.suffix in _PICTURES:
            _write(folder / name, path.read_bytes())
            continue
        text, beside = (_text(path), path.parent) if path.suffix == ".md" else (shown(path, root), root)
        if path.is_dir() or path.suffix == ".md":
            text = linked(text, beside, root, waiting.append)
        if name == "index.md":
            text += navigation(text) + REFERENCE
        _write(folder / name, text.encode())


def _text(path: Path) -> str:
    return path.read_text("utf-8")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def linked(text: str, folder: Path, root: Path, found: Callable[[Path], None]) -> str:
    """Return a page whose links lead to the places of the pages. Reports each file that it links to."""

    def moved(link: re.Match[str]) -> str:
        path, mark, anchor = (link[1] or "").partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        target = Path(os.path.normpath(folder / path))
        found(target)
        return f"/{place(target, root)}{mark}{anchor}"

    return _LINK.sub(moved, text)


def shown(path: Path, root: Path) -> str:
    """Return a page that shows a source file, or lists the files of a folder."""
    name = path.relative_to(root).as_posix()
    top = f"---\norphan: true\nnosearch: true\n---\n\n# {name}\n\n"
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in (*_LANGUAGES, ".md"))
        return top + "".join(f"* [{each.relative_to(path).as_posix()}]({each.relative_to(root)})\n" for each in files)
    return f"{top}`````{_LANGUAGES.get(path.suffix, 'text')}\n{_text(path)}`````\n"


def navigation(index: str) -> str:
    """Return a table of contents for each section of the index, with the pages that it is the first to name.

    A page is called there as the index calls it.
    """
    text, named = "", {"index"}
    parts = _SECTION.split(index)[1:]
    for caption, section in zip(parts[::2], parts[1::2], strict=True):
        entries = ""
        for title, page in _PAGE.findall(section):
            if page not in named:
                named.add(page)
                entries += f"{title} </{page}>\n"
        text += f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{entries}```\n"
    return text


def main() -> None:
    """Lay out the pages and the reference. Exits with 1 and the names if a public name has no docstring."""
    import reference  # noqa: PLC0415 - it needs the package

    folder = Path(sys.argv[1])
    lay_out(folder)
    reference.use_stub()
    for name, text in reference.pages().items():
        _write(folder / f"reference/{name}.rst", text.encode())
    _write(folder / "reference/rust.md", RUST.encode())


if __name__ == "__main__":
    main()
