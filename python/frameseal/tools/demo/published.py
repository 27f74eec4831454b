"""Alice's tracks, and a record of the media that she sends."""

from __future__ import annotations

import asyncio
import fractions
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import av
from aiortc import AudioStreamTrack, VideoStreamTrack

from frameseal.tools.demo.file_source import FileSource
from frameseal.tools.demo.picture import NUMBERS, Clock, Rgb, fitted, stamp, thumbnail
from frameseal.tools.demo.sound import tone
from frameseal.tools.media import RATE, Samples, mono

KEPT_PICTURES = 24  # number of full-size pictures stored for the poster
KEEP_EVERY = 10  # frames between two stored ones, on both sides, so that both store the same frames


@dataclass
class SentMedia:
    """The media that Alice sent: thumbnails of all frames by number, the latest full-size pictures, the sound."""

    thumbnails: dict[int, Rgb] = field(default_factory=dict)
    pictures: deque[tuple[int, Rgb]] = field(default_factory=lambda: deque(maxlen=KEPT_PICTURES))
    sound: list[Samples] = field(default_factory=list)
    is_tone: bool = True

    def picture(self, number: int) -> Rgb | None:
        """Return the full-size picture of the frame *number*, or None if it is not stored."""
        return next((rgb for kept, rgb in self.pictures if kept == number), None)


class PublishedVideo(VideoStreamTrack):
    """A clock, or the frames of `source`. It stamps each frame with its number, and records it."""

    def __init__(self, sent: SentMedia, source: FileSource | None = None) -> None:
        """Record into `sent`."""
        super().__init__()
        self._sent, self._source = sent, source
        self._clock = Clock()
        self._number = 0

    async def recv(self) -> av.VideoFrame:
        """Return the next frame when it is due."""
        number = self._number % NUMBERS
        self._number += 1
        if self._source is not None:
            shown = cast(av.VideoFrame, await self._source.recv())
            pts, time_base = shown.pts, shown.time_base
            rgb = fitted(shown)
        else:
            pts, time_base = await self.next_timestamp()
            rgb = self._clock.draw(number, float(pts * time_base))
        stamp(rgb, number)
        self._sent.thumbnails[number] = thumbnail(rgb)
        if number % KEEP_EVERY == 0:
            self._sent.pictures.append((number, rgb))
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class PublishedSound(AudioStreamTrack):
    """A tone, or the sound of `source`. It records the samples."""

    _PTIME = 0.02

    def __init__(self, sent: SentMedia, source: FileSource | None = None) -> None:
        """Record into `sent`."""
        super().__init__()
        self._sent, self._source = sent, source
        sent.is_tone = source is None
        self._position = 0
        self._began: float | None = None

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms when they are due."""
        if self._source is not None:
            frame = cast(av.AudioFrame, await self._source.recv())
            self._sent.sound.append(mono(frame))
            return frame
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._position / RATE - loop.time())
        count = int(self._PTIME * RATE)
        samples = tone(self._position, count)
        self._sent.sound.append(samples)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, self._position
        frame.time_base = fractions.Fraction(1, RATE)
        self._position += count
        return frame


def published_tracks(media: Path | None) -> tuple[SentMedia, PublishedVideo, PublishedSound]:
    """Return Alice's record and tracks. They loop the streams of *media*; a clock and a tone replace missing streams.

    :raises av.FFmpegError: *media* cannot be opened as media.
    """
    sent = SentMedia()
    video = PublishedVideo(sent, FileSource.open(media, "video") if media is not None else None)
    audio = PublishedSound(sent, FileSource.open(media, "audio") if media is not None else None)
    return sent, video, audio
