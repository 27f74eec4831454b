"""What the wheel says of the code that is linked into it matches the lock file. `make licences` writes both files."""

import importlib
import json
import re
import tomllib

import pytest

from support.paths import ROOT

LOCKED = {
    (each["name"], each["version"]): each.get("checksum")
    for each in tomllib.loads((ROOT / "Cargo.lock").read_text("utf-8"))["package"]
}


@pytest.fixture
def licences(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "release")
    return importlib.import_module("licences")


@pytest.fixture
def components(licences) -> dict:
    return {each["name"]: each for each in json.loads(licences.BILL.read_text("utf-8"))["components"]}


def crate(licences, folder, **fields):
    given = {"name": "made", "version": "1.2.3", "licence": "MIT", "checksum": "ab", "description": "made"} | fields
    return licences.Crate(source=folder, **given)


def test_every_crate_of_the_bill_is_the_one_that_is_locked(components):
    crates = {name: each for name, each in components.items() if each.get("purl", "").startswith("pkg:cargo/")}
    assert {"aws-lc-rs", "aws-lc-sys", "frameseal", "memchr", "pyo3", "zeroize"} <= set(crates)
    for name, each in crates.items():
        checksum = LOCKED[name, each["version"]]
        assert [entry["content"] for entry in each.get("hashes", [])] == ([checksum] if checksum else []), name


MODELS = "cfg(frameseal_loom)"


def test_every_dependency_that_a_manifest_names_is_in_the_bill(components):
    for manifest in ("rust/core/Cargo.toml", "rust/python/Cargo.toml"):
        parsed = tomllib.loads((ROOT / manifest).read_text("utf-8"))
        named = {*parsed["dependencies"]}
        # Models of the core's threads (`make loom`) are in no build that is published.
        targets = {condition: each for condition, each in parsed.get("target", {}).items() if condition != MODELS}
        named |= {name for each in targets.values() for name in each["dependencies"]}
        assert named <= set(components), manifest


def test_the_c_library_and_the_standard_library_are_in_the_bill(components):
    assert re.fullmatch(r"pkg:github/aws/aws-lc@v\d+\.\d+\.\d+", components["AWS-LC"]["purl"])
    assert "rust-std" in components


def test_the_bill_has_neither_a_time_nor_a_place(licences):
    """Either would make two builds of one commit differ."""
    text = licences.BILL.read_text("utf-8")
    assert not re.search(r"serialNumber|timestamp|file:", text)


def test_every_component_of_the_bill_has_a_licence_and_every_reference_leads_to_one(licences):
    document = json.loads(licences.BILL.read_text("utf-8"))
    refs = {each["bom-ref"] for each in [*document["components"], document["metadata"]["component"]]}
    assert all(each["licenses"][0]["expression"] for each in document["components"])
    assert {each["ref"] for each in document["dependencies"]} == refs
    assert {ref for each in document["dependencies"] for ref in each["dependsOn"]} <= refs


def test_the_notices_have_the_licences_of_every_linked_crate(licences, components):
    text = licences.NOTICES.read_text("utf-8")
    for name, each in components.items():
        if "hashes" in each:
            assert re.search(rf"(?m)^{name} {re.escape(each['version'])}: \S*(LICEN|COPYING)", text), name
    assert "fiat" in text
    assert "libunwind" in text


def test_a_text_that_two_crates_ship_is_printed_once(licences, tmp_path):
    for name, text in (("one", "Permission is\nhereby granted"), ("other", "Permission  is hereby granted\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE-MIT").write_text(text)
    made = [crate(licences, tmp_path / name, name=name) for name in ("one", "other")]
    text = licences.notices(made, [])
    assert text.count("Permission") == 1
    assert "one 1.2.3: LICENSE-MIT\nother 1.2.3: LICENSE-MIT\n" in text


def test_a_crate_without_a_licence_file_is_refused(licences, tmp_path):
    (tmp_path / "src.rs").write_text("licensed")
    with pytest.raises(ValueError, match="made ships no licence file"):
        licences.notices([crate(licences, tmp_path)], [])


@pytest.mark.parametrize("stale", [False, True])
def test_a_file_that_is_stale_fails_the_check_and_stays(licences, tmp_path, monkeypatch, capsys, stale):
    path = tmp_path / "LICENSE-THIRD-PARTY"
    path.write_text("old" if stale else "new")
    monkeypatch.setattr(licences, "written", lambda: {path: "new", licences.BILL: licences.BILL.read_text("utf-8")})
    monkeypatch.setattr(licences, "fault_of_bill", lambda text: "no such field" if "parcel" in text else None)
    assert licences.main(["--check"]) == int(stale)
    assert path.read_text() == ("old" if stale else "new")
    assert ("LICENSE-THIRD-PARTY does not match" in capsys.readouterr().err) == stale


def test_a_bill_that_breaks_the_schema_fails_the_check(licences, monkeypatch, capsys):
    monkeypatch.setattr(licences, "written", lambda: {licences.BILL: licences.BILL.read_text("utf-8")})
    monkeypatch.setattr(licences, "fault_of_bill", lambda text: "it is not one")
    assert licences.main(["--check"]) == 1
    assert "does not follow the schema" in capsys.readouterr().err


def test_a_check_that_accepts_everything_fails_itself(licences, monkeypatch, capsys):
    monkeypatch.setattr(licences, "written", lambda: {licences.BILL: licences.BILL.read_text("utf-8")})
    monkeypatch.setattr(licences, "fault_of_bill", lambda text: None)
    assert licences.main(["--check"]) == 1
    assert "accepts a field" in capsys.readouterr().err
