"""Run a voice agent (videosdk-agents) in an end-to-end encrypted meeting of VideoSDK: it greets, and listens.

Jobs run in processes of their own, so the entrypoint sets the key provider. Replace `Ears` with your speech recogniser,
and `Voice` with your synthesiser. Set MEETING_KEY, MEETING_ID and VIDEOSDK_AUTH_TOKEN in the environment.
"""

import os

import numpy as np
from videosdk.agents import (
    Agent,
    AgentSession,
    JobContext,
    MetricsOptions,
    Options,
    Pipeline,
    RoomOptions,
    TracesOptions,
    WorkerJob,
)
from videosdk.agents.stt.stt import STT
from videosdk.agents.tts.tts import TTS

from frameseal import ExternalE2EEKeyProvider
from frameseal.videosdk import set_key_provider

VOICE_RATE, HEARING_RATE = 24000, 48000  # samples per second
LOUD = 500  # of 32,767: the threshold above which somebody is speaking


class Ears(STT):  # type: ignore[misc]  # the package has no types
    """Stand in for a speech recogniser: print the pitch of the first second in which somebody speaks."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = np.zeros(0, np.int16)

    async def process_audio(self, audio_frames: bytes, language: str | None = None, **options: object) -> None:
        """Receive interleaved 16-bit stereo samples of a participant, opened."""
        left = np.frombuffer(audio_frames, np.int16)[::2]
        if len(self._heard) < HEARING_RATE and np.abs(left).max(initial=0) > LOUD:
            self._heard = np.concatenate([self._heard, left])
            if len(self._heard) >= HEARING_RATE:
                pitch = np.abs(np.fft.rfft(self._heard)).argmax() * HEARING_RATE / len(self._heard)
                print(f"agent: heard {round(pitch, -1):.0f} hertz", flush=True)

    async def aclose(self) -> None:
        """Release nothing."""


class Voice(TTS):  # type: ignore[misc]
    """Stand in for a speech synthesiser: hum for three seconds, whatever the text."""

    def __init__(self) -> None:
        super().__init__(sample_rate=VOICE_RATE)

    async def synthesize(self, text: object, voice_id: str | None = None, **options: object) -> None:
        """Queue 16-bit mono samples."""
        tone: np.ndarray = 8000 * np.sin(2 * np.pi * 660 / VOICE_RATE * np.arange(3 * VOICE_RATE))
        await self.audio_track.add_new_bytes(tone.astype(np.int16).tobytes())

    async def interrupt(self) -> None:
        """Stop speaking."""
        self.audio_track.interrupt()


class Greeter(Agent):  # type: ignore[misc]
    """The agent."""

    def __init__(self) -> None:
        super().__init__(instructions="Greet whoever is in the meeting.")

    async def on_enter(self) -> None:
        """Say the greeting."""
        await self.session.say("Hello!")

    async def on_exit(self) -> None:
        """Say nothing."""


async def entrypoint(context: JobContext) -> None:
    """Run one job, in its own process."""
    keys = ExternalE2EEKeyProvider()
    keys.set_shared_key(os.environ["MEETING_KEY"])
    set_key_provider(keys)
    session = AgentSession(agent=Greeter(), pipeline=Pipeline(stt=Ears(), tts=Voice()))
    await context.run_until_shutdown(session=session, wait_for_participant=True)


def room() -> JobContext:
    """Return the job's room. No recording: the server has no key. No traces: they hold transcripts."""
    return JobContext(
        room_options=RoomOptions(
            room_id=os.environ["MEETING_ID"],
            name="Greeter",
            playground=False,
            traces=TracesOptions(enabled=False),
            metrics=MetricsOptions(enabled=False),
        )
    )


if __name__ == "__main__":
    WorkerJob(entrypoint=entrypoint, jobctx=room, options=Options(agent_id="Greeter")).start()
