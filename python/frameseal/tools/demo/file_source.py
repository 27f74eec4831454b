"""A media file as a source: decodes one stream in real time, and restarts it at its end.

aiortc's MediaPlayer has `loop=True`, but waits for an exception that PyAV rarely raises at the end of a file.
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

SAMPLES_PER_FRAME = RATE // 50  # 20 ms, the frame length of Opus
CLOCK = Fraction(1, 90000)
DEFAULT_RATE = Fraction(25)  # frames per second, if the file has no rate


class FileSource:
    """Returns the frames of one stream, each when it is due."""

    def __init__(self, path: Path, kind: str) -> None:
        """Decode the stream of *kind*. `open` checks first that there is one."""
        self._frames: Iterator[av.VideoFrame | av.AudioFrame] = _video(path) if kind == "video" else _audio(path)
        self._began: float | None = None

    @classmethod
    def open(cls, path: Path, kind: str) -> Self | None:
        """Return the source of a stream, or None if the file has no stream of this kind.

        :param kind: "audio" or "video".
        :raises av.FFmpegError: *path* is not a media file.
        """
        with av.open(str(path)) as container:
            return cls(path, kind) if any(stream.type == kind for stream in container.streams) else None

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        """Return the next frame when it is due.

        :raises MediaStreamError: the stream has no frames.
        """
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
    # Frames are spaced by the average rate of the stream, even if its rate is variable.
    start = Fraction(0)
    while True:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            step = 1 / (stream.average_rate or DEFAULT_RATE)
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
                # None flushes the resampler. Its last, shorter piece is dropped, since an encoder needs full frames.
                for piece in resampler.resample(frame):
                    if piece.samples == SAMPLES_PER_FRAME:
                        piece.pts, piece.time_base = samples, Fraction(1, RATE)
                        samples += piece.samples
                        yield piece
            if samples == began:
                return
