"""What `make release-check` refuses to publish: each check finds the fault that is planted for it, and nothing else."""

import base64
import dataclasses
import hashlib
import importlib
import io
import json
import re
import tarfile
import zipfile
from functools import cached_property
from pathlib import Path

import pytest

from support.paths import ROOT

TAG = "cp311-abi3-musllinux_1_2_x86_64"
MODULE = b"\x7fELF PyInit__native libc.so /rustc/0123/library/core/src/fmt/mod.rs"
METADATA = """Metadata-Version: 2.4
Name: frameseal
Version: {version}
Requires-Python: >=3.11
Description-Content-Type: text/markdown; charset=UTF-8; variant=GFM

# frameseal

[A link](https://example.org/) that leads somewhere.
"""


@pytest.fixture
def check(monkeypatch):
    """The module, with the readers of formats in a simple form: they are in the environment of `make release-check`."""
    monkeypatch.syspath_prepend(ROOT / "release")
    module = importlib.import_module("check")
    monkeypatch.setattr(module, "exports_of", lambda data: {each.decode() for each in re.findall(rb"PyInit\w+", data)})
    monkeypatch.setattr(module, "damage_of", lambda data: None if data[:4] == b"\x7fELF" else "no magic number")
    monkeypatch.setattr(module, "rendered", str.strip)
    libraries = re.compile(rb"lib\w+\.so")
    monkeypatch.setattr(
        module.wheels, "requirements_of", lambda data: ({x.decode() for x in libraries.findall(data)}, set())
    )
    monkeypatch.setattr(module.licences, "fault_of_bill", lambda text: "parcel" if "parcel" in text else None)
    return module


@pytest.fixture
def source(check):
    class Tree(check.Source):
        """The tree without git and cargo, which this test does not need."""

        @cached_property
        def known(self):
            found = {path for path in (ROOT / check.TREE).rglob("*") if path.is_file()}
            built = {path for path in found if path.suffix in (".so", ".pyd", ".pyc")}
            return {path.relative_to(ROOT).as_posix() for path in found - built}

        @cached_property
        def crates(self):
            locked = {(each["name"], each["version"]): each.get("checksum") for each in self.locked}
            components = json.loads(self.text("release/frameseal.cyclonedx.json"))["components"]
            named = [(each["name"], each.get("version")) for each in components]
            return {crate: locked[crate] for crate in named if crate in locked}

    return Tree()


@pytest.fixture
def sound(check, source):
    """A wheel without a fault."""
    info = f"frameseal-{source.version}.dist-info"
    files = source.package | {"frameseal/_native.abi3.so": MODULE}
    files |= {f"{info}/licenses/{name}": (ROOT / name).read_bytes() for name in check.LICENCES}
    files[f"{info}/sboms/frameseal.cyclonedx.json"] = (ROOT / "release/frameseal.cyclonedx.json").read_bytes()
    files[f"{info}/METADATA"] = METADATA.format(version=source.version).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {TAG}\n".encode()
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nframeseal=frameseal.tools.cli:main\n"
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        rows.append(f"{name},sha256={digest},{len(data)}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    return check.Wheel(f"frameseal-{source.version}-{TAG}.whl", 1_000_000, files)


def planted() -> dict:
    text = (ROOT / "release/planted.py").read_text("utf-8")
    return dict(re.findall(r'(?m)^    "([^"]+)": \(\s*"(\w+)",', text))


def test_a_sound_wheel_has_no_fault_and_proves_every_check(check, source, sound):
    assert check.wheel_faults(sound, source) == []
    assert check.unproven(sound, source) == []


def test_every_check_has_a_planted_fault(check):
    assert planted().keys() == check.planted.FAULTS.keys()
    assert set(planted().values()) == check.CHECKS.keys()


@pytest.mark.parametrize("name", planted())
def test_a_planted_fault_is_found_and_named(check, source, sound, name):
    kind, doctor, expected = check.planted.FAULTS[name]
    doctored = doctor(sound)
    assert doctored != sound
    faults = list(check.CHECKS[kind](doctored, source))
    assert any(expected in fault for fault in faults)
    assert all(re.search(r": \w+|only", fault) for fault in faults), "each fault has a remedy"


@pytest.mark.parametrize("kind", ["tags", "contents", "licences", "bill", "record", "size", "module", "metadata"])
def test_a_check_that_finds_nothing_is_itself_a_fault(check, source, sound, kind, monkeypatch):
    monkeypatch.setitem(check.CHECKS, kind, lambda wheel, source: iter(()))
    assert check.unproven(sound, source) == [name for name, owner in planted().items() if owner == kind]


@pytest.mark.parametrize(
    "place", ["root/.cargo", "home/x", "Users/runner", "work/x", "tmp/x", "__w/x/x", "builds/x", "usr/local/cargo"]
)
def test_a_path_of_a_builder_is_found_wherever_it_stands(check, place):
    for name in ("pyo3-0.30.1/src/lib.rs", "aws-lc/crypto/mem.c"):
        assert check.BUILD_PATH.search(f"panicked/{place}/{name}called".encode())
    for fine in (
        "/rustc/0123/library/core/src/fmt/mod.rs",
        "/usr/lib/debug/.build-id/",
        "frameseal/rust/core/src/lib.rs",
    ):
        assert not check.BUILD_PATH.search(fine.encode())


def test_a_wheel_in_a_file_is_judged_and_a_file_that_is_none_is_a_fault(check, source, sound, tmp_path):
    path = tmp_path / sound.name
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in sound.files.items():
            archive.writestr(name, data)
    assert dataclasses.replace(check.Wheel.read(path), size=sound.size) == sound
    path.write_bytes(b"not a zip")
    assert "cannot be unpacked" in check.file_faults(path, source)[0]
    assert "neither" in check.file_faults(ROOT / "Cargo.toml", source)[0]
    assert "does not exist" in check.file_faults(tmp_path / "gone.whl", source)[0]


def sdist(check, source, folder: Path, **changes) -> Path:
    """An sdist of what the check requires, with some files exchanged, added, or removed where they are None."""
    files = {f"{check.TREE}/__init__.py": b"", "PKG-INFO": METADATA.format(version=source.version).encode()}
    files |= {name: b"" for name in ("pyproject.toml", "Cargo.lock", "rust/python/src/lib.rs", *check.LICENCES)}
    path = folder / f"frameseal-{source.version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (files | changes).items():
            if data is not None:
                member = tarfile.TarInfo(name if name.startswith("..") else f"frameseal-{source.version}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def maturin(monkeypatch, check, tmp_path):
    """A program in the place of maturin. It writes the metadata that the sdist states, or fails."""
    program = tmp_path / "bin/maturin"
    program.parent.mkdir()
    monkeypatch.setattr(check.sys, "executable", str(program.with_name("python")))

    def write(body: str):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    write("mkdir -p built/x.dist-info && cp PKG-INFO built/x.dist-info/METADATA")
    return write


@pytest.fixture
def judged(check, source, maturin, tmp_path):
    known = {"pyproject.toml", "Cargo.lock", "rust/python/src/lib.rs", f"{check.TREE}/__init__.py", *check.LICENCES}
    source.__dict__["known"] = known
    return lambda **changes: check.sdist_faults(sdist(check, source, tmp_path, **changes), source)


def test_an_sdist_of_known_files_has_no_fault(judged):
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target/debug/x.o": b""}, "contains frameseal-0.1.0/target/debug/x.o"),
        ({"LICENSE-THIRD-PARTY": None}, "lacks LICENSE-THIRD-PARTY"),
        ({"../outside": b""}, "cannot be unpacked"),
        ({"PKG-INFO": METADATA.format(version="9.9.9").encode()}, "is frameseal 9.9.9 by its metadata"),
    ],
)
def test_junk_a_missing_file_and_another_version_in_an_sdist_are_faults(judged, changes, expected):
    assert any(expected in fault for fault in judged(**changes))


