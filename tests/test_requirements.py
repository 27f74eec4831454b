"""The versions that frameseal requires: the metadata of the wheel, and the lock files of `make test-oldest`."""

import re
import subprocess
import sys
import tomllib
from email.parser import HeaderParser

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def listed(variable: str) -> list[str]:
    return re.search(rf"(?m)^{variable} := (.*)$", MAKEFILE)[1].split()


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions in a lock file, by package. Python 3.12 may get another version than 3.11."""
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"(?m)^([\w.-]+)==(\S+)", (ROOT / f"requirements/{name}.txt").read_text("utf-8")
    ):
        versions.setdefault(package, set()).add(version)
    return versions


def bounds(requirements: list[str]) -> dict[str, Version]:
    """Return the lower bound of each package, the highest where several requirements name it."""
    found: dict[str, Version] = {}
    for requirement in map(Requirement, requirements):
        (bound,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
        found[requirement.name] = max(found.get(requirement.name, bound), bound)
    return found


@pytest.mark.parametrize(("name", "variable"), [("oldest", "EXTRAS"), ("oldest-sdks", "SDKS")])
def test_the_lowest_versions_that_are_tested_are_the_lower_bounds_of_the_manifest(name, variable):
    extras = [text for extra in listed(variable) for text in PROJECT["optional-dependencies"][extra]]
    required = bounds([*PROJECT["dependencies"], *extras])
    if name == "oldest-sdks":
        del required["pyee"]  # the SDKs themselves need a newer one
    versions = locked(name)
    assert required
    assert {package: {Version(each) for each in versions[package]} for package in required} == {
        package: {bound} for package, bound in required.items()
    }


def test_every_extra_has_an_environment_of_lowest_versions():
    """The one of getstream is a framework's: all that its extra names is getstream, in the version that is tested."""
    elsewhere = ["getstream"]
    assert sorted([*listed("EXTRAS"), *listed("SDKS"), *elsewhere]) == sorted(PROJECT["optional-dependencies"])
    (stated,) = PROJECT["optional-dependencies"]["getstream"]
    (tested,) = locked("frameworks/getstream")["getstream"]
    assert tested.startswith(str(bounds([stated])["getstream"]))


def test_the_newest_versions_that_are_tested_are_above_the_lowest():
    """Two lock files that are alike would test one thing twice."""
    extras = [text for extra in listed("EXTRAS") for text in PROJECT["optional-dependencies"][extra]]
    versions = locked("newest")
    for package, bound in bounds([*PROJECT["dependencies"], *extras]).items():
        assert all(Version(version) > bound for version in versions[package]), package


def test_the_wheel_requires_pyee_without_an_upper_bound(tmp_path):
    """Environments hold pyee 11 as well as 16, and an upper bound would move either."""
    made = subprocess.run(
        [sys.executable, "-m", "maturin", "pep517", "write-dist-info", "--metadata-directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (metadata,) = tmp_path.glob("frameseal-*.dist-info/METADATA")
    required = HeaderParser().parsestr(metadata.read_text("utf-8")).get_all("Requires-Dist")
    assert [each.replace(" ", "") for each in required if each.startswith("pyee")] == ["pyee>=11"]


def test_the_crates_outside_the_workspace_lock_what_the_core_requires_now():
    """Cargo refuses a lock file that lacks one of them: `cargo update --workspace` in the crate's folder adds it."""
    core = tomllib.loads((ROOT / "rust/core/Cargo.toml").read_text("utf-8"))
    tables = [core, *core.get("target", {}).values()]
    required = {name for table in tables for name in table.get("dependencies", {})}
    locks = [
        ROOT / f"{folder}/Cargo.lock"
        for folder in tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["workspace"]["exclude"]
    ]
    assert len(locks) > 1
    for lock in locks:
        packages = tomllib.loads(lock.read_text("utf-8"))["package"]
        (locked_for_core,) = (set(package["dependencies"]) for package in packages if package["name"] == "frameseal")
        assert locked_for_core == required, lock.parent.name
