"""Tells in which seconds of its file a participant spoke, by the loudness of the sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frameseal.tools.opening import sound

RATE = 16000
WINDOW = RATE // 50  # samples of which one loudness is measured: 20 ms
MIN_RMS = 250  # of int16: about -42 dB of full scale. Silence and the hum of a room are below it
MIN_WINDOWS = 5  # loud windows in a second of speech: a tenth of it


def spoken_seconds(path: Path) -> set[int]:
    """Return the whole seconds of the time line in which the sound of a file is as loud as speech.

    :param path: a Matroska file.
    """
    loud: dict[int, int] = {}
    for start, samples in sound.stretches(path, RATE):
        whole = len(samples) // WINDOW * WINDOW
        if not whole:
            continue
        windows = samples[:whole].reshape(-1, WINDOW).astype(np.float32)
        for number in np.flatnonzero(np.sqrt((windows**2).mean(axis=1)) >= MIN_RMS):
            second = (start + int(number) * WINDOW) // RATE
            loud[second] = loud.get(second, 0) + 1
    return {second for second, count in loud.items() if count >= MIN_WINDOWS}
