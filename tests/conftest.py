"""Fixtures of every test: calls stay on this machine."""

import gc
import os
import sys

import aioice.ice
import pytest

from frameseal.e2ee import diagnosis
from support.calls import STACKS

# PyPI's wrtc has wheels for Linux alone, and the soak reads /proc there. `make interop` runs the tests that need a
# browser, and installs it. `make soak` runs the test that lasts half an hour. `make frameworks` runs the tests of each
# framework in the framework's own environment.
collect_ignore = [] if sys.platform == "linux" else ["sdks/test_wrtc.py", "soak/test_soak_parts.py"]
if "FRAMESEAL_INTEROP" not in os.environ:
    collect_ignore.append("interop")
if "FRAMESEAL_FRAMEWORK" not in os.environ:
    collect_ignore.append("frameworks")
if "FRAMESEAL_SOAK_SECONDS" not in os.environ:
    collect_ignore.append("soak/test_soak.py")


@pytest.hookimpl(optionalhook=True)  # pytest has the hook only with pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`: three per core, because a live call mostly waits."""
    return min(3 * (os.cpu_count() or 1), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests marked `long` first, so that no worker runs a long test alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Exclude the imported objects from garbage collection, which some tests run a hundred times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def loopback():
    """Make ICE gather 127.0.0.1 and nothing else. aioice omits the loopback interface."""
    gather = aioice.ice.get_host_addresses
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    yield
    aioice.ice.get_host_addresses = gather


@pytest.fixture(autouse=True)
def budget(monkeypatch):
    """Renew the CPU time that diagnoses may use, so that no test uses up the budget of another."""
    monkeypatch.setattr(diagnosis, "BUDGET", diagnosis.Budget())


@pytest.fixture(params=STACKS)
def stack(request) -> str:
    """Return the package name of each stack that the hook supports."""
    return request.param
