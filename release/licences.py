"""Writes what a wheel says about the code that is linked into it: `python release/licences.py`, or `make licences`.

`LICENSE-THIRD-PARTY` has the licences of all linked code, and `release/frameseal.cyclonedx.json` is the bill of
materials (CycloneDX 1.6). A wheel holds both in its dist-info, the second in `sboms` (PEP 770). Both are committed, so
that a wheel built from the sdist holds them too, and a change of a dependency shows in review.

With `--check` writes nothing, and fails if the files differ from `Cargo.lock`. Needs cargo, `ziglang` for the licence
of the unwinder that zig links, and `cyclonedx-python-lib` for the schema of the bill.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTICES = ROOT / "LICENSE-THIRD-PARTY"
BILL = ROOT / "release/frameseal.cyclonedx.json"

# The platforms that wheels are published for. A crate that only another platform links is not listed.
PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
    "x86_64-pc-windows-msvc",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
)
LICENCE_FILE = re.compile(r"(?i)((un)?licen[cs]e|copying|notice|copyright)([-_.][\w.-]*)?")

ABOUT = """\
Third-party software in frameseal's native module
=================================================

frameseal itself is under Apache-2.0 OR MIT: see LICENSE. The native module in its wheels contains the software below,
under these licences. `make licences` writes this file from Cargo.lock and from the files that each crate ships.
"""
RUNTIME = """\
The Rust standard library, of the compiler that built the wheel, is under MIT OR Apache-2.0. Copyright (c) The Rust
Project Developers and the authors of the crates in it. The texts of both licences stand above, with the crate libc. Its
Unicode tables are under Unicode-3.0, and its compiler-builtins have parts under Apache-2.0 WITH LLVM-exception.

The wheels for Linux contain libunwind of the LLVM project, which zig links. It is under Apache-2.0 WITH LLVM-exception.
"""


@dataclass(frozen=True)
class Crate:
    """A crate that is linked into the native module."""

    name: str
    version: str
    licence: str
    source: Path
    checksum: str | None
    description: str
    needs: tuple[str, ...] = ()

    @property
    def purl(self) -> str:
        """Return the package URL."""
        return f"pkg:cargo/{self.name}@{self.version}"

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of each licence file that the crate ships."""
        for path in sorted(self.source.rglob("*")):
            if LICENCE_FILE.fullmatch(path.name) and path.is_file():
                yield path.relative_to(self.source).as_posix(), path.read_text("utf-8")


def cargo(*arguments: str) -> str:
    """Return the output of cargo."""
    return subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked_names() -> set[tuple[str, str]]:
    """Return name and version of every crate that some platform links. Build scripts and macros are not linked."""
    tree = ["tree", "--locked", "--package", "frameseal-python", "--edges", "normal,no-proc-macro", "--prefix", "none"]
    lines = [line for each in PLATFORMS for line in cargo(*tree, "--target", each).splitlines()]
    return {(name, version) for name, version in re.findall(r"(?m)^(\S+) v(\S+)", "\n".join(lines))}


