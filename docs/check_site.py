"""Walk the built site: every link within it leads somewhere, it loads nothing from elsewhere, and it names no machine.

    python docs/check_site.py FOLDER

Links to other sites are counted and not followed, because the check needs no network. With the index `objects.inv` of
Sphinx it checks also that every public name has an entry with its docstring.
"""

import html.parser
import os
import re
import sys
import urllib.parse
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# The attributes by which a page loads something, and those by which it leads somewhere.
_LOADS = {("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src"), ("video", "src"), ("audio", "src")}
_LOADING_RELATIONS = {"stylesheet", "icon", "shortcut", "preload", "modulepreload", "manifest", "mask-icon"}
_CSS_URL = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")
_EXTERNAL = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"(?:data|mailto|javascript|blob|about):", re.IGNORECASE)
_DOCUMENT = re.compile(r"docs/[\w/-]+\.md")
_TEXT = {".html", ".js", ".css", ".json", ".txt", ".svg", ".inv"}


class Page(html.parser.HTMLParser):
    """The anchors of a page, what it loads, and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note the anchors and the links of an element."""
        values = {name: value or "" for name, value in attributes}
        self.anchors.update(values[name] for name in ("id", "name") if values.get(name))
        for name, value in values.items():
            if (tag, name) in _LOADS:
                self.loads.append(value)
        if "srcset" in values:
            self.loads += [each.split()[0] for each in values["srcset"].split(",") if each.strip()]
        if "style" in values:
            self.loads += addresses(values["style"])
        if tag == "link" and "href" in values:
            loading = _LOADING_RELATIONS & set(values.get("rel", "").split())
            (self.loads if loading else self.links).append(values["href"])
        elif tag in ("a", "area") and "href" in values:
            self.links.append(values["href"])

    def handle_data(self, text: str) -> None:
        """Note the text."""
        self.text.append(text)


@dataclass
class Report:
    """The faults of a site, and what was looked at."""

    faults: list[str] = field(default_factory=list)
    pages: int = 0
    links: int = 0
    elsewhere: set[str] = field(default_factory=set)


def addresses(style: str) -> list[str]:
    """Return the addresses that a style sheet loads."""
    return [first or second for first, second in _CSS_URL.findall(style)]


def check(folder: Path) -> Report:
    """Return what is wrong with the site in *folder*."""
    report = Report()
    parsed: dict[Path, Page] = {}
    for path in sorted(folder.rglob("*.html")):
        parsed[path] = Page()
        parsed[path].feed(path.read_text("utf-8"))
    report.pages = len(parsed)
    for path, page in parsed.items():
        name = path.relative_to(folder).as_posix()
        for link in [*page.links, *page.loads]:
            loaded = link in page.loads
            if _OTHER_SCHEME.match(link) or not link:
                continue
            if _EXTERNAL.match(link):
                report.elsewhere.add(link)
                if loaded:
                    report.faults.append(f"{name} loads {link} from elsewhere")
                continue
            report.links += 1
            if fault := _broken(path, link, folder, parsed):
                report.faults.append(f"{name}: {link} {fault}")
    for path in sorted(folder.rglob("*.css")):
        name = path.relative_to(folder).as_posix()
        for link in addresses(path.read_text("utf-8")):
            if _EXTERNAL.match(link):
                report.faults.append(f"{name} loads {link} from elsewhere")
            elif not _OTHER_SCHEME.match(link) and (fault := _broken(path, link, folder, parsed)):
                report.faults.append(f"{name}: {link} {fault}")
    report.faults += _machines(folder)
    return report


def _broken(path: Path, link: str, folder: Path, parsed: dict[Path, Page]) -> str | None:
    """Return what is wrong with a link within the site. None means that it leads somewhere."""
    split = urllib.parse.urlsplit(link)
    target = path
    if split.path:
        if split.path.startswith("/"):
            return "is absolute, and the site may lie in any folder"
        target = Path(os.path.normpath(path.parent / urllib.parse.unquote(split.path)))
        if not target.is_relative_to(folder):
            return "leads out of the site"
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            return "leads nowhere"
    # As browsers do: the anchor as it is written, then decoded. rustdoc writes anchors with percent signs.
    anchors = {split.fragment, urllib.parse.unquote(split.fragment)}
    if not split.fragment or target not in parsed or anchors & parsed[target].anchors:
        return None
    return None if _is_made_by_script(target, split.fragment) else "has no such anchor"


def _is_made_by_script(target: Path, anchor: str) -> bool:
    """Return whether a page of rustdoc makes the anchor when it is opened: the lines of a source file."""
    return target.name.endswith(".rs.html") and re.fullmatch(r"\d+(-\d+)?", anchor) is not None


def _machines(folder: Path) -> Iterable[str]:
    """Yield the files that name a folder of the machine on which they were built."""
    places = (str(Path.cwd()), f"{Path.home()}/")
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TEXT and path.is_file():
            text = inventory(path) if path.suffix == ".inv" else path.read_text("utf-8", errors="replace")
            yield from (f"{path.relative_to(folder).as_posix()} names {here}" for here in places if here in text)


def inventory(path: Path) -> str:
    """Return the lines of `objects.inv`: name, kind, priority, address and title of each entry."""
    content = path.read_bytes().split(b"\n", 4)
    return zlib.decompress(content[4]).decode()


def missing_entries(folder: Path, docstrings: dict[str, str]) -> list[str]:
    """Return the names that have no entry in the reference, or an entry without the words of their docstring."""
    entries = {}
    for line in inventory(folder / "objects.inv").splitlines():
        name, kind, _, address, _ = line.split(" ", 4)
        if kind.startswith("py:"):
            entries[name] = address.replace("$", name)
    texts: dict[str, str] = {}
    missing = []
    for name, docstring in docstrings.items():
        page, _, anchor = entries.get(name, "").partition("#")
        if page and page not in texts:
            parsed = Page()
            parsed.feed((folder / page).read_text("utf-8"))
            texts[page] = _plain("".join(parsed.text)) if anchor in parsed.anchors else ""
        # Quotation marks and code are drawn in other ways, and a page of docs/ has its title there. Words stay.
        parts = _DOCUMENT.split(docstring.split("\n\n", 1)[0])
        if not page or not all(_plain(part) in texts[page] for part in parts):
            missing.append(name)
    return missing


def _plain(text: str) -> str:
    """Return the letters and digits of a text."""
    return re.sub(r"[\W_]+", "", text)


def main() -> None:
    """Check the site, and exit with 1 and the faults if there are any."""
    import reference  # noqa: PLC0415 - it needs the package

    folder = Path(sys.argv[1]).resolve()
    report = check(folder)
    reference.use_stub()
    docstrings = reference.docstrings()
    report.faults += [f"{name} has no entry in the reference" for name in missing_entries(folder, docstrings)]
    for fault in report.faults:
        print(fault, file=sys.stderr)
    print(
        f"{report.pages} pages, {report.links} links within the site, {len(report.elsewhere)} links to other sites "
        f"(not followed), {len(docstrings)} names of the Python reference, {len(report.faults)} faults"
    )
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
