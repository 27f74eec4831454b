"""Mixes the voices of all participants and plays them back with a delay.

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

DELAY: Final = RATE  # samples: one second, long enough to be heard as an echo
GAIN: Final = 0.6  # below 1, so that an echo that a microphone picks up again decays
_FRAME: Final = RATE // 50
_LENGTH: Final = 4 * RATE  # samples of the ring buffer: DELAY and the longest burst must fit


class Echo:
    """A ring buffer of samples. Each participant writes at a position ahead of the reader."""

    def __init__(self, delay: int = DELAY) -> None:
        """Make a silent buffer.

        :param delay: the samples between the reader and the first sample of a participant.
        """
        self._ring = np.zeros(_LENGTH, dtype=np.int32)
        self._delay = delay
        self._read = 0
        self._written: dict[str, int] = {}

    def hear(self, participant: str, samples: Samples) -> None:
        """Mix in the samples of a participant. Drop the samples that do not fit."""
        start = max(self._written.get(participant, 0), self._read + self._delay)
        # A participant who sends faster than real time would overtake the reader.
        samples = samples[: max(0, self._read + _LENGTH - start)]
        places = np.arange(start, start + len(samples)) % _LENGTH
        self._ring[places] += (samples * GAIN).astype(np.int32)
        self._written[participant] = start + len(samples)

    def say(self, count: int) -> Samples:
        """Return the next *count* samples, and clear them."""
        places = np.arange(self._read, self._read + count) % _LENGTH
        samples: Samples = np.clip(self._ring[places], -32768, 32767).astype(np.int16)
        self._ring[places] = 0
        self._read += count
        return samples

    def forget(self, participant: str) -> None:
        """Discard the position of a participant who left. Their samples are still played."""
        self._written.pop(participant, None)


class EchoTrack(AudioStreamTrack):
    """The echo as an audio track with frames of 20 ms."""

    def __init__(self, echo: Echo) -> None:
        """Play *echo*."""
        super().__init__()
        self._echo = echo
        self._position = 0
        self._began: float | None = None

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms when they are due."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._position / RATE - loop.time())
        frame = av.AudioFrame.from_ndarray(self._echo.say(_FRAME)[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._position, fractions.Fraction(1, RATE)
        self._position += _FRAME
        return frame
