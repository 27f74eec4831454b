"""Fixtures of the frameworks' tests."""

import pytest

from frameseal.aiortc.rule import process


@pytest.fixture(autouse=True)
def unruled(monkeypatch):
    """Begin and end without a rule, which would hold for the calls of later tests too."""
    monkeypatch.setattr(process, "rule", None)
    monkeypatch.setattr(process, "attached_only", False)
