"""Sound that the demo and the meeting share: its format, and the conversion of decoded frames to it.

Sound is mono here: int16 samples at 48 kHz.
"""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]
"""Mono sound: int16[n] at RATE."""

RATE = 48000  # samples per second


def mono(frame: av.AudioFrame) -> Samples:
    """Return the samples of a frame in any format as mono at RATE."""
    if (frame.format.name, frame.layout.name, frame.sample_rate) == ("s16", "stereo", RATE):
        # The format of aiortc's decoders and players. Averaged here, since a resampler per frame is slow.
        both = frame.to_ndarray().reshape(-1, 2).astype(np.int32)
        average: Samples = (both.sum(axis=1) // 2).astype(np.int16)
        return average
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    return np.concatenate([piece.to_ndarray().reshape(-1) for piece in resampler.resample(frame)])
