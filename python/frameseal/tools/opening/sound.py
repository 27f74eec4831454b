"""The sound of an opened Matroska file, decoded and placed on the time line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    with av.open(str(path), format="matroska") as container:
        indices = [stream.index for stream in container.streams.audio]
    for index in indices:
        yield from track(path, index, rate)


def track(path: Path, index: int, rate: int) -> Iterator[tuple[int, Samples]]:
    """Yield the same for the track of index *index* in the file."""
    with av.open(str(path), format="matroska") as container:
        stream = container.streams[index]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        end = 0
        for packet in container.demux(stream):
            if packet.pts is None or packet.time_base is None:
                continue
            start = round(packet.pts * packet.time_base * rate)
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:  # the next packet is decoded by itself
                continue
            pieces: list[Samples] = []
            for frame in decoded:
                if not isinstance(frame, av.AudioFrame):
                    continue
                frame.pts = None
                pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(frame)]
            samples = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
            if abs(start - end) <= MAX_ROUNDING * rate or start < end:
                start = end
            if len(samples):
                yield start, samples
            end = start + len(samples)