def linked_crates() -> list[Crate]:
    """Return the crates that are linked, by name, without the module itself."""
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1"))
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text("utf-8"))["package"]
    checksums = {(each["name"], each["version"]): each.get("checksum") for each in locked}
    names = linked_names()
    packages = {each["id"]: each for each in metadata["packages"] if (each["name"], each["version"]) in names}
    needed = {
        node["id"]: [each["pkg"] for each in node["deps"] if any(kind["kind"] is None for kind in each["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }
    crates = [
        Crate(
            package["name"],
            package["version"],
            package["license"],
            Path(package["manifest_path"]).parent,
            checksums[package["name"], package["version"]],
            package["description"].strip(),
            tuple(sorted(packages[other]["name"] for other in needed[package["id"]] if other in packages)),
        )
        for package in packages.values()
    ]
    return sorted(crates, key=lambda crate: crate.name)


def unwinder_licence() -> str:
    """Return the licence of the libunwind that zig links."""
    package = importlib.util.find_spec("ziglang")
    if package is None or package.origin is None:
        sys.exit("the licences need the package ziglang: run make licences")
    return (Path(package.origin).parent / "lib/libunwind/LICENSE.TXT").read_text("utf-8")


def unicode_licence() -> str:
    """Return the licence of Unicode's tables, from a crate that the macros are built with."""
    packages = json.loads(cargo("metadata", "--locked", "--format-version", "1"))["packages"]
    (crate,) = (each for each in packages if each["name"] == "unicode-ident")
    return (Path(crate["manifest_path"]).parent / "LICENSE-UNICODE").read_text("utf-8")


def notices(crates: Sequence[Crate], runtime: Sequence[tuple[str, str]]) -> str:
    """Return the text of LICENSE-THIRD-PARTY. A text that several crates ship is printed once."""
    owners: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for crate in crates:
        found = list(crate.texts())
        if not found:
            raise ValueError(f"the crate {crate.name} ships no licence file: add its text by hand")
        for name, text in found:
            words = " ".join(text.split())
            texts.setdefault(words, tidy(text))
            owners.setdefault(words, []).append(f"{crate.name} {crate.version}: {name}")
    width = max(len(f"{crate.name} {crate.version}") for crate in crates)
    table = "\n".join(f"{f'{crate.name} {crate.version}':{width}}  {crate.licence}" for crate in crates)
    parts = [f"{ABOUT}\n{table}\n", *(section("\n".join(names), texts[words]) for words, names in owners.items())]
    parts += [section("the runtime", tidy(RUNTIME)), *(section(title, tidy(text)) for title, text in runtime)]
    return "\n".join(parts)


def tidy(text: str) -> str:
    """Return a text with the line ends and the margins that all texts of the file have."""
    return "\n".join(line.rstrip() for line in text.expandtabs().strip().splitlines()) + "\n"


def section(title: str, text: str) -> str:
    """Return a text below a rule and its title."""
    return f"{'-' * 120}\n{title}\n{'-' * 120}\n\n{text}"


def aws_lc_version(source: Path) -> str:
    """Return the version of the C library that the crate aws-lc-sys carries."""
    header = (source / "aws-lc/include/openssl/base.h").read_text("utf-8")
    match = re.search(r'#define AWSLC_VERSION_NUMBER_STRING "([\d.]+)"', header)
    if match is None:
        raise ValueError("aws-lc-sys does not state the version of AWS-LC in openssl/base.h")
    return match[1]


def bill(crates: Sequence[Crate], version: str, aws_lc: str) -> str:
    """Return the bill of materials as JSON. It has no time and no serial number: the same lock is the same file."""
    own = f"pkg:pypi/frameseal@{version}"
    library = f"pkg:github/aws/aws-lc@v{aws_lc}"
    ours = [crate for crate in crates if crate.checksum is None]
    components = [component(crate) for crate in crates]
    components.append(
        {
            "type": "library",
            "bom-ref": library,
            "name": "AWS-LC",
            "version": aws_lc,
            "description": "The C and assembly library that the crate aws-lc-sys carries",
            "licenses": [{"expression": next(crate.licence for crate in crates if crate.name == "aws-lc-sys")}],
            "purl": library,
        }
    )
    components.append(
        {
            "type": "library",
            "bom-ref": "rust-std",
            "name": "rust-std",
            "description": "The standard library of the Rust compiler that built the wheel",
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
        }
    )
    purls = {crate.name: crate.purl for crate in crates}
    needs = {crate.purl: sorted(purls[name] for name in crate.needs) for crate in crates}
    needs[purls["aws-lc-sys"]].append(library)
    needs |= {own: [*sorted(crate.purl for crate in ours), "rust-std"], library: [], "rust-std": []}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": "frameseal",
                "version": version,
                "licenses": [{"expression": "Apache-2.0 OR MIT"}],
                "purl": own,
            },
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": needs[ref]} for ref in sorted(needs)],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def component(crate: Crate) -> dict[str, object]:
    """Return the entry of one crate."""
    entry: dict[str, object] = {
        "type": "library",
        "bom-ref": crate.purl,
        "name": crate.name,
        "version": crate.version,
        "description": crate.description,
        "licenses": [{"expression": crate.licence}],
        "purl": crate.purl,
    }
    if crate.checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": crate.checksum}]
    return entry


def fault_of_bill(text: str) -> str | None:
    """Return why a text is no valid bill of materials, or None if it is valid."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return None if error is None else str(error)


def written() -> dict[Path, str]:
    """Return the text of each file, from Cargo.lock and the sources of the crates."""
    crates = linked_crates()
    (library,) = (crate for crate in crates if crate.name == "aws-lc-sys")
    (own,) = (crate for crate in crates if crate.name == "frameseal")
    others = [crate for crate in crates if crate.checksum]
    runtime = [("the runtime: Unicode-3.0", unicode_licence()), ("the runtime: libunwind", unwinder_licence())]
    return {NOTICES: notices(others, runtime), BILL: bill(crates, own.version, aws_lc_version(library.source))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or return 1 if one of them is stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is stale")
    options = parser.parse_args(arguments)
    texts = written()
    if fault := fault_of_bill(texts[BILL]):
        print(f"{BILL.name} does not follow the schema of CycloneDX: {fault}", file=sys.stderr)
        return 1
    if fault_of_bill(texts[BILL].replace('"purl"', '"parcel"')) is None:
        print("the check of the bill accepts a field that CycloneDX does not have", file=sys.stderr)
        return 1
    stale = [(path, text) for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    for path, text in stale:
        if options.check:
            print(f"{path.name} does not match Cargo.lock: run make licences, and commit it", file=sys.stderr)
        else:
            path.write_text(text, "utf-8")
            print(f"{path.name}: written")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
