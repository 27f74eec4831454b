"""Run a voice bot in an end-to-end encrypted room: it listens, understands and answers; the server between cannot.

Replace `understand` with your recogniser and `answer` with your model. espeak-ng speaks the answer if it is installed;
otherwise the bot hums. The caller is part of this program, so that it runs alone.
"""

import asyncio
import io
import shutil
import subprocess
import wave
from fractions import Fraction

import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection
from av import AudioFrame, AudioResampler

from frameseal import E2EEManager, E2EEState, E2EEStateChange, ExternalE2EEKeyProvider
from frameseal.aiortc import attach

RATE, FRAME = 48000, 960  # 20 ms
LOUD = 500  # of 32,767: the threshold above which somebody is speaking


class Voice(MediaStreamTrack):
    """An outgoing voice, silent until `say` queues samples."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._to_say = np.zeros(0, np.int16)
        self._said = 0
        self._start: float | None = None

    def say(self, samples: np.ndarray) -> None:
        """Queue 16-bit mono samples at 48,000 Hz."""
        self._to_say = np.concatenate([self._to_say, samples])

    async def recv(self) -> AudioFrame:
        """Wait until the next 20 ms are due, and return them."""
        now = asyncio.get_running_loop().time()
        self._start = now if self._start is None else self._start
        await asyncio.sleep(max(0.0, self._start + self._said / RATE - now))
        piece, self._to_say = self._to_say[:FRAME], self._to_say[FRAME:]
        samples = np.pad(piece, (0, FRAME - len(piece))).reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._said, Fraction(1, RATE)
        self._said += FRAME
        return frame


def hum(hertz: float, seconds: float) -> np.ndarray:
    """Return a tone, the substitute for speech."""
    tone: np.ndarray = (8000 * np.sin(2 * np.pi * hertz / RATE * np.arange(int(RATE * seconds)))).astype(np.int16)
    return tone


def speak(text: str) -> np.ndarray:
    """Return *text* as 16-bit mono samples."""
    if shutil.which("espeak-ng") is None:
        return hum(660, 1.0)
    spoken = subprocess.run(["espeak-ng", "--stdout", text], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    at = np.arange(0, len(samples), rate / RATE)
    resampled: np.ndarray = np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
    return resampled


async def listen(track: MediaStreamTrack) -> np.ndarray:
    """Return one utterance: from the first loud frame to the first 0.3 s of quiet."""
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    heard: list[np.ndarray] = []
    quiet = 0
    while not heard or quiet < 15:
        for frame in resampler.resample(await track.recv()):  # type: ignore[arg-type]
            samples = frame.to_ndarray().reshape(-1)
            loud = np.abs(samples).max(initial=0) > LOUD
            quiet = 0 if loud else quiet + 1
            if loud or heard:
                heard.append(samples)
    return np.concatenate(heard)


def understand(sound: np.ndarray) -> str:
    """Stand in for speech recognition: return the pitch."""
    spectrum = np.abs(np.fft.rfft(sound.astype(float)))
    return f"{round(spectrum[1:].argmax() * RATE / len(sound), -1):.0f} hertz"


def answer(said: str) -> str:
    """Stand in for a language model: return the reply."""
    return f"I heard {said}."


def encryption(name: str) -> E2EEManager:
    """Return a manager with the key of the room. Every participant does this once."""
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key("correct horse battery staple")
    e2ee = E2EEManager(provider, profile="livekit")

    @e2ee.on("e2ee-state-change")
    def changed(change: E2EEStateChange) -> None:
        if change.state is E2EEState.DecryptionSuccess:
            print(f"{name} understands the sealed voice of {change.participant_id}")

    return e2ee


async def bot(pc: RTCPeerConnection) -> None:
    """Listen to one sentence, and answer it."""
    voice, ears = Voice(), asyncio.get_running_loop().create_future()
    pc.addTrack(voice)
    pc.on("track", ears.set_result)
    said = understand(await listen(await ears))
    reply = answer(said)
    print("bot:", reply)
    voice.say(speak(reply))


async def caller(pc: RTCPeerConnection) -> None:
    """Speak, and wait for the answer."""
    voice, ears = Voice(), asyncio.get_running_loop().create_future()
    pc.addTrack(voice)
    pc.on("track", ears.set_result)
    track = await ears
    voice.say(hum(440, 1.0))
    reply = await listen(track)
    print("caller: heard an answer:", len(reply) > RATE // 2)


async def main() -> None:
    """Connect both, and hang up when both are done."""
    alone = RTCConfiguration(iceServers=[])
    here, there = RTCPeerConnection(alone), RTCPeerConnection(alone)
    attach(here, encryption("caller"), local_id="caller", remote_id="bot")
    attach(there, encryption("bot"), local_id="bot", remote_id="caller")
    talk = [asyncio.create_task(caller(here)), asyncio.create_task(bot(there))]
    await asyncio.sleep(0)  # lets both add their tracks
    await here.setLocalDescription(await here.createOffer())
    await there.setRemoteDescription(here.localDescription)
    await there.setLocalDescription(await there.createAnswer())
    await here.setRemoteDescription(there.localDescription)
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*talk)
    finally:
        await asyncio.gather(here.close(), there.close())


if __name__ == "__main__":
    asyncio.run(main())
