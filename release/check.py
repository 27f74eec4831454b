"""Judges what is about to be published: `python release/check.py FILE...`, or `make release-check`.

Compares the built files with the tree that they claim to come from: versions, tags, contents, licences, bill of
materials, hashes, size, symbols and paths. Each fault is a line that names the file and the remedy. Before that it
plants a fault for each check (planted.py), and fails if a check accepts its fault.

`--source` judges the tree only. `--tag` requires the version of a tag and a dated changelog. `--complete` requires the
files of every platform.
"""

import argparse
import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import BytesParser
from functools import cached_property
from itertools import product
from pathlib import Path

import licences
import planted
import wheels

ROOT = Path(__file__).parents[1]
TREE = "python/frameseal"
LICENCES = ("LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "LICENSE-THIRD-PARTY")
NATIVE = re.compile(r"frameseal/_native\.[\w.-]*(?:so|pyd)")
GENERATED = {"PKG-INFO"}

# The largest wheel has 1.06 MB, the sdist 0.53 MB. More than this is something that does not belong there.
MAX_WHEEL = 1_500_000
MAX_SDIST = 1_000_000

# Where builds happen. What stands behind them up to the name of a source file is a path of the machine that built.
PLACES = rb"/(?:home|Users|root|work|tmp|private|__w|builds?|opt|mnt|var|usr/local/(?:cargo|rustup)|usr/src)/"
BUILD_PATH = re.compile(PLACES + rb"[\w./+@-]*\.(?:rs|cc?|cpp|h|inc|S)")

GLIBC = ("manylinux2014_x86_64.manylinux_2_17_x86_64", "manylinux2014_aarch64.manylinux_2_17_aarch64")
MUSL = ("musllinux_1_2_x86_64", "musllinux_1_2_aarch64")
OTHER = ("macosx_11_0_arm64", "macosx_11_0_x86_64", "win_amd64")
# A free-threaded interpreter before 3.15 has no stable ABI.
TAGS = [f"cp311-abi3-{each}" for each in (*GLIBC, *MUSL, *OTHER)] + [
    f"cp314-cp314t-{each}" for each in (*GLIBC, *OTHER)
]


@dataclass(frozen=True)
class Wheel:
    """A wheel in memory."""

    name: str
    size: int
    files: Mapping[str, bytes]

    @classmethod
    def read(cls, path: Path) -> "Wheel":
        """Read a wheel."""
        with zipfile.ZipFile(path) as archive:
            files = {each.filename: archive.read(each) for each in archive.infolist() if not each.is_dir()}
        return cls(path.name, path.stat().st_size, files)

    @property
    def version(self) -> str:
        """Return the version in the name."""
        return self.name.split("-")[1] if self.name.count("-") >= 4 else ""

    @property
    def tag(self) -> str:
        """Return the tags in the name, as the name has them."""
        return self.name.removesuffix(".whl").split("-", 2)[-1]

    @property
    def info(self) -> str:
        """Return the folder of the metadata."""
        return f"frameseal-{self.version}.dist-info"

    @property
    def native(self) -> list[str]:
        """Return the names of the native modules."""
        return [name for name in self.files if NATIVE.fullmatch(name)]

    def metadata(self, name: str) -> bytes:
        """Return a file of the metadata. It is empty if the wheel has none of that name."""
        return self.files.get(f"{self.info}/{name}", b"")


@dataclass(frozen=True)
class Source:
    """The tree that the files claim to come from."""

    root: Path = ROOT
    places: Sequence[str] = field(default_factory=lambda: [str(ROOT), str(Path.home() / ".cargo")])

    def text(self, name: str) -> str:
        """Return the text of a file of the tree."""
        return (self.root / name).read_text("utf-8")

    @cached_property
    def version(self) -> str:
        """Return the version of the workspace."""
        return tomllib.loads(self.text("Cargo.toml"))["workspace"]["package"]["version"]

    @cached_property
    def package(self) -> dict[str, bytes]:
        """Return the files of the Python package, as a wheel names them."""
        known = {name for name in self.known if name.startswith(f"{TREE}/")}
        return {name.removeprefix("python/"): (self.root / name).read_bytes() for name in known}

    @cached_property
    def known(self) -> set[str]:
        """Return the files that git knows."""
        command = ["git", "-C", str(self.root), "ls-files", "-z"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {name for name in output.split("\0") if name and (self.root / name).is_file()}

    @cached_property
    def crates(self) -> dict[tuple[str, str], str | None]:
        """Return the linked crates by name and version, with the hash that Cargo.lock holds."""
        locked = {(each["name"], each["version"]): each.get("checksum") for each in self.locked}
        return {crate: locked[crate] for crate in licences.linked_names()}

    @cached_property
    def locked(self) -> list[dict[str, str]]:
        """Return the packages of Cargo.lock."""
        return tomllib.loads(self.text("Cargo.lock"))["package"]


def exports_of(module: bytes) -> set[str]:
    """Return the symbols that a native module of Linux exports."""
    from elftools.elf.elffile import ELFFile

    table = ELFFile(io.BytesIO(module)).get_section_by_name(".dynsym")
    return {each.name for each in table.iter_symbols() if each.name and each["st_shndx"] != "SHN_UNDEF"}


def damage_of(module: bytes) -> str | None:
    """Return why a native module of Linux cannot be read. It is None if it can."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        return None if ELFFile(io.BytesIO(module)).get_section_by_name(".dynsym") else "it has no dynamic symbols"
    except ELFError as error:
        return str(error) or type(error).__name__


def libc_of(tag: str) -> str | None:
    """Return the libc of a wheel: gnu or musl. It is None elsewhere than on Linux."""
    return next((libc for name, libc in (("manylinux", "gnu"), ("musllinux", "musl")) if name in tag), None)


def judge_tags(wheel: Wheel, source: Source) -> Iterator[str]:
    """Yield why the name of a wheel, or its own list of tags, is wrong."""
    if wheel.version != source.version:
        yield f"has the version {wheel.version or 'none'}, and Cargo.toml {source.version}: build it from this tree"
    if wheel.tag not in TAGS:
        yield f"has the tag {wheel.tag}, which no release has: build it with make wheels"
    python, abi, platform = (
        (part.split(".") for part in wheel.tag.split("-", 2)) if wheel.tag.count("-") >= 2 else ([], [], [])
    )
    named = {"-".join(each) for each in product(python, abi, platform)}
    stated = {line for line in re.findall(r"(?m)^Tag: (\S+)$", wheel.metadata("WHEEL").decode())}
    if named != stated:
        tags = ", ".join(sorted(stated)) or "none"
        yield f"states the tags {tags} in WHEEL, which are not those of its name: build it again"
    if b"Root-Is-Purelib: false" not in wheel.metadata("WHEEL"):
        yield "says in WHEEL that it is pure Python: build it again"


def judge_contents(wheel: Wheel, source: Source) -> Iterator[str]:
    """Yield what is missing in a wheel, what does not belong there, and what differs from the tree."""
    inside = {name for name in wheel.files if name.startswith("frameseal/")}
    required = {f"{wheel.info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    for name in sorted(wheel.files.keys() - inside):
        if not name.startswith(f"{wheel.info}/"):
            yield f"contains {name}: only frameseal/ and {wheel.info}/ belong there"
    for name in sorted(required - wheel.files.keys()):
        yield f"lacks {name}: build it with maturin"
    if len(wheel.native) != 1:
        yield f"has {len(wheel.native)} native modules, and needs one: build it again"
    for name in sorted(inside ^ source.package.keys()):
        if name in source.package:
            yield f"lacks {name}: build it from this tree"
        elif name not in wheel.native:
            yield f"contains {name}, which git does not know: remove it, or commit it"
    for name in sorted(inside & source.package.keys()):
        if wheel.files[name] != source.package[name]:
            yield f"has another {name} than this tree: build it again"
    stub = wheel.files.get("frameseal/_native.pyi")
    if "frameseal/py.typed" not in wheel.files or not stub:
        yield "lacks the types (py.typed, _native.pyi): put them back into the tree"


def judge_licences(wheel: Wheel, source: Source) -> Iterator[str]:
    """Yield which licence is missing, or is another than in the tree."""
    for name in LICENCES:
        if wheel.metadata(f"licenses/{name}") != (source.root / name).read_bytes():
            yield f"has no {name} of this tree in licenses: see license-files in pyproject.toml, and make licences"


def judge_bill(wheel: Wheel, source: Source) -> Iterator[str]:
    """Yield why the bill of materials is wrong. It must name exactly the crates that are linked."""
    bills = [name for name in wheel.files if name.startswith(f"{wheel.info}/sboms/")]
    if len(bills) != 1:
        yield f"has {len(bills)} bills of materials in sboms, and needs one: see tool.maturin.sbom in pyproject.toml"
        return
    text = wheel.files[bills[0]].decode("utf-8", "replace")
    try:
        components = json.loads(text)["components"]
    except (ValueError, KeyError, TypeError):
        yield "has a bill of materials that is no JSON with components: run make licences"
        return
    if fault := licences.fault_of_bill(text):
        yield f"has a bill of materials that is no CycloneDX ({fault[:80]}): run make licences"
    named = {}
    for each in components:
        if each.get("purl", "").startswith("pkg:cargo/"):
            named[each["name"], each["version"]] = next((entry["content"] for entry in each.get("hashes", [])), None)
    for name, version in sorted(named.keys() - source.crates.keys()):
        yield f"names {name} {version} in its bill of materials, which is not linked: run make licences"
    for name, version in sorted(source.crates.keys() - named.keys()):
        yield f"does not name {name} {version} in its bill of materials: run make licences"
    for crate in sorted(named.keys() & source.crates.keys()):
        if named[crate] != source.crates[crate]:
            yield f"has another hash of {crate[0]} in its bill of materials than Cargo.lock: run make licences"


def judge_record(wheel: Wheel, _: Source) -> Iterator[str]:
    """Yield which file RECORD does not list with its hash and size."""
    own = f"{wheel.info}/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(wheel.metadata("RECORD").decode().splitlines()) if row}
    for name in sorted(rows.keys() ^ wheel.files.keys()):
        yield f"has {name} in {'RECORD' if name in rows else 'the archive'} only: build it again"
    for name, data in sorted(wheel.files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        if name in rows and rows[name] != (["", ""] if name == own else [f"sha256={digest}", str(len(data))]):
            yield f"has another hash or size of {name} in RECORD: build it again"


def judge_size(wheel: Wheel, _: Source) -> Iterator[str]:
    """Yield that a wheel is too large."""
    if wheel.size > MAX_WHEEL:
        yield f"has {wheel.size:,} bytes, and {MAX_WHEEL:,} are allowed: see what was added, or raise MAX_WHEEL"


def judge_module(wheel: Wheel, source: Source) -> Iterator[str]:
    """Yield why the native module may not be published."""
    for module in (wheel.files[name] for name in wheel.native):
        paths = sorted({match.decode("ascii", "replace") for match in BUILD_PATH.findall(module)})
        libc = libc_of(wheel.tag)
        if libc and (damage := damage_of(module)):
            yield f"has a native module that is no library of Linux ({damage}): build it again"
        elif libc:
            for fault in wheels.faults(module, libc, source.places):
                yield f"may not be published, {fault}: build it with make wheels"
            for name in sorted(exports_of(module) - {"PyInit__native"}):
                yield f"exports {name}: only PyInit__native is to be seen"
        elif b"PyInit__native" not in module:
            yield "exports no PyInit__native: build it again"
        # Visual C++ writes its own paths into what it compiles, and has no option that maps them.
        if paths and not wheel.tag.endswith("win_amd64"):
            yield f"contains {paths[0]}, a path of the machine that built it: build it with make wheels"


def judge_metadata(wheel: Wheel, source: Source) -> Iterator[str]:
    """Yield why PyPI would refuse or misprint the metadata of a wheel."""
    yield from faults_of_metadata(wheel.metadata("METADATA"), source)


def faults_of_metadata(data: bytes, source: Source) -> Iterator[str]:
    """Yield why PyPI would refuse or misprint metadata."""
    from packaging.metadata import Metadata

    try:
        metadata = Metadata.from_email(data, validate=True)
    except ExceptionGroup as errors:
        yield f"has metadata that PyPI refuses ({errors.exceptions[0]}): correct pyproject.toml"
        return
    if (metadata.name, str(metadata.version)) != ("frameseal", source.version):
        yield f"is {metadata.name} {metadata.version} by its metadata: build it from this tree"
    if str(metadata.requires_python) != ">=3.11":
        yield f"asks for Python {metadata.requires_python}: correct requires-python in pyproject.toml"
    if not (metadata.description_content_type or "").startswith("text/markdown"):
        yield "has no description in Markdown: see readme in pyproject.toml"
    if not rendered(metadata.description or ""):
        yield "has a description that PyPI cannot render: correct release/description.md"
    if broken := re.findall(r"\]\((?!https?://|#|mailto:)([^)]*)\)", metadata.description or ""):
        yield f"has a link in its description that leads nowhere on PyPI ({broken[0]}): correct release/description.md"


def rendered(text: str) -> str | None:
    """Return a description as PyPI renders it. It is None or empty if that fails."""
    from readme_renderer import markdown

    return markdown.render(text)


CHECKS: dict[str, Callable[[Wheel, Source], Iterator[str]]] = {
    "tags": judge_tags,
    "contents": judge_contents,
    "licences": judge_licences,
    "bill": judge_bill,
    "record": judge_record,
    "size": judge_size,
    "module": judge_module,
    "metadata": judge_metadata,
}


def wheel_faults(wheel: Wheel, source: Source) -> list[str]:
    """Return why a wheel may not be published."""
    return [fault for check in CHECKS.values() for fault in check(wheel, source)]


def sdist_faults(path: Path, source: Source) -> list[str]:
    """Return why an sdist may not be published. Unpacks it, and lets maturin make its metadata."""
    top = f"frameseal-{source.version}"
    found = []
    if path.name != f"{top}.tar.gz":
        found.append(f"is not named {top}.tar.gz: build it from this tree")
    if path.stat().st_size > MAX_SDIST:
        found.append(f"has {path.stat().st_size:,} bytes, and {MAX_SDIST:,} are allowed: see include in pyproject.toml")
    with tempfile.TemporaryDirectory(prefix="frameseal-sdist-") as name:
        folder = Path(name)
        try:
            with tarfile.open(path) as archive:
                members = {each.name for each in archive.getmembers() if not each.isdir()}
                archive.extractall(folder, filter="data")
        except tarfile.TarError as error:
            return [*found, f"cannot be unpacked ({error}): build it again"]
        known = {f"{top}/{each}" for each in (*source.known, *GENERATED)}
        found += [
            f"contains {each}, which git does not know: remove it, or commit it" for each in sorted(members - known)
        ]
        required = {
            "PKG-INFO",
            "pyproject.toml",
            "Cargo.lock",
            "rust/python/src/lib.rs",
            f"{TREE}/__init__.py",
            *LICENCES,
        }
        lacking = sorted(each for each in required if f"{top}/{each}" not in members)
        found += [f"lacks {each}: see include in pyproject.toml" for each in lacking]
        return found if lacking else found + list(sdist_metadata_faults(folder / top, source))


def sdist_metadata_faults(tree: Path, source: Source) -> Iterator[str]:
    """Yield why the metadata of an unpacked sdist is wrong, or cannot be built."""
    stated = (tree / "PKG-INFO").read_bytes()
    yield from faults_of_metadata(stated, source)
    program = str(Path(sys.executable).with_name("maturin"))
    command = [program, "pep517", "write-dist-info", "--metadata-directory", "built", "--interpreter", sys.executable]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    built = list(tree.glob("built/*.dist-info/METADATA"))
    if done.returncode or len(built) != 1:
        yield f"builds no metadata ({done.stderr.strip().splitlines()[-1:]}): unpack it, and run pip wheel there"
    elif BytesParser().parsebytes(built[0].read_bytes()).items() != BytesParser().parsebytes(stated).items():
        yield "builds other metadata than its PKG-INFO states: build it again"


def source_faults(source: Source, tag: str | None, built: str | None) -> list[str]:
    """Return why the tree may not be published: its versions, and its changelog."""
    version = source.version
    found = []
    for name in [
        "Cargo.lock",
        *sorted(path.relative_to(source.root).as_posix() for path in source.root.glob("rust/*/Cargo.lock")),
    ]:
        for each in tomllib.loads(source.text(name))["package"]:
            if each["name"] in ("frameseal", "frameseal-python") and each["version"] != version:
                found.append(
                    f"{name}: has {each['name']} {each['version']}, and Cargo.toml {version}: run cargo update -w"
                )
    if built is not None and built != version:
        found.append(f"frameseal.__version__: is {built}, and Cargo.toml has {version}: run make")
    stated = json.loads(source.text("release/frameseal.cyclonedx.json"))["metadata"]["component"]["version"]
    if stated != version:
        found.append(
            f"frameseal.cyclonedx.json: is of version {stated}, and Cargo.toml of {version}: run make licences"
        )
    if tag is not None and tag != f"v{version}":
        found.append(f"tag {tag}: Cargo.toml has {version}: tag v{version}, or set the version")
    return found + list(changelog_faults(source.text("CHANGELOG.md"), version, tag is not None))


def changelog_faults(text: str, version: str, dated: bool) -> Iterator[str]:
    """Yield why the newest entry of the changelog is not that of a version."""
    heading, _, entry = text.partition("\n## ")[2].partition("\n")
    match = re.fullmatch(r"(\S+) \((unreleased|\d{4}-\d\d-\d\d)\)", heading)
    if match is None or match[1] != version:
        yield f"CHANGELOG.md: begins with {heading!r}: the newest entry is '## {version} (date)'"
        return
    if dated and match[2] == "unreleased":
        yield f"CHANGELOG.md: {version} is unreleased: write its date, as YYYY-MM-DD"
    if not re.search(r"(?m)^- \S", entry.partition("\n## ")[0]):
        yield f"CHANGELOG.md: {version} lists no change: write what a user notices"


def unproven(wheel: Wheel, source: Source) -> list[str]:
    """Return the planted faults that no check finds in a sound wheel."""
    missed = []
    for name, (check, doctor, expected) in planted.FAULTS.items():
        if not any(expected in fault for fault in CHECKS[check](doctor(wheel), source)):
            missed.append(name)
    return missed


def missing(names: Sequence[str], version: str) -> list[str]:
    """Return the files of a release that are not among the names."""
    required = [f"frameseal-{version}.tar.gz", *(f"frameseal-{version}-{tag}.whl" for tag in TAGS)]
    return [name for name in required if name not in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the tree and the files, and return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", action="store_true", help="judge the tree only")
    parser.add_argument("--tag", help="the tag of the release, v and the version")
    parser.add_argument("--built", metavar="VERSION", help="frameseal.__version__ of the built module")
    parser.add_argument("--complete", action="store_true", help="require the files of every platform")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="a wheel, or an sdist")
    options = parser.parse_args(arguments)
    source = Source()
    files = [] if options.source else options.files
    if not files and not options.source:
        parser.error("there are no files to judge: run make wheels, or name them with FILES=")
    found = source_faults(source, options.tag, options.built)
    if options.complete:
        found += [f"{name}: is missing: build it" for name in missing([path.name for path in files], source.version)]
    for path in files:
        faults = [f"{path.name}: {fault}" for fault in file_faults(path, source)]
        found += faults
        if not faults:
            print(f"{path.name}: {path.stat().st_size:,} bytes, no fault", flush=True)
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


def file_faults(path: Path, source: Source) -> list[str]:
    """Return why a file may not be published. A sound wheel also shows that each check finds its planted fault."""
    if not path.is_file():
        return ["does not exist: run make wheels"]
    if path.suffix != ".whl":
        return sdist_faults(path, source) if path.name.endswith(".tar.gz") else ["is neither a wheel nor an sdist"]
    try:
        wheel = Wheel.read(path)
    except zipfile.BadZipFile as error:
        return [f"cannot be unpacked ({error}): build it again"]
    faults = wheel_faults(wheel, source)
    if not faults and libc_of(wheel.tag):
        faults = [f"shows a check that accepts {name}: mend release/check.py" for name in unproven(wheel, source)]
    return faults


if __name__ == "__main__":
    sys.exit(main())
