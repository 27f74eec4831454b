"""Fixtures of the frameworks' tests."""

import os
import secrets

import pytest

from frameseal.aiortc.rule import process

# Network traffic of the tests stays on 127.0.0.1: no statistics of use, no look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["STREAMLIT_BROWSER_GATHER_USAGE_STATS"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# Ray reads these when it is imported. It also listens on other addresses than loopback. Without a token of ours it
# would store one in the home.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


@pytest.fixture(autouse=True)
def unruled(monkeypatch):
    """Begin and end without a rule, which would hold for the calls of later tests too."""
    monkeypatch.setattr(process, "rule", None)
    monkeypatch.setattr(process, "attached_only", False)
