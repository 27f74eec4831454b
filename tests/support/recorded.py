"""Frames of a recording from real encoders, opened or sealed, with clocks and delays like a call's."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from heapq import merge
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np

from frameseal import Encryptor, KeyRing
from frameseal.archive import SealedFrame, read
from frameseal.tools.opening.frames import OpenedFrame
from support.calls import Picture, draw, sine, tone

START = datetime(2026, 11, 29, 9, 0, tzinfo=UTC)
FRAME_RATE = 30
CLOCK = {"opus": 48000, "pcmu": 8000, "pcma": 8000, "g722": 8000}  # RFC 3551, section 4.5.2, for G.722
ENCODERS = {
    "vp8": ("libvpx", {"deadline": "realtime", "lag-in-frames": "0", "auto-alt-ref": "0"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}),
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1"}),
    "h265": (
        "libx265",
        {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "bframes=0:log-level=none:repeat-headers=1"},
    ),
    "pcmu": ("pcm_mulaw", {}),
    "pcma": ("pcm_alaw", {}),
    "g722": ("g722", {}),
    "opus": ("libopus", {"application": "voip"}),
}


Row = dict[str, Any]


def rows_of(folder: Path, *columns: str) -> list[Row]:
    """Return the rows of an archive, or only some columns of them. There are none as long as there is no archive."""
    batches = read(folder) if folder.is_dir() else ()
    return [row for batch in batches for row in (batch.select(columns) if columns else batch).to_pylist()]


async def until_recorded(folder: Path, condition: Callable[[list[Row]], bool], seconds: float = 60) -> None:
    """Wait for a condition on participant, kind and key id of an archive's rows. A recorder may be writing it.

    The recorder writes twice a second. Whoever reads more often, or in the event loop, keeps a call from sending.
    """
    deadline = time.monotonic() + seconds
    while not condition(await asyncio.to_thread(rows_of, folder, "participant", "kind", "key_id")):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        await asyncio.sleep(0.25)


def frames_of(rows: list[Row], participant: str, **values: Any) -> int:
    """Return how many rows a participant has, with these values in other columns."""
    wanted = {"participant": participant, **values}
    return sum(all(row[name] == value for name, value in wanted.items()) for row in rows)


@cache
def pictures(
    codec: str, count: int, size: tuple[int, int] = (320, 240), *, colour: str = "red", first: int = 0, every: int = 30
) -> tuple[bytes, ...]:
    """Return the encoded pictures *first* and so on, of `support.calls.draw`, with a keyframe for *every* of them."""
    name, options = ENCODERS[codec]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, FRAME_RATE), Fraction(FRAME_RATE)
    encoder.gop_size, encoder.bit_rate, encoder.options = every, 1_000_000, options
    packets = []
    for number in range(count):
        frame = draw(first + number, colour, size)
        frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    assert len(packets) == count and packets[0].is_keyframe
    return tuple(map(bytes, packets))


@cache
def sounds(codec: str, seconds: float, hertz: float = 440, silence: float = 0) -> tuple[bytes, ...]:
    """Return frames of 20 ms: a tone after *silence* seconds of silence."""
    name, options = ENCODERS[codec]
    rate = {"opus": 48000, "g722": 16000}.get(codec, 8000)
    encoder = av.CodecContext.create(name, "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.options = rate, "mono", "s16", options
    packets = []
    for number in range(int(seconds * 50)):
        frame = sine(number * rate // 50, rate // 50, hertz if number >= silence * 50 else 0, rate)
        packets += encoder.encode(frame)
    return tuple(map(bytes, packets))


def recorded(
    frames: Iterable[bytes | None],
    *,
    participant: str = "alice",
    track: str = "camera",
    codec: str = "vp8",
    at: float = 0,
    delay: float = 0.03,
    jitter: float = 0,
    key_id: int | None = 0,
    missing: Iterable[int] = (),
    unopened: Iterable[int] = (),
    ssrc: int = 1,
    rtp_start: int = 0x8000_0000,
    drift: float = 0,
    seed: int = 1,
) -> list[OpenedFrame]:
    """Return the frames of one track.

    :param at: the time at which the first frame was captured, in seconds from the start of the recording.
    :param delay: the time in seconds that the network takes at least.
    :param jitter: the time in seconds that the network takes at most in addition, chosen with *seed*.
    :param missing: the numbers of frames that never arrived.
    :param unopened: the numbers of frames that did not open.
    :param drift: the share by which the sender's clock is faster than the recorder's.
    """
    is_sound = codec in CLOCK
    clock, step = CLOCK.get(codec, 90000), Fraction(1, 50 if is_sound else FRAME_RATE)
    seeded, missing, unopened = Random(seed), set(missing), set(unopened)
    rows: list[OpenedFrame] = []
    gap, arrived = False, 0.0
    for number, frame in enumerate(frames):
        captured = at + float(number * step) / (1 + drift)
        # A jitter buffer hands frames on in their order.
        arrived = max(arrived, captured + delay + seeded.random() * jitter)
        if number in missing:
            gap = True
            continue
        rows.append(
            OpenedFrame(
                participant=participant,
                track=track,
                kind="audio" if is_sound else "video",
                codec=codec,
                ssrc=ssrc,
                clock_rate=clock,
                rtp_timestamp=rtp_start + int(number * step * clock),
                arrival=START + timedelta(seconds=arrived),
                key_id=key_id,
                gap=gap,
                frame=None if number in unopened else frame,
                reason="authentication failed" if number in unopened else None,
            )
        )
        gap = False
    return rows


def together(*tracks: Iterable[OpenedFrame]) -> Iterator[OpenedFrame]:
    """Return the frames of several tracks in the order in which they arrived."""
    return merge(*(sorted(track, key=attrgetter("arrival")) for track in tracks), key=attrgetter("arrival"))


def sealed(frames: Iterable[OpenedFrame], rings: dict[str, KeyRing], profile: str = "livekit") -> list[SealedFrame]:
    """Return frames as a recorder receives them, sealed with the sending key of their participant's ring."""
    rows, encryptors = [], {}
    for frame in frames:
        place = (frame.participant, frame.codec)
        if place not in encryptors:
            encryptors[place] = Encryptor(rings[frame.participant], frame.codec)
        assert frame.frame is not None
        rows.append(
            SealedFrame(
                participant=frame.participant,
                track=frame.track,
                kind=frame.kind,
                codec=frame.codec,
                profile=profile,
                ssrc=frame.ssrc,
                rtp_timestamp=frame.rtp_timestamp,
                clock_rate=frame.clock_rate,
                arrival=frame.arrival,
                key_id=None,
                keyframe=None,
                gap=frame.gap,
                sealed=encryptors[place].encrypt(frame.frame),
            )
        )
    return rows


