"""The adapter for getstream without the SDK that it is for. tests/frameworks has the calls."""

import sys
from importlib import metadata
from types import ModuleType

import pytest

from frameseal import E2EEManager, KeyProvider
from frameseal.aiortc import UnsupportedStack
from frameseal.getstream import attach, attach_all, stop_attaching


@pytest.fixture
def e2ee():
    return E2EEManager(KeyProvider(), "stream")


def test_without_the_sdk_no_call_can_be_attached(e2ee):
    for attaching in (lambda: attach(object(), e2ee), lambda: attach_all(e2ee)):
        with pytest.raises(UnsupportedStack, match=r"getstream \(not installed\) is not built"):
            attaching()
    stop_attaching()


def test_a_version_with_native_media_is_refused_with_the_version_to_install(e2ee, monkeypatch):
    sdk = ModuleType("getstream")
    sdk.__path__ = []
    monkeypatch.setitem(sys.modules, "getstream", sdk)
    monkeypatch.setattr(metadata, "version", lambda name: "7.0.0")
    with pytest.raises(UnsupportedStack, match=r"getstream 7\.0\.0 .* Install getstream\[webrtc\] 4\.3: from"):
        attach_all(e2ee)


@pytest.mark.parametrize("wrong", [None, b"key"])
def test_what_is_no_manager_is_refused_by_its_type(wrong):
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
        attach_all(wrong)


async def test_a_coroutine_function_is_refused_where_a_constructor_calls_it(e2ee):
    async def late(connection):
        return e2ee

    with pytest.raises(TypeError, match="e2ee must not be a coroutine function"):
        attach_all(late)
    with pytest.raises(TypeError, match="remote_id must be a function"):
        attach_all(e2ee, remote_id=late)
