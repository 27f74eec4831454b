"""What `make wheels` refuses to publish, and how it tells two builds apart."""

import importlib
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from support.paths import ROOT

GOOD = ({"libc.so.6", "ld-linux-x86-64.so.2"}, {"GLIBC_2.2.5", "GLIBC_2.17"})
MODULE = b"\x7fELF PyInit__native"


@pytest.fixture
def wheels(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "release")
    return importlib.import_module("wheels")


def wheel(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_a_module_that_needs_no_more_than_an_old_libc_has_no_fault(wheels, monkeypatch):
    monkeypatch.setattr(wheels, "requirements_of", lambda module: GOOD)
    assert wheels.faults(MODULE, "gnu", ["somewhere"]) == []


@pytest.mark.parametrize(
    ("libc", "needs", "found"),
    [
        ("gnu", ({"libgcc_s.so.1"}, set()), "it needs libgcc_s.so.1"),
        ("gnu", (set(), {"GLIBC_2.18"}), "it needs symbols of GLIBC_2.18"),
        ("gnu", (set(), {"GCC_3.0"}), "it needs symbols of GCC_3.0"),
        ("musl", ({"libc.so.6"}, set()), "it needs libc.so.6"),
        ("musl", ({"libc.so"}, {"GLIBC_2.2.5"}), "it needs symbols of GLIBC_2.2.5"),
    ],
)
def test_each_thing_that_minimal_images_lack_is_a_fault(wheels, monkeypatch, libc, needs, found):
    monkeypatch.setattr(wheels, "requirements_of", lambda module: needs)
    assert wheels.faults(MODULE, libc) == [found]


def test_a_path_of_this_machine_and_a_missing_entry_point_are_faults(wheels, monkeypatch):
    monkeypatch.setattr(wheels, "requirements_of", lambda module: GOOD)
    found = wheels.faults(b"built in somewhere/else", "gnu", ["somewhere/else", "cargo-home"])
    assert found == ["it exports no PyInit__native", "it contains the path somewhere/else"]


def test_a_check_that_finds_nothing_stops_the_build(wheels, monkeypatch):
    monkeypatch.setattr(wheels, "faults", lambda *_: [])
    with pytest.raises(SystemExit, match="finds nothing"):
        wheels.prove_the_check()


def test_two_wheels_differ_in_the_files_that_are_named(wheels, tmp_path):
    one = wheel(tmp_path / "one.whl", same="1", changed="1", gone="1")
    other = wheel(tmp_path / "other.whl", same="1", changed="2", added="1")
    assert wheels.differences(one, other) == ["added", "changed", "gone"]
    assert wheels.differences(one, one) == []


def test_a_second_build_with_other_bytes_fails(wheels, tmp_path, monkeypatch, capsys):
    first = wheel(tmp_path / "first.whl", a="1")
    monkeypatch.setattr(wheels, "build", lambda target, out, root, env: wheel(tmp_path / "again.whl", a=target))
    monkeypatch.setattr(wheels, "copy_of_the_tree", lambda folder: folder)
    assert wheels.build_again(["1"], {"1": first}, "0", tmp_path) == 0
    assert wheels.build_again(["2"], {"2": first}, "0", tmp_path) == 1
    said = capsys.readouterr()
    assert "the same bytes twice: first.whl" in said.out
    assert "two builds of first.whl differ: a" in said.err


def test_no_flag_of_this_machine_reaches_a_build(wheels, tmp_path, monkeypatch):
    for name in ("RUSTFLAGS", "CFLAGS", "CFLAGS_x86_64_unknown_linux_gnu", "CARGO_BUILD_RUSTFLAGS"):
        monkeypatch.setenv(name, "-C target-cpu=native")
    env = wheels.environment(tmp_path, "7", tmp_path / "home")
    assert "native" not in " ".join(env.values())
    assert env["SOURCE_DATE_EPOCH"] == "7"


def test_files_of_another_version_do_not_stay_beside_new_ones(wheels, tmp_path):
    names = ["frameseal-0.1.0.tar.gz", "frameseal-0.2.0.tar.gz", "frameseal-0.2.0-cp311-abi3-any.whl", "notes"]
    for name in names:
        (tmp_path / name).touch()
    wheels.remove_other_versions(tmp_path / names[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:3])


@pytest.mark.parametrize("target", ["x86_64-apple-darwin", "wheel", "x86_64-unknown-linux-gnux32"])
def test_a_target_that_has_no_platform_tag_is_refused(wheels, capsys, target):
    with pytest.raises(SystemExit):
        wheels.main([target])
    assert f"the target '{target}' is neither" in capsys.readouterr().err


def test_every_target_of_the_makefile_has_a_platform_tag(wheels):
    (targets,) = re.findall(r"(?m)^TARGETS := (.*)$", (ROOT / "release/release.mk").read_text("utf-8"))
    assert all(target == wheels.SDIST or wheels.libc_of(target) for target in targets.split())


def test_the_description_has_no_link_that_leads_into_the_repository():
    """An index of packages shows it without the repository around it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / project["readme"]).read_text("utf-8")
    assert [link for link in re.findall(r"\]\(<?([^)\s>]+)|(?:src|href)=", text) if "://" not in link] == []