def shown(path: Path, index: int = 0) -> list[tuple[float, Picture]]:
    """Return the decoded pictures of a file's video track, with their times in seconds."""
    with av.open(str(path)) as container:
        return [(float(frame.time), Picture.read(frame)) for frame in container.decode(video=index)]


def heard(path: Path, index: int = 0) -> tuple[np.ndarray, list[float], int]:
    """Return the decoded sound of a file's audio track: samples, the time of each packet, and the rate."""
    with av.open(str(path)) as container:
        samples, times, rate = [], [], 0
        for frame in container.decode(audio=index):
            mono = frame.to_ndarray().astype(float)
            channels = len(frame.layout.channels)
            mono = mono.reshape(-1, channels).mean(axis=1) if mono.shape[0] == 1 else mono.mean(axis=0)
            samples.append(mono if abs(mono).max(initial=0) > 1.5 else mono * 32768)
            times.append(float(frame.time))
            rate = frame.sample_rate
        return np.concatenate(samples), times, rate


def onset(path: Path, index: int = 0) -> float:
    """Return the time at which the sound of a file becomes loud, in seconds."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=index):
            loud = np.abs(frame.to_ndarray().astype(float)).reshape(-1)
            scale = 32768 if frame.format.name.startswith("s16") else 1
            found = np.flatnonzero(loud > 0.1 * scale)
            if len(found):
                channels = len(frame.layout.channels) if frame.format.is_packed else 1
                return float(frame.time) + int(found[0]) // channels / frame.sample_rate
    raise AssertionError("the file is silent")


def assert_pure(samples: np.ndarray, rate: int, hertz: float = 440) -> None:
    """Check that the sound is one clean tone."""
    found, purity, _ = tone(samples[int(0.2 * rate) :], rate)
    assert abs(found - hertz) < 6, (found, purity)
    assert purity > 0.95, (found, purity)
