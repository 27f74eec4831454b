"""A call of aiortc over loopback in one process, 720p30 VP8 and Opus, whose media play on demand.

Pictures and sound are drawn beforehand, and the bit rate is held. What remains is the work of a call, the same each
time. A call may also send packets that were encoded beforehand, of another size and rate.
"""

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction

import aioice
import aiortc
import aiortc.codecs.vpx
import av
import numpy as np
from av.video.frame import PictureType

WIDTH, HEIGHT, VIDEO_RATE, AUDIO_RATE = 1280, 720, 30, 50
BIT_RATE = 1_500_000
SETTLE = 0.2  # s until the last frames are decoded

Rate = int | Fraction  # frames a second
Media = av.VideoFrame | av.AudioFrame | av.Packet
Decoded = Callable[[aiortc.MediaStreamTrack, av.VideoFrame | av.AudioFrame], object]


def pictures(count: int = 30, width: int = WIDTH, height: int = HEIGHT) -> list[av.VideoFrame]:
    """Return pictures of a window that wanders over a texture, there and back."""
    random = np.random.default_rng(1)
    plane = np.kron(random.integers(60, 200, (70, 100), np.uint8), np.ones((16, 16), np.uint8))
    frames = []
    for n in range(count):
        image = np.full((height * 3 // 2, width), 128, np.uint8)
        image[:height] = plane[2 * n : 2 * n + height, 5 * n : 5 * n + width]
        frames.append(av.VideoFrame.from_ndarray(image, format="yuv420p"))
    return [*frames, *frames[-2:0:-1]]


def sounds(count: int = AUDIO_RATE) -> list[av.AudioFrame]:
    """Return a chord of one second."""
    time_ = np.arange(48_000) / 48_000
    wave = sum(np.sin(2 * np.pi * hertz * time_) for hertz in (220, 277, 330)) * 4_000
    parts = np.split(wave.astype(np.int16).reshape(1, -1), count, axis=1)
    frames = [av.AudioFrame.from_ndarray(part, format="s16", layout="mono") for part in parts]
    for frame in frames:
        frame.sample_rate = 48_000
    return frames


class Source(aiortc.MediaStreamTrack):
    """A track of prepared frames or packets. `play` starts with the first and sends them in time.

    The time starts when the sender asks for the first, so a track may play before its call is connected.
    """

    def __init__(self, kind: str, frames: list[Media], rate: Rate, clock_rate: int) -> None:
        super().__init__()
        self.kind, self._frames, self._rate, self._clock_rate = kind, frames, rate, clock_rate
        self._left = self._sent = 0
        self.started = 0.0  # when the first is sent, on the monotonic clock
        self._playing, self.played = asyncio.Event(), asyncio.Event()

    def play(self, seconds: float, after: float = 0.0) -> None:
        """Send *seconds* of media. The first waits for *after* seconds."""
        self._first, self._after, self._left = self._sent, after, round(seconds * self._rate)
        self.planned = after + float((self._left - 1) / self._rate)  # s until the last is due
        self.played.clear()
        self._playing.set()

    async def recv(self) -> Media:
        if not self._left:
            self._playing.clear()
            self.played.set()
        await self._playing.wait()
        self._left -= 1
        place = self._sent - self._first
        if not place:
            self.started = time.monotonic() + self._after
        await asyncio.sleep(max(0.0, self.started + place / self._rate - time.monotonic()))
        frame = self._frames[place % len(self._frames)]
        frame.pts = self._sent * self._clock_rate // self._rate
        frame.time_base = Fraction(1, self._clock_rate)
        if isinstance(frame, av.VideoFrame):
            frame.pict_type = PictureType.NONE  # a forced keyframe leaves its mark on the frame
        self._sent += 1
        return frame


class Call:
    """A call from one peer connection to another. *on_decoded* is called with each decoded frame and its track."""

    def __init__(
        self,
        video: list[av.VideoFrame] | list[av.Packet],
        audio: list[av.AudioFrame] | list[av.Packet],
        video_rate: Rate = VIDEO_RATE,
        audio_rate: Rate = AUDIO_RATE,
        on_decoded: Decoded = lambda _track, _frame: None,
    ) -> None:
        hold_bit_rate()
        alone = aiortc.RTCConfiguration(iceServers=[])
        self.sending, self.receiving = aiortc.RTCPeerConnection(alone), aiortc.RTCPeerConnection(alone)
        self.sources = (Source("video", video, video_rate, 90_000), Source("audio", audio, audio_rate, 48_000))
        self.decoded = {"video": 0, "audio": 0}
        self._on_decoded = on_decoded
        self._sinks: list[asyncio.Task[None]] = []
        self.receiving.on("track", lambda track: self._sinks.append(asyncio.ensure_future(self._sink(track))))

    async def connect(self) -> None:
        for source in self.sources:
            self.sending.addTrack(source)
        gather, aioice.ice.get_host_addresses = aioice.ice.get_host_addresses, lambda **_: ["127.0.0.1"]
        try:
            await self.sending.setLocalDescription(await self.sending.createOffer())
            await self.receiving.setRemoteDescription(self.sending.localDescription)
            await self.receiving.setLocalDescription(await self.receiving.createAnswer())
            await self.sending.setRemoteDescription(self.receiving.localDescription)
        finally:
            aioice.ice.get_host_addresses = gather
        deadline = time.monotonic() + 30
        while {self.sending.connectionState, self.receiving.connectionState} != {"connected"}:
            if time.monotonic() > deadline:
                raise SystemExit("the call did not connect within 30 s")
            await asyncio.sleep(0.02)

    async def play(self, seconds: float) -> float:
        """Play *seconds* of media, and return the process's CPU seconds per second of media."""
        cpu = time.process_time()
        for source in self.sources:
            source.play(seconds)
        async with asyncio.timeout(30 + 10 * seconds):
            for source in self.sources:
                await source.played.wait()
        await asyncio.sleep(SETTLE)
        return (time.process_time() - cpu) / seconds

    async def close(self) -> None:
        for source in self.sources:
            source.stop()
        await asyncio.gather(self.sending.close(), self.receiving.close())
        for sink in self._sinks:
            sink.cancel()

    async def _sink(self, track: aiortc.MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except aiortc.mediastreams.MediaStreamError:
                return
            self.decoded[track.kind] += 1
            self._on_decoded(track, frame)


def hold_bit_rate() -> None:
    """Keep encoders from following the estimate of the bandwidth, which differs in each call."""
    vpx = aiortc.codecs.vpx
    vpx.MIN_BITRATE = vpx.DEFAULT_BITRATE = vpx.MAX_BITRATE = BIT_RATE
