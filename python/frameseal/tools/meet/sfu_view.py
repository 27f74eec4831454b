"""The SFU's view of one participant: the sealed frames, and the output of a decoder without a key."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import av
from aiortc.codecs import depayload, get_decoder
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from PIL import Image

from frameseal.codecs import CODECS
from frameseal.inspection.readings import readings
from frameseal.tools.sfu import ForwardedPacket

SIZES = 48  # number of video frames whose sizes are shown; sealing does not hide sizes
PICTURE = (320, 180)  # width and height at which decoded pictures are shown
MAX_PENDING_FRAMES = 30  # frames that wait for the decoder; further frames are not decoded
SHOWN_BYTES = 24  # bytes of each part of a frame that are shown in hex
MAX_FRAME = 1024 * 1024  # bytes of an incomplete frame; a longer one is discarded
MAX_PIXELS = 4096 * 2304  # pixels of a decoded picture: ciphertext may claim any size
PIXELS = 64 * 36  # bytes of a frame that are shown as pixels


class FramePart(TypedDict):
    """One part of a sealed frame: bytes *start* to *end* (exclusive), the first `SHOWN_BYTES` of them in hex."""

    name: str
    start: int
    end: int
    hex: str


class SfuReport(TypedDict):
    """The report of `SfuView` to the page."""

    frames: dict[str, int]
    """The number of frames by kind, "audio" and "video"."""
    bytes: dict[str, int]
    """The bytes of payload by kind."""
    sizes: list[int]
    """The sizes of the latest video frames in bytes."""
    tried: int
    """The number of video frames that were passed to the decoder."""
    pictures: int
    """The number of pictures that the decoder returned."""
    parts: list[FramePart]
    """The parts of the latest video frame."""
    sealed: str
    """The first bytes of the latest video frame in base64."""
    picture: str | None
    """The latest decoded picture as JPEG in base64. None means that the decoder returned none."""


class SfuView:
    """Observes the packets in the forwarder, which has no key. To save CPU, it decodes only while somebody watches."""

    def __init__(self) -> None:
        """Make a view without frames."""
        self.frames: Counter[str] = Counter()  # by kind
        self.octets: Counter[str] = Counter()
        self.tried = 0
        self.pictures = 0  # decoded pictures; of ciphertext they show noise
        self.watched = False
        self._sizes: deque[int] = deque(maxlen=SIZES)
        self._parts: list[bytes] = []
        self._size = 0  # bytes of the parts
        self._sealed = b""
        self._codec = "vp8"
        self._decoder: Decoder | None = None
        self._picture: Any = None
        self._waiting = threading.Semaphore(MAX_PENDING_FRAMES)
        # One thread, since a decoder has state. Not the event loop, since decoding is slow.
        self._thread = ThreadPoolExecutor(1, "sfu_view")

    def tap(self, forwarded: ForwardedPacket) -> None:
        """Accept a packet: the `on_packet` of the forwarder."""
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

    def report(self) -> SfuReport:
        """Return the counts, the latest video frame and the latest decoded picture, ready for JSON."""
        found = readings(self._sealed, self._codec) if self._sealed and self._codec in CODECS else []
        parts: list[FramePart] = [
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
        """Stop decoding."""
        self.watched = False
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _decode(self, forwarded: ForwardedPacket, frame: bytes) -> None:
        self._waiting.release()
        self.tried += 1
        # Decoders raise various exceptions for ciphertext. Failure is the expected outcome.
        with contextlib.suppress(Exception):
            if claimed_pixels(self._codec, frame) > MAX_PIXELS:
                return
            if self._decoder is None:
                self._decoder = get_decoder(forwarded.codec)
                with contextlib.suppress(AttributeError, KeyError):  # a decoder that is not FFmpeg's
                    vars(self._decoder)["codec"].options = {"max_pixels": str(MAX_PIXELS)}
            encoded = JitterFrame(data=frame, timestamp=forwarded.packet.timestamp)
            for picture in self._decoder.decode(encoded):
                self.pictures += 1
                self._picture = picture


def claimed_pixels(codec: str, frame: bytes) -> int:
    """Return the number of pixels that a frame claims. 0 means that the frame does not contain it."""
    known = CODECS.get(codec)
    return known.claimed_pixels(frame) if known else 0


def _jpeg(picture: Any) -> str | None:
    if not isinstance(picture, av.VideoFrame):
        return None
    # A fixed size, since ciphertext may claim any.
    small = picture.reformat(width=PICTURE[0], height=PICTURE[1], format="rgb24")
    file = io.BytesIO()
    Image.fromarray(small.to_ndarray()).save(file, format="JPEG", quality=55)
    return base64.b64encode(file.getvalue()).decode()
