"""The live line of `frameseal record`: on a terminal it is redrawn, elsewhere it is printed at intervals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from frameseal.tools.recording.keyless import Tally
from frameseal.tools.text import printable

UPDATE_INTERVAL: Final = 0.25  # seconds, on a terminal
LINE_INTERVAL: Final = 30.0  # seconds between two lines elsewhere
MAX_TEXT: Final = 200  # characters of a line with words of others


class Screen(logging.Handler):
    """Shows a recording: a context manager. It prints the warnings of the logger ``frameseal`` too."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Screen:
        logging.getLogger("frameseal").addHandler(self)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("frameseal").removeHandler(self)
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line above the live line. Names and reasons in it may be a stranger's choice."""
        self._console.print(Text(printable(text, MAX_TEXT), style=style), soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning of the library."""
        self.say(f"Warning: {record.getMessage()}", "yellow")

    async def show(self, status: Callable[[], tuple[int, Tally]]) -> None:
        """Show the number of participants and the counts, until it is cancelled."""
        while True:
            await asyncio.sleep(UPDATE_INTERVAL if self._live is not None else LINE_INTERVAL)
            line = Text(summary(*status()))
            if self._live is not None:
                self._live.update(line, refresh=True)
            else:
                self._console.print(line, soft_wrap=True)


def summary(participants: int, tally: Tally) -> str:
    """Return the live line."""
    parts = [
        f"{participants} participant{'s' * (participants != 1)}",
        f"{tally.frames:,} frames",
        f"{tally.sealed_bytes / 1e6:,.1f} MB",
        f"{tally.gaps:,} gap{'s' * (tally.gaps != 1)}",
        f"{tally.seconds:,.0f} s",
    ]
    if tally.lost:
        parts.append(f"{tally.lost:,} frames LOST")
    return "recording: " + ", ".join(parts)