def test_an_sdist_that_is_too_large_or_has_another_name_is_a_fault(check, source, judged, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "MAX_SDIST", 100)
    assert any("are allowed" in fault for fault in judged())
    other = sdist(check, source, tmp_path).rename(tmp_path / "frameseal.tar.gz")
    assert any("is not named" in fault for fault in check.sdist_faults(other, source))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo 'no Cargo.toml' >&2; exit 1", "builds no metadata (['no Cargo.toml'])"),
        ("mkdir -p built/x.dist-info && echo 'Name: other' > built/x.dist-info/METADATA", "builds other metadata"),
    ],
)
def test_an_sdist_must_build_the_metadata_that_it_states(judged, maturin, body, expected):
    maturin(body)
    assert any(expected in fault for fault in judged())


CHANGELOG = (
    "# Changes\n\nWords.\n\n## 1.2.3 (2026-01-02)\n\n### Added\n\n- A thing.\n\n## 1.2.2 (2026-01-01)\n\n- Other.\n"
)


@pytest.mark.parametrize(
    ("old", "new", "dated", "expected"),
    [
        ("", "", True, None),
        ("2026-01-02", "unreleased", False, None),
        ("2026-01-02", "unreleased", True, "is unreleased"),
        ("1.2.3", "1.2.4", False, "begins with '1.2.4"),
        ("(2026-01-02)", "", False, "begins with"),
        ("- A thing.", "Nothing.", False, "lists no change"),
        ("## ", "", False, "begins with ''"),
    ],
)
def test_the_changelog_begins_with_the_version_its_date_and_its_changes(check, old, new, dated, expected):
    faults = list(check.changelog_faults(CHANGELOG.replace(old, new), "1.2.3", dated))
    assert faults == [] if expected is None else expected in faults[0]


def test_a_version_that_differs_anywhere_is_a_fault(check, source):
    version = source.version
    assert check.source_faults(source, None, version) == []
    assert "frameseal.__version__: is 9.9.9" in check.source_faults(source, None, "9.9.9")[0]
    assert any("tag v9.9.9" in fault for fault in check.source_faults(source, "v9.9.9", version))
    source.__dict__["version"] = "9.9.9"
    files = {fault.partition(":")[0] for fault in check.source_faults(source, None, None)}
    assert {"Cargo.lock", "rust/fuzz/Cargo.lock", "frameseal.cyclonedx.json", "CHANGELOG.md"} <= files


def test_a_release_has_the_files_of_every_platform(check):
    names = [f"frameseal-1.2.3-{tag}.whl" for tag in check.TAGS]
    assert check.missing([*names, "frameseal-1.2.3.tar.gz"], "1.2.3") == []
    assert check.missing(names[1:], "1.2.3") == ["frameseal-1.2.3.tar.gz", names[0]]


@pytest.mark.parametrize(("files", "code"), [([], 2), (["gone.whl"], 1)])
def test_nothing_to_judge_and_a_missing_file_fail(check, files, code, capsys):
    try:
        assert check.main(files) == code
    except SystemExit as error:
        assert error.code == code
    assert "run make wheels" in capsys.readouterr().err
