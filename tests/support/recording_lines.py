"""The lines of an adapter's page that record a call, run as they stand."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.calls import until
from support.paths import ROOT


@asynccontextmanager
async def recording_lines(page: str, folder: Path, names: dict[str, Any], monkeypatch: Any) -> AsyncIterator[Any]:
    """Run the block of a page that makes an `ArchiveWriter`, in *folder*. Yield its recorder, and end it afterwards.

    :param page: the path below ``docs``.
    :param names: the objects that the block finds. ``call_is_over`` is added.
    """
    text = (ROOT / "docs" / page).read_text("utf-8")
    (block,) = (each for each in re.findall(r"^```python no-run\n(.*?)^```$", text, re.M | re.S) if "Archive" in each)
    monkeypatch.chdir(folder)
    names["call_is_over"] = asyncio.Event()
    running = asyncio.ensure_future(eval(compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names))
    try:
        await until(lambda: "recorder" in names or running.done())
        if running.done():
            running.result()
        yield names["recorder"]
    finally:
        names["call_is_over"].set()
        await running
