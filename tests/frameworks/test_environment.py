"""The environment of a framework holds what frameseal requires, in the versions that the framework allows."""

import os
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = os.environ["FRAMESEAL_EXTRAS"].split()


def needed(requirements: list[str]) -> list[Requirement]:
    found = [Requirement(text) for text in requirements]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def problems(requirements: list[Requirement]) -> list[str]:
    """Return the requirements that no installed package satisfies, each with the version that is installed."""
    wrong = []
    for each in requirements:
        try:
            version = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            version = "none"
        if version == "none" or not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each}: {version} is installed")
    return wrong


def test_frameseals_requirements_are_satisfied():
    extras = [text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]]
    requirements = needed([*PROJECT["dependencies"], *extras])
    assert requirements
    assert problems(requirements) == []


def test_a_requirement_that_is_not_satisfied_is_found():
    assert problems([Requirement("pytest>=1"), Requirement("pytest<1"), Requirement("frameseal-none")]) == [
        f"pytest<1: {pytest.__version__} is installed",
        "frameseal-none: none is installed",
    ]


def test_every_installed_package_has_what_it_requires():
    """frameseal does not move a version that the framework, or a package of the framework, needs."""
    wrong = {
        distribution.metadata["Name"]: found
        for distribution in metadata.distributions()
        if (found := problems(needed(distribution.requires or [])))
    }
    assert wrong == {}
