"""Everybody's voice, mixed and given back a little later.

Sound is mono here: int16 samples at 48 kHz.
"""

from __future__ import annotations

import asyncio
import fractions
from typing import Final

import av
import numpy as np
from aiortc import AudioStreamTrack

from frameseal.tools.media import RATE, Samples

DELAY: Final = RATE  # samples: a second, enough to hear that it is an echo
GAIN: Final = 0.6  # below 1, so that an echo that a microphone picks up again dies out
_FRAME: Final = RATE // 50
_LENGTH: Final = 4 * RATE  # of the ring; DELAY and whatever may come in one go have to fit


class Echo:
    """A ring of samples: written some way ahead of where it is read, by each participant at a place of their own."""

    def __init__(self, delay: int = DELAY) -> None:
        """Start silent."""
        self._ring = np.zeros(_LENGTH, dtype=np.int32)
        self._delay = delay
        self._read = 0
        self._written: dict[str, int] = {}

    def hear(self, participant: str, samples: Samples) -> None:
        """Add what a participant said."""
        start = max(self._written.get(participant, 0), self._read + self._delay)
        # Whoever sends faster than time passes would lap the reader.
        samples = samples[: max(0, self._read + _LENGTH - start)]
        places = np.arange(start, start + len(samples)) % _LENGTH
        self._ring[places] += (samples * GAIN).astype(np.int32)
        self._written[participant] = start + len(samples)

    def say(self, count: int) -> Samples:
        """Take the next samples."""
        places = np.arange(self._read, self._read + count) % _LENGTH
        samples: Samples = np.clip(self._ring[places], -32768, 32767).astype(np.int16)
        self._ring[places] = 0
        self._read += count
        return samples

    def forget(self, participant: str) -> None:
        """A participant left; what they said is still given back."""
        self._written.pop(participant, None)


class EchoTrack(AudioStreamTrack):
    """The echo as a track, 20 ms at a time."""

    def __init__(self, echo: Echo) -> None:
        """Play *echo*."""
        super().__init__()
        self._echo = echo
        self._position = 0
        self._began: float | None = None

    async def recv(self) -> av.AudioFrame:
        """The next 20 ms, when they are due."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._position / RATE - loop.time())
        frame = av.AudioFrame.from_ndarray(self._echo.say(_FRAME)[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._position, fractions.Fraction(1, RATE)
        self._position += _FRAME
        return frame
