"""werift/sfu.js as the SFU of a test, with methods like those of `frameseal.tools.sfu.Forwarder`.

werift comes with some forty packages of npm, so they are pinned in a lock file, and `npm ci` checks each against its
hash; where they are fetched from is the client's business, and not in the file.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections import defaultdict
from itertools import count
from pathlib import Path

from aiortc import RTCSessionDescription

from support.paths import ROOT

HERE = Path(__file__).parent
# `make interop` installs it there, out of the way of what is committed.
MODULES = ROOT / ".stamps/werift/node_modules"
PATIENCE = 60  # seconds; the limit is for a stack that is broken, not a measurement


class WeriftSfu:
    """A Node process. `frames` are the publisher's, whole and sealed, by codec, as werift's depacketizers gave them;
    `keyframes` are those that it took for such.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.frames: defaultdict[str, list[bytes]] = defaultdict(list)
        self.keyframes: defaultdict[str, set[bytes]] = defaultdict(set)
        self._process = process
        self._answers: dict[int, asyncio.Future[str]] = {}
        self._numbers = count(1)
        self._reading = asyncio.create_task(self._read())

    async def connect_publisher(self, pc) -> None:
        await pc.setLocalDescription(await pc.createOffer())
        answer = await self._ask("publish", pc.localDescription.sdp)
        await pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))

    async def connect_subscriber(self, pc) -> None:
        """Offer what is published; call it when media of all kinds have arrived."""
        await pc.setRemoteDescription(RTCSessionDescription(sdp=await self._ask("subscribe"), type="offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        await self._ask("accept", pc.localDescription.sdp)

    async def request_keyframe(self) -> None:
        await self._ask("keyframe")

    async def close(self) -> None:
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), PATIENCE)
        await self._reading

    async def _ask(self, question: str, sdp: str = "") -> str:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"number": number, "question": question, "sdp": sdp}).encode() + b"\n")
        return await asyncio.wait_for(answer, PATIENCE)

    async def _read(self) -> None:
        async for line in self._process.stdout:
            said = json.loads(line)
            if "frame" in said:
                frame = bytes.fromhex(said["data"])
                self.frames[said["frame"]].append(frame)
                if said["keyframe"]:
                    self.keyframes[said["frame"]].add(frame)
            elif "error" in said:
                self._answers.pop(said["number"]).set_exception(RuntimeError(said["error"]))
            else:
                self._answers.pop(said["number"]).set_result(said["answer"])


@contextlib.asynccontextmanager
async def werift_sfu():
    process = await asyncio.create_subprocess_exec(
        shutil.which("node"),
        str(HERE / "werift/sfu.js"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,  # a frame is one line
        env=os.environ | {"NODE_PATH": str(MODULES)},
    )
    sfu = WeriftSfu(process)
    try:
        yield sfu
    finally:
        try:
            await sfu.close()
        finally:
            if process.returncode is None:
                process.kill()
