"""The shape of one track's frames without a key: sealed, in which layout, or never sealed at all.

One frame shows little. The first byte of every Opus packet reads as the header of an SFrame. One frame in 256 ends as a
trailer does. Several frames show much: IVs never repeat, counters advance, and encoders repeat themselves. None of this
is proof, since anybody can make these bytes. SFrame headers: RFC 9605 section 4.3; codecs: ``codecs/plain.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import Final

from frameseal.codecs import CodecRow, find
from frameseal.codecs.plain import Excerpt, most

TRAILER_LEN: Final = 14  # IV, its length, key index
IV_LEN: Final = 12
FOOTER_LEN: Final = 20  # counter, IV prefix, key index, clear length, version, marker
FOOTER_END: Final = bytes.fromhex("01e2eefeed")  # version and marker
TAG_LEN: Final = 16
MAX_HEADER_LEN: Final = 17  # the longest SFrame header
MIN_TAG_LEN: Final = 4

# The minimum number of frames for a verdict, and the maximum that are kept.
MIN_VERDICT_FRAMES: Final = 12
MAX_EXCERPTS: Final = 16

# The maximum number of frames that a sender seals between two received frames of a track. They are frames of its other
# tracks, and lost frames.
MAX_STEP: Final = 1 << 20


class Shape(Enum):
    """The shape of several frames."""

    TRAILER = "trailer"
    FOOTER = "footer"
    SFRAME = "sframe"
    PLAIN = "plain"
    UNKNOWN = "unknown"


def shape(seen: Sequence[Excerpt], codec: str | None) -> Shape:
    """Return the shape of frames. For fewer than `MIN_VERDICT_FRAMES` frames it is `Shape.UNKNOWN`.

    :param seen: frames of one track, in the order in which they arrived.
    :param codec: the codec of the track. None detects only sealed shapes.
    :raises ValueError: for an unknown codec.
    """
    of = find(codec) if codec else None
    if len(seen) < MIN_VERDICT_FRAMES:
        return Shape.UNKNOWN
    frames = [data for data, _ in seen]
    unit = of.plain_unit if of else None
    if unit and most([length > 0 and length % unit == 0 for _, length in seen]):
        return Shape.PLAIN
    if most([ends_in_footer(frame) for frame in frames]):
        return Shape.FOOTER
    if _end_in_trailers(frames):
        return Shape.TRAILER
    if _are_sframes(frames, of):
        return Shape.SFRAME
    return Shape.PLAIN if of and of.is_plain and of.is_plain(seen) else Shape.UNKNOWN


def ends_in_footer(frame: bytes) -> bool:
    """Return True if a frame ends as every frame of the footer layout does. Plain frames do so by chance never."""
    return len(frame) >= FOOTER_LEN and frame.endswith(FOOTER_END)


def without_escapes(front: bytes, run: bytes) -> bytes:
    """Return a run without its escapes: each 3 between two zeros and a byte of 3 or less. The zeros at the end of the
    bytes in *front* count.
    """
    out, zeros = bytearray(), len(front[-2:]) - len(front[-2:].rstrip(b"\0"))
    for at, byte in enumerate(run):
        if zeros >= 2 and byte == 3 and run[at + 1 : at + 2] and run[at + 1] <= 3:
            zeros = 0
            continue
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def sframe_header(frame: bytes, codec: CodecRow | None) -> tuple[int, int, int] | None:
    """Read KID, CTR and length of a frame's SFrame header, in the envelope of its codec.

    Returns None if the frame has no header.
    """
    front = codec.envelope_len if codec else 0
    # Two bytes may have become three by an escape.
    start = bytes(frame[front : front + MAX_HEADER_LEN * 3 // 2 + 1])
    return header(start.replace(b"\0\0\3", b"\0\0") if front else start)


def header(data: bytes) -> tuple[int, int, int] | None:
    """Return KID, CTR and length of an SFrame header. Returns None if it is not in its shortest form."""
    at, values = 1, []
    for bits in (data[0] >> 4, data[0] & 15) if data else ():
        if bits & 8:
            raw = data[at : at + (bits & 7) + 1]
            at += (bits & 7) + 1
            if at > len(data) or raw[0] == 0 or int.from_bytes(raw) < 8:
                return None
            values.append(int.from_bytes(raw))
        else:
            values.append(bits)
    return (values[0], values[1], at) if values else None


def _end_in_trailers(frames: Sequence[bytes]) -> bool:
    ivs = [frame[-TRAILER_LEN:-2] for frame in frames if len(frame) > TAG_LEN + TRAILER_LEN and frame[-2] == IV_LEN]
    # Bytes that repeat are no IV. (A repeated frame repeats its IV, but says nothing about the key.)
    return len(ivs) * 4 >= len(frames) * 3 and len(set(ivs)) == len(ivs)


def _are_sframes(frames: Sequence[bytes], codec: CodecRow | None) -> bool:
    """Return whether the frames are SFrames of one sender, whose counter advances."""
    if codec and codec.envelope_len and not most([f.startswith(b"\0\0\0\1") and f.endswith(b"\x80") for f in frames]):
        return False
    read = [sframe_header(frame, codec) for frame in frames]
    headers = [h for h, frame in zip(read, frames, strict=True) if h is not None and len(frame) >= h[2] + MIN_TAG_LEN]
    if not headers:
        return False
    kid = Counter(header[0] for header in headers).most_common(1)[0][0]
    counters = [header[1] for header in headers if header[0] == kid]
    breaks = sum(not 0 < after - before <= MAX_STEP for before, after in pairwise(counters))
    # The chance that 10 of 12 random counters advance is one in a million, and the same for 16 with one break.
    return len(counters) * 8 >= len(frames) * 7 and breaks <= len(frames) // MAX_EXCERPTS
