"""Record and transcribe an encrypted call where that can be done honestly: in a participant that has the key.

A server's recording of such a call is noise, and so is its transcript. This participant says what it does, over a
sealed data channel and before it does it, so that everybody in the room knows. It writes a Matroska file and a
transcript; put your recogniser where `recognise` is. Seal both files if they are to stay: see sealed_file.py.
"""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection
from aiortc.contrib.media import MediaRecorder, MediaRelay
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack

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


def recognise(sound: np.ndarray) -> str:
    """Stand in for speech recognition, on a second of sound."""
    return "(silence)" if np.abs(sound.astype(int)).max() < 200 else "(sound)"


async def transcribe(track: MediaStreamTrack, transcript: list[str]) -> None:
    """Write a line for each second, while the track lasts."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    second: list[np.ndarray] = []
    with contextlib.suppress(MediaStreamError):
        while True:
            for frame in resampler.resample(await track.recv()):  # type: ignore[arg-type]
                second.append(frame.to_ndarray().reshape(-1))
            if sum(map(len, second)) >= 16000:
                transcript.append(f"00:{len(transcript):02} alice: {recognise(np.concatenate(second))}")
                second.clear()


async def record(file: Path, transcript: list[str]) -> None:
    """Call, tell the room, record and transcribe, hang up."""
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

    media, relay = MediaRecorder(str(file)), MediaRelay()  # a relay, since a track can be read by one only
    writers: list[asyncio.Task[None]] = []

    @recorder.on("track")
    def received(track: MediaStreamTrack) -> None:
        media.addTrack(relay.subscribe(track))
        if track.kind == "audio":
            writers.append(asyncio.create_task(transcribe(relay.subscribe(track), transcript)))

    @recorder.on("datachannel")
    def announced(channel: DataChannel) -> None:
        seal_data_channel(channel, of_recorder, "recorder", "alice").send("recorded and transcribed")

    await connect(alice, recorder)
    try:
        async with asyncio.timeout(60):
            await told.wait()
            await media.start()
            await asyncio.sleep(SECONDS)
    finally:
        await media.stop()
        await asyncio.gather(alice.close(), recorder.close())
        await asyncio.gather(*writers)


def main() -> None:
    """Record, and look at what was recorded."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "call.mkv"
        transcript: list[str] = []
        asyncio.run(record(file, transcript))
        recorded = set()
        for kind in ("audio", "video"):
            with av.open(str(file)) as recording:
                if sum(1 for _ in recording.decode(**{kind: 0})) > 10:
                    recorded.add(kind)
    print("recorded:", ", ".join(sorted(recorded)))
    print("transcript begins:", transcript[0])


if __name__ == "__main__":
    main()
