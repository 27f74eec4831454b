"""Generates the tone that Alice publishes, and recognises it in received sound.

Sound is mono here: int16 samples at 48 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from frameseal.tools.media import RATE, Samples

TONE = 440.0  # Hz
AMPLITUDE = 9000

_WINDOW = 2048  # samples; 43 ms
_MIN_POWER_SHARE = 0.9  # minimum share of a window's power at the tone
_MAX_SILENCE = 50.0  # RMS


def tone(start: int, count: int) -> Samples:
    """Return *count* samples of the tone, from the sample number *start* on."""
    phase = 2 * np.pi * TONE * (np.arange(start, start + count) / RATE)
    return (AMPLITUDE * np.sin(phase)).astype(np.int16)


@dataclass(frozen=True)
class Tone:
    """A received tone."""

    frequency: float
    """The strongest frequency in Hz, or 0 for silence."""
    share: float
    """The share of windows with Alice's tone, 0 to 1."""


def find_tone(samples: Samples) -> Tone:
    """Search each window for Alice's tone. Windows of noise or silence reduce the share."""
    count = len(samples) // _WINDOW
    if count == 0:
        return Tone(0.0, 0.0)
    windows = samples[: count * _WINDOW].reshape(count, _WINDOW).astype(np.float64)
    loud = np.sqrt((windows**2).mean(axis=1)) > _MAX_SILENCE
    if not loud.any():
        return Tone(0.0, 0.0)
    power = np.abs(np.fft.rfft(windows[loud] * np.hanning(_WINDOW), axis=1)) ** 2
    expected = round(TONE * _WINDOW / RATE)
    at_tone = power[:, expected - 3 : expected + 4].sum(axis=1) / power.sum(axis=1)
    frequency = float(np.median([_peak(spectrum) for spectrum in power]) * RATE / _WINDOW)
    return Tone(frequency, float((at_tone >= _MIN_POWER_SHARE).sum() / count))


def _peak(power: npt.NDArray[np.float64]) -> float:
    """Return the position of the peak in fractional bins, from the ratio of two neighbours in a Hann window."""
    top = int(power[1:-1].argmax()) + 1
    side = 1 if power[top + 1] >= power[top - 1] else -1
    ratio = float(np.sqrt(power[top + side] / power[top]))
    return top + side * (2 * ratio - 1) / (ratio + 1)


def resemblance(sent: Samples, heard: Samples) -> float:
    """Return the share of received sound that was sent, 0 to 1: the median over pieces of the best correlation."""
    # Compared at 6 kHz, since a codec at these bit rates preserves the waveform below 3 kHz.
    one, other = _decimated(sent), _decimated(heard)
    # Pieces are short, because after a lost packet the sound shifts against the sent sound.
    piece_len = RATE // 8 // 4
    pieces = [other[i : i + piece_len] for i in range(0, len(other) - piece_len + 1, piece_len)]
    pieces = [piece for piece in pieces if np.sqrt((piece**2).mean()) > _MAX_SILENCE]
    pieces = pieces[:: max(1, len(pieces) // 16)]  # enough for a median
    if not pieces or len(one) < piece_len:
        return 0.0
    size = 1 << (len(one) + piece_len).bit_length()
    spectrum = np.fft.rfft(one, size)
    energy = np.concatenate([[0.0], np.cumsum(one**2)])
    local = np.sqrt(np.maximum(energy[piece_len:] - energy[:-piece_len], 1e-9))
    scores = []
    for piece in pieces:
        lags = np.fft.irfft(spectrum * np.conj(np.fft.rfft(piece, size)), size)[: len(local)]
        loud = local > 0.05 * local.max()
        scores.append(float((lags[loud] / local[loud]).max() / np.sqrt((piece**2).sum())))
    return max(0.0, float(np.median(scores)))


def _decimated(samples: Samples) -> npt.NDArray[np.float64]:
    means: npt.NDArray[np.float64] = samples[: len(samples) // 8 * 8].reshape(-1, 8).mean(axis=1, dtype=np.float64)
    return means
