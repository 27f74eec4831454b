"""Tells in which seconds of its file a participant spoke, by the loudness of the sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frameseal.tools.opening import sound

MIN_RMS = 250  # of int16: about -42 dB of full scale. Silence and the hum of a room are below it
MIN_LOUD = 0.1  # loud seconds in a second of speech
INTEGERS = ("s16", "s16p")  # formats of samples from -32768 to 32767; the others are floats up to 1


def spoken_seconds(path: Path) -> set[int]:
    """Return the whole seconds of the time line in which the sound of a file is as loud as speech.

    :param path: a Matroska file.
    """
    loud: dict[int, float] = {}
    for index in sound.tracks(path):
        for time, frames in sound.decoded(path, index):
            start = time
            for frame in frames:
                # The first channel alone, as it was decoded: to resample it would take longer than to decode it.
                kind, unit = (np.int16, 1) if frame.format.name in INTEGERS else (np.float32, 32768)
                samples = np.frombuffer(memoryview(frame.planes[0]), kind, frame.samples).astype(np.float32)
                threshold = MIN_RMS / unit
                if np.dot(samples, samples) >= len(samples) * threshold**2:
                    loud[int(start)] = loud.get(int(start), 0) + frame.samples / frame.sample_rate
                start += frame.samples / frame.sample_rate
    return {second for second, lasted in loud.items() if lasted > MIN_LOUD - 0.001}
