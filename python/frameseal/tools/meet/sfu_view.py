"""What the SFU sees of one participant: the frames as they pass, and what a decoder makes of them without a key."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
from aiortc.codecs import depayload, get_decoder
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from PIL import Image

from frameseal.codecs import CODECS
from frameseal.inspection.readings import readings
from frameseal.tools.sfu import ForwardedPacket

SIZES = 48  # of the latest video frames: sealing hides no size
PICTURE = (320, 180)  # what came out of the decoder is shown at most this large
MAX_PENDING_FRAMES = 30  # frames that wait for the decoder; beyond that they are not tried
SHOWN_BYTES = 24  # of each part of a frame, in hex
MAX_FRAME = 1024 * 1024  # bytes of a frame whose end does not come; beyond that it is let go
MAX_PIXELS = 4096 * 2304  # of a picture that is decoded: ciphertext, or a visitor, may claim any size
PIXELS = 64 * 36  # bytes of the frame that are shown as pixels


class SfuView:
    """Sits in the forwarder, which has no key. It decodes only while somebody watches: that costs a processor."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.frames: Counter[str] = Counter()  # by kind
        self.octets: Counter[str] = Counter()
        self.tried = 0
        self.pictures = 0  # that came out of the decoder: of ciphertext, noise
        self.watched = False
        self._sizes: deque[int] = deque(maxlen=SIZES)
        self._parts: list[bytes] = []
        self._size = 0  # bytes of the parts
        self._sealed = b""
        self._codec = "vp8"
        self._decoder: Decoder | None = None
        self._picture: Any = None
        self._waiting = threading.Semaphore(MAX_PENDING_FRAMES)
        # One thread, for a decoder has state, and not the event loop, for decoding takes its time.
        self._thread = ThreadPoolExecutor(1, "sfu_view")

    def tap(self, forwarded: ForwardedPacket) -> None:
        """Take a packet from the forwarder; its `on_packet`."""
        if forwarded.retransmission:
            return
        self.octets[forwarded.kind] += len(forwarded.payload)
        if forwarded.kind == "audio":
            self.frames["audio"] += 1
            return
        with contextlib.suppress(ValueError):
            part = depayload(forwarded.codec, forwarded.payload)
            self._size += len(part)
            self._parts.append(part)
        if self._size > MAX_FRAME or len(self._parts) > MAX_FRAME // 64:
            self._parts.clear()
            self._size = 0
        if forwarded.packet.marker:
            self._sealed = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._codec = forwarded.codec.name.lower()
            self.frames["video"] += 1
            self._sizes.append(len(self._sealed))
            if self.watched and self._waiting.acquire(blocking=False):
                self._thread.submit(self._decode, forwarded, self._sealed)

    def report(self) -> dict[str, Any]:
        """Say what was seen, as JSON.

        Counts and sizes; the latest video frame, in parts and as it is (base64); and what came out of the decoder, if
        anything did (a JPEG, base64).
        """
        found = readings(self._sealed, self._codec) if self._sealed and self._codec in CODECS else []
        parts = [
            {"name": part.name, "start": part.start, "end": part.end, "hex": part.data[:SHOWN_BYTES].hex()}
            for part in (found[0].parts if found else ())
        ]
        return {
            "frames": dict(self.frames),
            "bytes": dict(self.octets),
            "sizes": list(self._sizes),
            "tried": self.tried,
            "pictures": self.pictures,
            "parts": parts,
            "sealed": base64.b64encode(self._sealed[:PIXELS]).decode(),
            "picture": _jpeg(self._picture),
        }

    def close(self) -> None:
        """Try no more frames."""
        self.watched = False
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _decode(self, forwarded: ForwardedPacket, frame: bytes) -> None:
        self._waiting.release()
        self.tried += 1
        # Decoders of ciphertext fail in many ways; that they fail is the point.
        with contextlib.suppress(Exception):
            if claimed_pixels(self._codec, frame) > MAX_PIXELS:
                return
            if self._decoder is None:
                self._decoder = get_decoder(forwarded.codec)
                with contextlib.suppress(AttributeError, KeyError):  # one that is not FFmpeg's
                    vars(self._decoder)["codec"].options = {"max_pixels": str(MAX_PIXELS)}
            encoded = JitterFrame(data=frame, timestamp=forwarded.packet.timestamp)
            for picture in self._decoder.decode(encoded):
                self.pictures += 1
                self._picture = picture


def claimed_pixels(codec: str, frame: bytes) -> int:
    """Return how many pixels a frame claims to have; 0 if it does not tell."""
    known = CODECS.get(codec)
    return known.claimed_pixels(frame) if known else 0


def _jpeg(picture: Any) -> str | None:
    if not isinstance(picture, av.VideoFrame):
        return None
    # Ciphertext may claim any size.
    small = picture.reformat(width=PICTURE[0], height=PICTURE[1], format="rgb24")
    file = io.BytesIO()
    Image.fromarray(small.to_ndarray()).save(file, format="JPEG", quality=55)
    return base64.b64encode(file.getvalue()).decode()
