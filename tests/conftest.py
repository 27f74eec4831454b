"""Fixtures of every test: calls stay on this machine."""

import gc
import os
import sys

import aioice.ice
import pytest

from frameseal.e2ee import diagnosis
from support.calls import STACKS

# PyPI's wrtc has wheels for Linux alone, and the soak reads /proc there. What needs a browser is for `make interop`,
# which installs one; what takes half an hour is for `make soak`.
collect_ignore = [] if sys.platform == "linux" else ["sdks/test_wrtc.py", "soak/test_soak_parts.py"]
if "FRAMESEAL_INTEROP" not in os.environ:
    collect_ignore.append("interop")
if "FRAMESEAL_SOAK_SECONDS" not in os.environ:
    collect_ignore.append("soak/test_soak.py")


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_auto_num_workers() -> int:
    """Returns the number of workers of `-n auto`: two a core, because a live call waits for most of its time."""
    return min(2 * (os.cpu_count() or 1), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts tests marked `long` first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Excludes what the imports made from garbage collection, which some tests call a hundred times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def loopback():
    """ICE gathers 127.0.0.1 and nothing else; by itself it never gathers the loopback interface."""
    gather = aioice.ice.get_host_addresses
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    yield
    aioice.ice.get_host_addresses = gather


@pytest.fixture(autouse=True)
def budget(monkeypatch):
    """Each test has what diagnoses may take of a processor for itself."""
    monkeypatch.setattr(diagnosis, "BUDGET", diagnosis.Budget())


@pytest.fixture(params=STACKS)
def stack(request) -> str:
    """The package name of each stack that the hook is for."""
    return request.param
