"""Record an end-to-end encrypted call where it can be recorded honestly: in a participant that has the key.

A server's recording of such a call is noise. This participant says that it records, over a sealed data channel and
before it does, so that everybody in the room knows; it writes a Matroska file, and would transcribe in the same place:
every decoded frame passes through `recv` of the received tracks. Seal the file too if it is to stay: see
sealed_file.py.
"""

import asyncio
import tempfile
from pathlib import Path

import av
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection
from aiortc.contrib.media import MediaRecorder
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from frameseal import E2EEManager, ExternalE2EEKeyProvider
from frameseal.aiortc import attach, seal_data_channel
from frameseal.datachannel import DataChannel

SECONDS = 2


def encryption() -> E2EEManager:
    """Bring the key of the room."""
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key("correct horse battery staple")
    return E2EEManager(provider, profile="livekit")


async def connect(caller: RTCPeerConnection, callee: RTCPeerConnection) -> None:
    """Stand in for the signalling."""
    await caller.setLocalDescription(await caller.createOffer())
    await callee.setRemoteDescription(caller.localDescription)
    await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)


async def record(file: Path) -> None:
    """Call, be told of the recording, record, hang up."""
    alone = RTCConfiguration(iceServers=[])
    alice, recorder = RTCPeerConnection(alone), RTCPeerConnection(alone)
    of_alice, of_recorder = encryption(), encryption()
    attach(alice, of_alice, local_id="alice", remote_id="recorder")
    attach(recorder, of_recorder, local_id="recorder", remote_id="alice")

    alice.addTrack(AudioStreamTrack())
    alice.addTrack(VideoStreamTrack())
    told = asyncio.Event()
    notices = seal_data_channel(alice.createDataChannel("notices"), of_alice, "alice", "recorder")

    @notices.on("message")
    def noticed(message: str | bytes) -> None:
        print("alice is told:", message)
        told.set()

    media = MediaRecorder(str(file))

    @recorder.on("track")
    def received(track: MediaStreamTrack) -> None:
        media.addTrack(track)

    @recorder.on("datachannel")
    def announced(channel: DataChannel) -> None:
        seal_data_channel(channel, of_recorder, "recorder", "alice").send("this call is being recorded")

    await connect(alice, recorder)
    try:
        async with asyncio.timeout(60):
            await told.wait()
            await media.start()
            await asyncio.sleep(SECONDS)
    finally:
        await media.stop()
        await asyncio.gather(alice.close(), recorder.close())


def main() -> None:
    """Record, and look at what was recorded."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "call.mkv"
        asyncio.run(record(file))
        recorded = set()
        for kind in ("audio", "video"):
            with av.open(str(file)) as recording:
                if sum(1 for _ in recording.decode(**{kind: 0})) > 10:
                    recorded.add(kind)
    print("recorded:", ", ".join(sorted(recorded)))


if __name__ == "__main__":
    main()
