"""`frameseal demo`: a sealed call with an eavesdropper, and a picture of who saw what.

`call` is the call itself, and the file to read for how an application seals its media.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from frameseal._secrecy import require
from frameseal.tools.demo.call import CallOptions, Status, UnusableFile, run_call
from frameseal.tools.demo.poster import draw_poster
from frameseal.tools.demo.screen import Screen, summary

__all__ = ["CallOptions", "UnusableFile", "run"]


def run(options: CallOptions, output: Path | None, console: Console | None = None) -> int:
    """Hold the call, show it, and draw its poster to `output`. Returns the exit status: 0, or 1 with a reason shown.

    Raises UnusableFile for media that cannot be read and a picture that has no place to go, ValueError for an unknown
    profile or codec.
    """
    require("options", options, CallOptions, "CallOptions")
    require("output", output, (Path, type(None)), "a Path, or None")
    require("console", console, (Console, type(None)), "a Console of rich, or None")
    console = console or Console()
    if output is not None:
        _check(output)
    with Screen(console, options.seconds) as screen:
        status = asyncio.run(run_call(options, screen))
    console.print(summary(status))
    if output is not None:
        draw_poster(status).save(output, format="PNG", optimize=True)
        console.print(f"The picture of it: {output}", highlight=False, soft_wrap=True)
    return _conclude(status, console)


def _check(output: Path) -> None:
    """Find out before the call whether its picture can be written. Raises UnusableFile."""
    if not output.parent.is_dir():
        raise UnusableFile("there is no such folder for the picture")
    is_new = not output.exists()
    try:
        output.open("ab").close()  # leaves a picture that is there as it is
    except OSError as error:
        reason = error.strerror  # and no more of it: the error names the file
    else:
        reason = None
    if reason is not None:
        raise UnusableFile(f"the picture cannot be written: {reason}")
    if is_new:
        output.unlink()


def _conclude(status: Status, console: Console) -> int:
    if status.failures:
        console.print(f"[bold red]FAILED[/]: {status.failures[0]}", highlight=False, soft_wrap=True)
        return 1
    console.print("[bold green]OK[/]: Bob saw and heard Alice; the forwarder and Eve did not.", highlight=False)
    return 0
