"""Measures the media that Bob, Eve and the forwarder decode; the forwarder tries to decode the sealed frames.

One rule holds for all three. A picture counts only if it has the number of a sent frame and resembles it.
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
    """Records pictures and sound from the decoders of one observer."""

    def __init__(self, sent: SentMedia) -> None:
        """Compare received media with *sent*."""
        self._sent = sent
        self.frames = 0  # number of decoded pictures
        self.right = 0  # number of decoded pictures that were sent
        self.numbers: set[int] = set()
        self.latest: Rgb | None = None
        self.kept: deque[tuple[int, Rgb]] = deque(maxlen=8)  # recognised pictures, for the poster
        self.sound: list[Samples] = []

    def see(self, frame: Any) -> None:
        """Record a decoded picture (av.VideoFrame)."""
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
        """Record decoded sound (av.AudioFrame)."""
        self.sound.append(mono(frame))

    def heard(self) -> Samples:
        """Return all recorded sound."""
        return np.concatenate(self.sound) if self.sound else np.zeros(0, dtype=np.int16)

    async def consume(self, track: MediaStreamTrack) -> None:
        """Record a remote track until it ends."""
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, av.VideoFrame):
                    self.see(frame)
                else:
                    self.hear(frame)


class Eavesdropper(Observer):
    """The operator of the forwarder: depacketises the forwarded frames and tries to decode them without a key."""

    def __init__(self, sent: SentMedia) -> None:
        """Make an eavesdropper without records."""
        super().__init__(sent)
        self.frames_tried = 0
        self.sounds_tried = 0
        self.bytes_seen = 0
        self.sealed: deque[bytes] = deque(maxlen=64)  # the latest video frames, sealed
        self._parts: list[bytes] = []
        self._decoders: dict[str, Decoder] = {}
        # One thread, since a decoder has state. Not the event loop, since decoding is slow.
        self._thread = ThreadPoolExecutor(1, "eavesdropper")

    def tap(self, forwarded: ForwardedPacket) -> None:
        """Accept a packet: the `on_packet` of the forwarder."""
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
        # Decoders raise various exceptions for ciphertext. Failure is the expected outcome.
        with contextlib.suppress(Exception):
            for frame in decoder.decode(encoded):
                if isinstance(frame, av.VideoFrame):
                    self.see(frame)
                else:
                    self.hear(frame)

    async def finish(self) -> None:
        """Return when all tapped frames have been decoded or have failed."""
        await asyncio.to_thread(self._thread.shutdown)
