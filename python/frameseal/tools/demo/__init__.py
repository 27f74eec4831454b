"""`frameseal demo`: runs an encrypted call with an eavesdropper, and draws who saw and heard Alice.

Read `call` to learn how an application encrypts its media.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from frameseal._secrecy import require
from frameseal.tools.demo.call import CallOptions, Status, UnusableFile, run_call
from frameseal.tools.demo.passphrase import default_file, with_passphrase
from frameseal.tools.demo.poster import draw_poster
from frameseal.tools.demo.screen import Screen, summary

__all__ = ["CallOptions", "UnusableFile", "default_file", "run"]


def run(
    options: CallOptions,
    output: Path | None,
    console: Console | None = None,
    *,
    passphrase_file: Path | None = None,
) -> int:
    """Run the call, display it, and draw its poster. Return the exit status: 0, or 1 if the call failed its check.

    :param output: the path of the poster (PNG); None draws none.
    :param console: the console for the display; None uses standard output.
    :param passphrase_file: the file with the passphrase of the call, which is made if it does not exist. None uses the
        passphrase of *options*, which is then in no file.
    :raises UnusableFile: the media cannot be read, or the poster, the archive or the passphrase cannot be written.
    :raises ValueError: the profile or the codec is unknown.
    """
    require("options", options, CallOptions, "CallOptions")
    require("output", output, (Path, type(None)), "a Path, or None")
    require("console", console, (Console, type(None)), "a Console of rich, or None")
    console = console or Console()
    if output is not None:
        _check(output)
    if passphrase_file is not None:
        options = with_passphrase(options, passphrase_file)
    with Screen(console, options.seconds) as screen:
        status = asyncio.run(run_call(options, screen))
    console.print(summary(status))
    if output is not None:
        draw_poster(status).save(output, format="PNG", optimize=True)
        console.print(f"The picture of it: {output}", highlight=False, soft_wrap=True)
    if status.recording is not None and not status.recording.incomplete:
        for line in _ways_to_open(status.options.record or "", status.recording.id, passphrase_file):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return _conclude(status, console)


def _check(output: Path) -> None:
    """Check before the call that the poster can be written.

    :raises UnusableFile: the poster cannot be written.
    """
    if not output.parent.is_dir():
        raise UnusableFile("the folder of the picture does not exist")
    is_new = not output.exists()
    try:
        output.open("ab").close()  # keeps the content of an existing file
    except OSError as error:
        reason = error.strerror  # not the error, which quotes the path
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


def _ways_to_open(location: str, recording: str, passphrase_file: Path | None) -> list[str]:
    """Return the lines that say how the recording opens."""
    # An address may hold credentials.
    program = sys.argv[0] if Path(sys.argv[0]).name == "frameseal" else "frameseal"  # .venv/bin/frameseal
    command = [program, "open", "ADDRESS" if "://" in location else location]
    if "://" in location or len(_recordings(Path(location))) > 1:
        command += ["--recording", recording]
    if passphrase_file is not None:
        command += ["--passphrase-file", os.fspath(passphrase_file)]
    command += ["-o", "opened"]
    lines = ["The forwarder has recorded the sealed call, without a key. Open it with", f"  {shlex.join(command)}"]
    if passphrase_file is not None:
        return [
            *lines,
            "The passphrase is in that file, away from the archive: whoever stores an archive needs no key.",
        ]
    return [*lines, "and type the passphrase of the call."]


def _recordings(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.iterdir() if not path.name.startswith(".")}
