"""A recogniser for `frameseal open --transcript`: PocketSphinx with the English model that its package ships.

It needs no network and no graphics card, and its model has 39 MB. It understands clear, slow speech. For meetings, copy
this file and put a larger recogniser into `recognize`.

    pip install ./examples/recognizer
    frameseal open ARCHIVE -o opened --passphrase-file FILE --transcript said
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pocketsphinx

RATE = 16000  # samples in a second, as `frameseal open` passes them
MARGIN = RATE // 4  # the model expects silence around speech


class PocketSphinx:
    """Recognises English speech. `frameseal open` makes one for each run."""

    def __init__(self) -> None:
        self._decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")

    def recognize(self, samples: npt.NDArray[np.int16]) -> Iterator[tuple[float, float, str]]:
        """Yield the text of an utterance, with its begin and end in seconds.

        :param samples: int16[n], mono, at 16 kHz.
        """
        silence = np.zeros(MARGIN, np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(np.concatenate([silence, samples, silence]).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        if found is not None and found.hypstr:
            yield 0.0, len(samples) / RATE, found.hypstr
