"""The shortest lines of docs/recording.md: record a call without a key, and open it where the key is."""

import ast
import asyncio
import os
import re
import sys

from frameseal.aiortc import attach
from frameseal.archive import read
from support.calls import PASSPHRASE, STACKS, connect, manager, peers, picture_track, tone_track, until
from support.paths import ROOT

PAGE = (ROOT / "docs/recording.md").read_text("utf-8")


def kinds(archive):
    """Return the kinds of the frames that an archive holds already."""
    try:
        return {kind for batch in read(archive) for kind in batch["kind"].to_pylist()}
    except FileNotFoundError:  # the spool is made with the first frame
        return set()


async def test_the_shortest_lines_record_a_call_and_open_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (recording,) = re.findall(r"^```python no-run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (opening,) = re.findall(r"^```sh\nframeseal (.*)\n```$", PAGE, re.MULTILINE)
    stack = STACKS[0]
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="recorder")
        alice.send(picture_track(stack), "vp8")
        alice.send(tone_track(stack), "opus")
        names = {"pc": bob.pc, "call_is_over": asyncio.Event()}
        program = compile(recording, "docs/recording.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        recorder = asyncio.create_task(eval(program, names))
        await until(lambda: "writer" in names)
        await connect(alice, bob)
        await until(lambda: kinds("archive") >= {"audio", "video"})
        names["call_is_over"].set()
        await recorder
    (tmp_path / "passphrase.txt").write_text(f"{PASSPHRASE}\n", "utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "frameseal",
        *opening.split(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):  # opening takes some seconds; a process that hangs fails the test
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert (tmp_path / "opened" / "alice.mkv").stat().st_size > 1000
