"""The sound of an opened Matroska file, decoded and placed on the time line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from frameseal.tools.media import Samples

# A packet's time is rounded to milliseconds. Sound that is nearer than this to the end of the sound before it follows
# it without a break: a break would click.
MAX_ROUNDING = 0.02  # seconds


def stretches(path: Path, rate: int) -> Iterator[tuple[int, Samples]]:
    """Yield the sound of each track of a file, one track after another: the first sample's number, and the samples.

    Within a track the numbers rise, and the stretches do not overlap. A gap in the recording is a gap between them.

    :param path: a Matroska file.
    :param rate: samples in a second, for numbers and samples.
    """
    for index in tracks(path):
        yield from track(path, index, rate)


def tracks(path: Path) -> list[int]:
    """Return the indices of the audio tracks of a file."""
    with av.open(str(path), format="matroska") as container:
        return [stream.index for stream in container.streams.audio]


def track(path: Path, index: int, rate: int) -> Iterator[tuple[int, Samples]]:
    """Yield the same for the track of index *index* in the file."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    end = 0
    for time, frames in decoded(path, index):
        start = round(time * rate)
        pieces: list[Any] = []
        for frame in frames:
            frame.pts = None
            pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(frame)]
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
        if abs(start - end) <= MAX_ROUNDING * rate or start < end:
            start = end
        if len(samples):
            yield start, samples
        end = start + len(samples)


def decoded(path: Path, index: int) -> Iterator[tuple[float, list[Any]]]:
    """Yield each packet of a track: its time in seconds, and the `av.AudioFrame`s that it decodes to."""
    with av.open(str(path), format="matroska") as container:
        stream = container.streams[index]
        unit = float(stream.time_base or 0)
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            frames: list[Any] = []
            try:
                frames += packet.decode()
            except av.error.InvalidDataError:  # the next packet is decoded by itself
                continue
            yield packet.pts * unit, [frame for frame in frames if isinstance(frame, av.AudioFrame)]
