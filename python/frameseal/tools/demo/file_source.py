"""A film as a source: one stream of a file, decoded in real time, and from the start again when it ends.

aiortc's MediaPlayer has `loop=True`, but waits for an exception that PyAV does not raise at the end of most files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Self

import av
from aiortc.mediastreams import MediaStreamError

from frameseal.tools.media import RATE

SAMPLES_PER_FRAME = RATE // 50  # 20 ms, as Opus wants it
CLOCK = Fraction(1, 90000)
USUAL_RATE = Fraction(25)  # frames a second, where the file does not say


class FileSource:
    """The frames of one stream, each when it is due."""

    def __init__(self, path: Path, kind: str) -> None:
        """Use `of`."""
        self._frames: Iterator[av.VideoFrame | av.AudioFrame] = _video(path) if kind == "video" else _audio(path)
        self._began: float | None = None

    @classmethod
    def open(cls, path: Path, kind: str) -> Self | None:
        """Open the stream of this kind, "audio" or "video"; None if the file has none. Raises av.FFmpegError."""
        with av.open(str(path)) as container:
            return cls(path, kind) if any(stream.type == kind for stream in container.streams) else None

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        """The next frame, when it is due."""
        loop = asyncio.get_running_loop()
        frame = await loop.run_in_executor(None, lambda: next(self._frames, None))
        if frame is None:
            raise MediaStreamError("the file has a stream without frames")
        if self._began is None:
            self._began = loop.time()
        due = float((frame.pts or 0) * (frame.time_base or CLOCK))
        await asyncio.sleep(self._began + due - loop.time())
        return frame


def _video(path: Path) -> Iterator[av.VideoFrame]:
    # At the stream's average rate: frames of a variable one come evenly, which is enough to look at.
    start = Fraction(0)
    while True:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            step = 1 / (stream.average_rate or USUAL_RATE)
            began = start
            for frame in container.decode(stream):
                frame.pts, frame.time_base = round(start / CLOCK), CLOCK
                start += step
                yield frame
            if start == began:
                return


def _audio(path: Path) -> Iterator[av.AudioFrame]:
    samples = 0
    while True:
        with av.open(str(path)) as container:
            began = samples
            resampler = av.AudioResampler("s16", "stereo", RATE, SAMPLES_PER_FRAME)
            for frame in chain(container.decode(container.streams.audio[0]), [None]):
                # None empties the resampler; its last piece is shorter, and an encoder would wait for the rest.
                for piece in resampler.resample(frame):
                    if piece.samples == SAMPLES_PER_FRAME:
                        piece.pts, piece.time_base = samples, Fraction(1, RATE)
                        samples += piece.samples
                        yield piece
            if samples == began:
                return
