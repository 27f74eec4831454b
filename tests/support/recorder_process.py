"""A recorder without a key in a process of its own, which a test may kill. Both ends of its pipe are here.

Each line on the pipe is a JSON object. The process receives offers and returns answers, the states of its connections,
and the number of frames that its writer has accepted.
"""

import asyncio
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from frameseal.aiortc import record
from frameseal.archive import ArchiveWriter
from support.calls import until

RECORDING = "circle"
LEG = "recorder"  # its name at the forwarder
MORE = {"audio": 190, "video": 60}  # frames: 4 s at 15 pictures a second, if no sound is lost
MAX_LINE = 1 << 20  # bytes, more than any session description


class RemoteConnection:
    """A peer connection in the recorder's process, as far as the forwarder uses one."""

    def __init__(self, process: "RecorderProcess", participant: str) -> None:
        self.localDescription = None
        self.connectionState = "new"
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self._process, self._participant = process, participant
        self._listeners: list = []

    def on(self, event: str, listener) -> None:
        assert event == "connectionstatechange"
        self._listeners.append(listener)

    async def setRemoteDescription(self, offer) -> None:
        self._process.say(connect=self._participant, offer=offer.sdp)

    async def createAnswer(self):
        return SimpleNamespace(sdp=await self.answer, type="answer")

    async def setLocalDescription(self, answer) -> None:
        self.localDescription = answer

    def changed(self, state: str) -> None:
        self.connectionState = state
        for listener in self._listeners:
            listener()


class RecorderProcess:
    """The test's end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.written: Counter[tuple[str, str]] = Counter()
        """The number of frames of this process that its writer has accepted, by participant and kind."""
        self._process = process
        self._connections: dict[str, RemoteConnection] = {}
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, archive: Path) -> "RecorderProcess":
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "support.recorder_process", str(archive)),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
            )
        )

    async def subscribe(self, forwarder, participant: str) -> None:
        """Record what a forwarder forwards of a participant."""
        connection = self._connections[participant] = RemoteConnection(self, participant)
        await forwarder.connect_subscriber(connection, LEG)

    async def wait_for_more(self, participants: Iterable[str]) -> None:
        """Wait until it has written as many more frames of each participant as a test needs to look at them."""
        wanted = {(name, kind): self.written[name, kind] + more for name in participants for kind, more in MORE.items()}
        await until(lambda: all(self.written[place] >= count for place, count in wanted.items()))

    def leave(self, participant: str) -> None:
        """Let it close its connection to a participant's media."""
        self.say(leave=participant)

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        await self._process.wait()
        await self._reader

    async def stop(self) -> int:
        """Let it close its archive. Return its exit status."""
        self.say(stop=True)
        await self._reader
        return await self._process.wait()

    def say(self, **message) -> None:
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            message = json.loads(line)
            if "written" in message:
                self.written[message["participant"], message["kind"]] = message["written"]
            elif "answer" in message:
                self._connections[message["participant"]].answer.set_result(message["answer"])
            else:
                self._connections[message["participant"]].changed(message["state"])


# --- the process -----------------------------------------------------------------------------------------------------

_say_lock = threading.Lock()


def _say(**message) -> None:
    with _say_lock:
        print(json.dumps(message), flush=True)


class _Counting:
    """A writer that reports how many frames another writer has accepted."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._written: Counter[tuple[str, str]] = Counter()

    def write(self, frame) -> None:
        self._writer.write(frame)
        place = frame.participant, frame.kind
        with self._lock:  # each connection has a recorder with a thread of its own
            self._written[place] += 1
            _say(participant=frame.participant, kind=frame.kind, written=self._written[place])


async def _record(archive: str) -> None:
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    made = {}
    with ArchiveWriter(archive, RECORDING) as archive_writer:
        writer = _Counting(archive_writer)
        while "stop" not in (message := json.loads(await reader.readline())):
            if "leave" in message:
                await _end(*made.pop(message["leave"]))
            else:
                participant = message["connect"]
                pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
                made[participant] = pc, record(pc, writer, remote_id=participant)
                pc.on("connectionstatechange", lambda p=participant, c=pc: _say(participant=p, state=c.connectionState))
                await pc.setRemoteDescription(RTCSessionDescription(sdp=message["offer"], type="offer"))
                await pc.setLocalDescription(await pc.createAnswer())
                _say(participant=participant, answer=pc.localDescription.sdp)
        for each in made.values():
            await _end(*each)


async def _end(pc, recorder) -> None:
    async with recorder:
        await pc.close()


if __name__ == "__main__":
    asyncio.run(_record(sys.argv[1]))
