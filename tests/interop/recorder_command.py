"""`frameseal record` and `frameseal open` as programs, and what the opened files show."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from frameseal.tools.cli import main
from support.calls import PASSPHRASE
from support.recorded import Row, until_recorded

# ICE gathers the address that the test names, and no other.
PROGRAM = """
import sys
import aioice.ice
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [sys.argv[1]]
from frameseal.tools.cli import main
sys.exit(main(sys.argv[2:]))
"""


class RecorderProcess:
    """A running `frameseal record`, and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.lines = process, []
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip())

    def said(self, text: str) -> int:
        """Return how many lines hold a text."""
        return sum(text in line for line in self.lines)

    async def ends(self) -> int:
        """Wait for the end, and return the exit status."""
        status = await asyncio.wait_for(self.process.wait(), 60)
        await self._reading
        return status

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ends()


@contextlib.asynccontextmanager
async def recorder(address: str, *arguments: object, **environment: str) -> AsyncIterator[RecorderProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, address, "record", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    made = RecorderProcess(process)
    try:
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await made.ends()


async def recorded(made: RecorderProcess, archive: Path, participants: int, pictures: int = 60) -> None:
    """Wait until the archive holds so many pictures of so many participants: far more than tests look for."""

    def enough(rows: list[Row]) -> bool:
        counted = Counter(row["participant"] for row in rows if row["kind"] == "video")
        return sum(count >= pictures for count in counted.values()) == participants

    await until_recorded(archive, enough)
    assert made.process.returncode is None, made.lines


def opens(archive: Path, tmp_path: Path, passphrase: str = PASSPHRASE) -> Path:
    """Open an archive with `frameseal open`, and return the folder of the files."""
    assert main(["archive", "verify", str(archive)]) == 0
    secret, folder = tmp_path / "passphrase", tmp_path / "opened"
    secret.write_text(passphrase)
    assert main(["open", str(archive), "-o", str(folder), "--passphrase-file", str(secret)]) == 0
    return folder
