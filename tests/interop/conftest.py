"""Fixtures of the tests in a browser."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interop.browsers import launch


@pytest.fixture
async def browser() -> AsyncIterator:
    """Return a Chromium without a window."""
    playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: make interop")
    async with playwright.async_playwright() as driver:
        made = await launch(driver)
        yield made
        await made.close()


@pytest.fixture
def artefacts(tmp_path) -> Path:
    """Return the folder for pictures of the pages, which CI keeps."""
    folder = Path(os.environ.get("FRAMESEAL_ARTEFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
