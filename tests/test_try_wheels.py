"""What `make wheels-test` asks of a place before it runs the tests there."""

import importlib
import subprocess
import sys

import pytest

from support.paths import ROOT

NAME = "frameseal-1.0-cp311-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
# A stand-in for a place's Python: pip refuses every wheel for musl, and all else succeeds.
REFUSES = 'case "$*" in *musllinux*) echo "$3 is not a supported wheel on this platform" >&2; exit 1;; esac'


@pytest.fixture
def places(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "release")
    return importlib.import_module("try_wheels")


@pytest.fixture
def made(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(b"wheel")
    return path


def attempt(places, folder, script: str, made):
    place = places.Place("*", "musllinux_1_2_x86_64", ["tests/unit/native"])
    log = folder / "log"
    places.try_in(folder, str(folder), ["/bin/sh", "-c", f'echo "$*" >> {log}; {script}', "sh"], place, made)
    return log.read_text().splitlines()


def test_a_place_refuses_another_wheel_installs_its_own_seals_a_frame_and_runs_the_tests(places, tmp_path, made):
    refused, installed, sealed, tested = attempt(places, tmp_path, REFUSES, made)
    assert refused.endswith("/files/frameseal-1.0-cp311-abi3-musllinux_1_2_x86_64.whl")
    assert installed.endswith(f"/files/{NAME}")
    assert sealed.endswith("/files/seal.py")
    assert tested.startswith("-m pytest")
    assert tested.endswith("/tree/tests/unit/native")


def test_the_tests_of_a_place_find_no_package_beside_them(places, tmp_path):
    tree = places.copy_tests(tmp_path / "tree")
    assert (tree / "tests/conftest.py").exists()
    assert not [*tree.rglob("_native*")]


def test_a_place_that_accepts_every_wheel_fails(places, tmp_path, made):
    with pytest.raises(SystemExit, match="pip should have refused"):
        attempt(places, tmp_path, "true", made)


def test_a_place_whose_tests_fail_fails(places, tmp_path, made):
    with pytest.raises(subprocess.CalledProcessError):
        attempt(places, tmp_path, f'{REFUSES}; case "$*" in *pytest*) exit 1;; esac', made)


@pytest.mark.parametrize("names", [[], ["frameseal-1.0.whl", "frameseal-2.0.whl"]])
def test_a_wheel_that_is_missing_or_there_twice_is_not_tried(places, tmp_path, monkeypatch, names):
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(places, "WHEELS", tmp_path)
    with pytest.raises(SystemExit, match=f"has {len(names)} files"):
        places.wheel("*.whl")


def test_a_frame_is_sealed_only_where_no_compiler_is_in_reach(places, tmp_path):
    (tmp_path / "cc").write_text("#!/bin/sh\n")
    (tmp_path / "cc").chmod(0o755)
    # The package's own folder stands in for an installation.
    script = places.SEAL.replace('assert "-packages" in', 'assert "" in')
    env = {"PYTHONPATH": str(ROOT / "python"), "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert "AssertionError: ['cc']" in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", script], env=env | {"PATH": "/nowhere"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("sealed and opened a frame")


def test_links_of_a_root_lead_into_it(places, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libc.so.6").write_text("its own")
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/libc.so").symlink_to("/lib/libc.so.6")
    places.make_links_relative(tmp_path)
    assert (tmp_path / "usr/lib/libc.so").read_text() == "its own"


def test_a_place_that_nobody_knows_is_refused(places, capsys):
    with pytest.raises(SystemExit):
        places.main(["nowhere"])
    assert "places must be some of native, glibc, musl, sdist, aarch64" in capsys.readouterr().err


def test_every_test_file_of_a_place_exists(places):
    assert all((ROOT / test).exists() for place in places.TRIED.values() for test in place.tests)
