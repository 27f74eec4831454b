"""Record and transcribe an encrypted call in a participant that has the key.

A server's recording of such a call is noise, and so is its transcript. This participant announces the recording over a
sealed data channel before it starts, so that everybody in the room knows. It writes a Matroska file and a transcript.
Replace `recognise` with your recogniser. Seal both files if you keep them: see sealed_file.py.
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

SECONDS = 2  # of sound


def encryption() -> E2EEManager:
    """Return a manager with the key of the room."""
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key("correct horse battery staple")
    return E2EEManager(provider, profile="livekit")


async def connect(caller: RTCPeerConnection, callee: RTCPeerConnection) -> None:
    """Stand in for the signalling: exchange offer and answer."""
    await caller.setLocalDescription(await caller.createOffer())
    await callee.setRemoteDescription(caller.localDescription)
    await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)


def recognise(sound: np.ndarray) -> str:
    """Stand in for speech recognition on one second of sound."""
    return "(silence)" if np.abs(sound.astype(int)).max() < 200 else "(sound)"


async def transcribe(track: MediaStreamTrack, transcript: list[str], enough: asyncio.Event) -> None:
    """Write one line per second until the track ends."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    second: list[np.ndarray] = []
    with contextlib.suppress(MediaStreamError):
        while True:
            for frame in resampler.resample(await track.recv()):  # type: ignore[arg-type]
                second.append(frame.to_ndarray().reshape(-1))
            if sum(map(len, second)) >= 16000:
                transcript.append(f"00:{len(transcript):02} alice: {recognise(np.concatenate(second))}")
                second.clear()
            if len(transcript) >= SECONDS:
                enough.set()


async def record(file: Path, transcript: list[str]) -> None:
    """Connect, announce the recording, record and transcribe, hang up."""
    alone = RTCConfiguration(iceServers=[])
    alice, recorder = RTCPeerConnection(alone), RTCPeerConnection(alone)
    of_alice, of_recorder = encryption(), encryption()
    attach(alice, of_alice, local_id="alice", remote_id="recorder")
    attach(recorder, of_recorder, local_id="recorder", remote_id="alice")

    alice.addTrack(AudioStreamTrack())
    alice.addTrack(VideoStreamTrack())
    announced, enough = asyncio.Event(), asyncio.Event()
    notices = seal_data_channel(alice.createDataChannel("notices"), of_alice, local_id="alice", remote_id="recorder")

    @notices.on("message")
    def noticed(message: str | bytes) -> None:
        print("alice receives:", message)
        announced.set()

    media, relay = MediaRecorder(str(file)), MediaRelay()  # only one consumer can read a track; the relay copies it
    writers: list[asyncio.Task[None]] = []

    @recorder.on("track")
    def received(track: MediaStreamTrack) -> None:
        media.addTrack(relay.subscribe(track))
        if track.kind == "audio":
            writers.append(asyncio.create_task(transcribe(relay.subscribe(track), transcript, enough)))

    @recorder.on("datachannel")
    def opened(channel: DataChannel) -> None:
        sealed = seal_data_channel(channel, of_recorder, local_id="recorder", remote_id="alice")
        sealed.send("recorded and transcribed")

    await connect(alice, recorder)
    try:
        async with asyncio.timeout(60):
            await announced.wait()
            await media.start()
            await enough.wait()
    finally:
        await media.stop()
        await asyncio.gather(alice.close(), recorder.close())
        await asyncio.gather(*writers)


def main() -> None:
    """Record, then read the recording back."""
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
