"""The faults that release/check.py must find: each makes a faulty wheel from a sound one.

A check that finds nothing may be broken. So each check has its faults here. `make release-check` plants them in the
wheels that it judges, and tests/test_release.py in a small one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from check import Wheel

Doctor = Callable[["Wheel"], "Wheel"]


def renamed(old: str, new: str) -> Doctor:
    """Return what changes the name of a wheel."""
    return lambda wheel: replace(wheel, name=re.sub(old, new, wheel.name, count=1))


def with_files(made: Callable[["Wheel"], Mapping[str, bytes | None]]) -> Doctor:
    """Return what adds files to a wheel, or exchanges them, or removes those that are None."""

    def doctor(wheel: "Wheel") -> "Wheel":
        files = {name: data for name, data in {**wheel.files, **made(wheel)}.items() if data is not None}
        return replace(wheel, files=files)

    return doctor


def added(name: str, data: bytes = b"junk") -> Doctor:
    """Return what adds a file."""
    return with_files(lambda wheel: {name: data})


def removed(name: str) -> Doctor:
    """Return what removes a file. A name that begins with a slash is in the metadata."""
    return with_files(lambda wheel: {wheel.info + name if name.startswith("/") else name: None})


def rewritten(name: str, old: bytes, new: bytes) -> Doctor:
    """Return what changes the text of a file of the metadata."""
    return with_files(lambda wheel: {f"{wheel.info}/{name}": re.sub(old, new, wheel.metadata(name), count=1)})


def in_module(old: bytes, new: bytes) -> Doctor:
    """Return what changes bytes of the native module. A module without the old bytes ends in the new ones."""

    def made(wheel: "Wheel") -> Mapping[str, bytes | None]:
        (name,) = wheel.native
        data = wheel.files[name]
        return {name: data.replace(old, new) if old and old in data else data + new}

    return with_files(made)


BILL = "sboms/frameseal.cyclonedx.json"

# By name: the check that must find it, what plants it, and words of the fault.
FAULTS: Mapping[str, tuple[str, Doctor, str]] = {
    "another version": ("tags", renamed(r"-\d+\.\d+\.\d+-", "-9.9.9-"), "has the version 9.9.9"),
    "a newer glibc": ("tags", renamed(r"(many|musl)linux\w+", "manylinux_2_34_x86_64"), "which no release has"),
    "no stable ABI": ("tags", renamed(r"-cp\d+-\w+-", "-cp311-cp311-"), "which no release has"),
    "tags that WHEEL does not state": (
        "tags",
        rewritten("WHEEL", rb"Tag: \S+", b"Tag: py3-none-any"),
        "states the tags",
    ),
    "pure Python": ("tags", rewritten("WHEEL", b"Purelib: false", b"Purelib: true"), "pure Python"),
    "a top-level package": ("contents", added("tests/__init__.py"), "contains tests/__init__.py"),
    "a file that git does not know": ("contents", added("frameseal/notes.txt"), "git does not know"),
    "bytecode": ("contents", added("frameseal/__pycache__/a.pyc"), "git does not know"),
    "a second native module": ("contents", added("frameseal/_native.cpython-311.so"), "2 native modules"),
    "no entry points": ("contents", removed("/entry_points.txt"), "lacks"),
    "no types": ("contents", removed("frameseal/py.typed"), "lacks the types"),
    "no stub": ("contents", removed("frameseal/_native.pyi"), "lacks the types"),
    "another source": ("contents", added("frameseal/__init__.py", b"print()"), "another frameseal/__init__.py"),
    "no licences of third parties": ("licences", removed("/licenses/LICENSE-THIRD-PARTY"), "no LICENSE-THIRD-PARTY"),
    "another licence": ("licences", rewritten("licenses/LICENSE-MIT", b"(?i)permission", b""), "no LICENSE-MIT"),
    "no bill of materials": ("bill", removed(f"/{BILL}"), "has 0 bills"),
    "a bill that is no JSON": ("bill", rewritten(BILL, b"{", b"["), "no JSON"),
    "a bill that is no CycloneDX": ("bill", rewritten(BILL, b'"purl"', b'"parcel"'), "no CycloneDX"),
    "a crate that is not linked": ("bill", rewritten(BILL, b'"name": "zeroize"', b'"name": "zeros"'), "is not linked"),
    "a crate that is not named": ("bill", rewritten(BILL, b'"name": "zeroize"', b'"name": "zeros"'), "does not name"),
    "another hash of a crate": ("bill", rewritten(BILL, b'"content": "..', b'"content": "zz'), "another hash"),
    "a file that RECORD does not list": ("record", added("frameseal/notes.txt"), "in the archive only"),
    "a file that RECORD lists only": ("record", removed("frameseal/py.typed"), "in RECORD only"),
    "another hash in RECORD": ("record", rewritten("RECORD", rb"sha256=..", b"sha256=__"), "another hash or size"),
    "too many bytes": ("size", lambda wheel: replace(wheel, size=1_500_001), "are allowed"),
    "a symbol": ("module", in_module(b"PyInit__native", b"PyInit__others"), "exports PyInit__others"),
    "no entry point": ("module", in_module(b"PyInit__native", b"PyInit__others"), "exports no PyInit__native"),
    "a library": ("module", in_module(b"libc.so", b"libz.so"), "it needs libz.so"),
    "a module that is damaged": ("module", in_module(b"\x7fELF", b"\x7fELk"), "no library of Linux"),
    "a path": ("module", in_module(b"", b"/opt/builder/registry/src/lib.rs"), "contains /opt/builder"),
    "another name": ("metadata", rewritten("METADATA", b"Name: frameseal", b"Name: sealframe"), "is sealframe"),
    "an older Python": ("metadata", rewritten("METADATA", rb"Python: >=3\.11", b"Python: >=3.8"), "asks for Python"),
    "metadata that PyPI refuses": ("metadata", rewritten("METADATA", b"Version: ", b"Version: x"), "PyPI refuses"),
    "no Markdown": ("metadata", rewritten("METADATA", b"text/markdown", b"text/plain"), "no description in Markdown"),
    "no description": ("metadata", rewritten("METADATA", rb"(?s)\n\n.*", b"\n\n"), "cannot render"),
    "a link into the repository": ("metadata", rewritten("METADATA", rb"\Z", b"[x](docs/x.md)"), "leads nowhere"),
}
