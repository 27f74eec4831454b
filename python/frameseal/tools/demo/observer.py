"""What somebody made of the call: Bob, Eve, and the forwarder, which tries to decode what it forwards.

All three are measured alike: a picture counts only if it bears the number of a frame that was sent and looks like it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.codecs import depayload, get_decoder
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError

from frameseal.tools.demo.picture import Rgb, difference, read_number, thumbnail
from frameseal.tools.demo.published import KEEP_EVERY, SentMedia
from frameseal.tools.media import Samples, mono
from frameseal.tools.sfu import ForwardedPacket

# Mean absolute difference of thumbnails, 0 to 255. VP8 and H.264 at their starting bit rates stay below 6.
MAX_DIFFERENCE = 14.0


class Observer:
    """Frames and sound that came out of somebody's decoders."""

    def __init__(self, sent: SentMedia) -> None:
        """Compare with what was sent."""
        self._sent = sent
        self.frames = 0  # pictures that came out of the decoder
        self.right = 0  # of these, the ones that were sent
        self.numbers: set[int] = set()
        self.latest: Rgb | None = None
        self.kept: deque[tuple[int, Rgb]] = deque(maxlen=8)  # right pictures, for the poster
        self.sound: list[Samples] = []

    def see(self, frame: Any) -> None:
        """Look at a decoded picture (av.VideoFrame)."""
        self.frames += 1
        rgb = frame.to_ndarray(format="rgb24")
        self.latest = rgb
        number = read_number(rgb)
        reference = self._sent.thumbnails.get(number) if number is not None else None
        if number is None or reference is None:
            return
        if difference(thumbnail(rgb), reference) < MAX_DIFFERENCE:
            self.right += 1
            self.numbers.add(number)
            if number % KEEP_EVERY == 0:
                self.kept.append((number, rgb))

    def hear(self, frame: Any) -> None:
        """Listen to decoded sound (av.AudioFrame)."""
        self.sound.append(mono(frame))

    def heard(self) -> Samples:
        """All of the sound."""
        return np.concatenate(self.sound) if self.sound else np.zeros(0, dtype=np.int16)

    async def consume(self, track: MediaStreamTrack) -> None:
        """Watch a remote track, or listen to it, until it ends."""
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, av.VideoFrame):
                    self.see(frame)
                else:
                    self.hear(frame)


class Eavesdropper(Observer):
    """The forwarder's operator: puts the forwarded packets together again and gives them to decoders, without a key."""

    def __init__(self, sent: SentMedia) -> None:
        """Start with nothing seen."""
        super().__init__(sent)
        self.frames_tried = 0
        self.sounds_tried = 0
        self.bytes_seen = 0
        self.sealed: deque[bytes] = deque(maxlen=64)  # the latest video frames as they travel
        self._parts: list[bytes] = []
        self._decoders: dict[str, Decoder] = {}
        # One thread, for a decoder has state, and not the event loop, for decoding takes its time.
        self._thread = ThreadPoolExecutor(1, "eavesdropper")

    def tap(self, forwarded: ForwardedPacket) -> None:
        """Take a packet from the forwarder; its `on_packet`."""
        if forwarded.retransmission:
            return
        self.bytes_seen += len(forwarded.payload)
        try:
            part = depayload(forwarded.codec, forwarded.payload)
        except ValueError:
            return
        if forwarded.kind == "audio":
            self.sounds_tried += 1
            self._submit(forwarded, part)
            return
        self._parts.append(part)
        if forwarded.packet.marker:
            frame = b"".join(self._parts)
            self._parts.clear()
            self.frames_tried += 1
            self.sealed.append(frame)
            self._submit(forwarded, frame)

    def _submit(self, forwarded: ForwardedPacket, frame: bytes) -> None:
        self._thread.submit(self._decode, forwarded, JitterFrame(data=frame, timestamp=forwarded.packet.timestamp))

    def _decode(self, forwarded: ForwardedPacket, encoded: JitterFrame) -> None:
        decoder = self._decoders.get(forwarded.kind)
        if decoder is None:
            decoder = self._decoders[forwarded.kind] = get_decoder(forwarded.codec)
        # Decoders of ciphertext fail in many ways; that they fail is the point.
        with contextlib.suppress(Exception):
            for frame in decoder.decode(encoded):
                if isinstance(frame, av.VideoFrame):
                    self.see(frame)
                else:
                    self.hear(frame)

    async def finish(self) -> None:
        """Return when all_sound that was tapped has been tried."""
        await asyncio.to_thread(self._thread.shutdown)
