"""What frames of one track look like without a key: sealed, in which layout, or never sealed at all.

One frame tells little: the first byte of every Opus packet reads as the header of an SFrame, and one frame in 256 ends
as a trailer does. Several tell much: IVs never repeat, counters advance, and encoders repeat themselves. Nothing of it
is proof, since anybody can make such bytes. Formats: RFC 6716 section 3 (Opus), RFC 6386 section 9.1 (VP8), the VP9
bitstream specification section 6.2, ITU-T H.264 and H.265 section 7.3.1, RFC 9605 section 4.3 (SFrame).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final, NamedTuple

TRAILER_LEN: Final = 14  # IV, its length, key index
IV_LEN: Final = 12
TAG_LEN: Final = 16
MAX_HEADER_LEN: Final = 17  # of an SFrame
MIN_TAG_LEN: Final = 4
ENVELOPE: Final = {"h264": 5, "h265": 6}  # start code and NAL header in front of an SFrame

# Of a frame, these bytes at both ends are looked at.
EXCERPT_HEAD: Final = 1024
EXCERPT_TAIL: Final = 256

# From so many frames on there is a verdict; no more than these are kept.
MIN_VERDICT_FRAMES: Final = 12
MAX_EXCERPTS: Final = 16

# Frames that one sender has sealed between two of a track: of its other tracks, and lost ones.
MAX_STEP: Final = 1 << 20

_PCM: Final = frozenset({"pcmu", "pcma", "g722"})
# 5 ms of 8 kHz. What sealing adds, 30 bytes of a trailer or up to 33 of an SFrame, is never a multiple of it.
_PCM_UNIT: Final = 40
# RFC 6716 section 3.1, table 2: tenths of a millisecond that an Opus frame lasts, by the TOC's config.
_OPUS_TENTHS: Final = (*(100, 200, 400, 600) * 3, *(100, 200) * 2, *(25, 50, 100, 200) * 4)
_MAX_OPUS_TENTHS: Final = 1200


class Shape(Enum):
    """What several frames look like."""

    TRAILER = "trailer"
    SFRAME = "sframe"
    PLAIN = "plain"
    UNKNOWN = "unknown"


class Excerpt(NamedTuple):
    """What is kept of a frame."""

    data: bytes
    """Its head and its tail: the whole of a short one."""
    length: int
    """How long it is."""


def excerpt(frame: bytes) -> Excerpt:
    """Return the head and the tail of a frame, 1,280 bytes at the most."""
    length = len(frame)
    if length > EXCERPT_HEAD + EXCERPT_TAIL:
        return Excerpt(frame[:EXCERPT_HEAD] + frame[-EXCERPT_TAIL:], length)
    return Excerpt(bytes(frame), length)


def shape(seen: Sequence[Excerpt], codec: str | None) -> Shape:
    """Return what frames look like. Of fewer than `MIN_VERDICT_FRAMES` it is `Shape.UNKNOWN`.

    :param seen: frames of one track, in the order in which they came.
    """
    if len(seen) < MIN_VERDICT_FRAMES:
        return Shape.UNKNOWN
    frames = [data for data, _ in seen]
    if codec in _PCM and _most([length > 0 and length % _PCM_UNIT == 0 for _, length in seen]):
        return Shape.PLAIN
    if _end_in_trailers(frames):
        return Shape.TRAILER
    if _count_on(frames, codec):
        return Shape.SFRAME
    is_plain = _PLAIN.get(codec or "")
    return Shape.PLAIN if is_plain is not None and is_plain(seen) else Shape.UNKNOWN


def sframe_header(frame: bytes, codec: str | None) -> tuple[int, int, int] | None:
    """Read KID, CTR and length of a frame's SFrame header, in the envelope of its codec; None if it has none."""
    front = ENVELOPE.get(codec or "", 0)
    # Two bytes may have become three by an escape.
    start = bytes(frame[front : front + MAX_HEADER_LEN * 3 // 2 + 1])
    return header(start.replace(b"\0\0\3", b"\0\0") if front else start)


def header(data: bytes) -> tuple[int, int, int] | None:
    """Read KID, CTR and length of an SFrame header; None if it is not in its shortest form."""
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


def _most(fits: Sequence[bool]) -> bool:
    """Whether seven in eight fit: one in a while may have lost its head, or be a server's."""
    return sum(fits) * 8 >= len(fits) * 7


def _repeat(values: Sequence[bytes]) -> bool:
    """Whether these have few values: a quarter as many as there are, and one."""
    return len(set(values)) <= len(values) // 4 + 1


def _end_in_trailers(frames: Sequence[bytes]) -> bool:
    ivs = [frame[-TRAILER_LEN:-2] for frame in frames if len(frame) > TAG_LEN + TRAILER_LEN and frame[-2] == IV_LEN]
    # An IV that repeats is none. (That of a frame which is repeated is one, but it says nothing about the key.)
    return len(ivs) * 4 >= len(frames) * 3 and len(set(ivs)) == len(ivs)


def _count_on(frames: Sequence[bytes], codec: str | None) -> bool:
    """Whether the frames are SFrames of one sender, whose counter advances."""
    if codec in ENVELOPE and not _most([f.startswith(b"\0\0\0\1") and f.endswith(b"\x80") for f in frames]):
        return False
    read = [sframe_header(frame, codec) for frame in frames]
    headers = [h for h, frame in zip(read, frames, strict=True) if h is not None and len(frame) >= h[2] + MIN_TAG_LEN]
    if not headers:
        return False
    kid = Counter(header[0] for header in headers).most_common(1)[0][0]
    counters = [header[1] for header in headers if header[0] == kid]
    breaks = sum(not 0 < after - before <= MAX_STEP for before, after in pairwise(counters))
    # By chance 10 of 12 counters advance once in a million times, and 16 with one break as seldom.
    return len(counters) * 8 >= len(frames) * 7 and breaks <= len(frames) // MAX_EXCERPTS


def _is_opus(seen: Sequence[Excerpt]) -> bool:
    # An encoder has few modes, and changes them seldom.
    return _most([_is_opus_packet(each.data) for each in seen]) and _repeat([each.data[:1] for each in seen])


def _is_opus_packet(packet: bytes) -> bool:
    """Whether the framing is Opus's (RFC 6716 section 3.4), of packets that are not longer than an excerpt."""
    if not packet:
        return False
    code = packet[0] & 3
    if code == 1:
        return len(packet) % 2 == 1
    if code < 3:
        return code == 0 or len(packet) > 1
    count = packet[1] & 0x3F if len(packet) > 1 else 0
    return count > 0 and count * _OPUS_TENTHS[packet[0] >> 3] <= _MAX_OPUS_TENTHS


def _is_vp8(seen: Sequence[Excerpt]) -> bool:
    return _most([_is_vp8_frame(*each) for each in seen])


def _is_vp8_frame(frame: bytes, length: int) -> bool:
    tag = int.from_bytes(frame[:3], "little")
    key_frame, version, first_partition = not tag & 1, tag >> 1 & 7, tag >> 5
    if version > 3 or not 0 < first_partition < length:
        return False
    return not key_frame or frame[3:6] == b"\x9d\x01\x2a"


def _is_vp9(seen: Sequence[Excerpt]) -> bool:
    # The frame marker, and few combinations of profile and flags behind it.
    first = [each.data[:1] for each in seen]
    return _most([b"\x80" <= byte < b"\xc0" for byte in first]) and _repeat(first)


def _is_h264(seen: Sequence[Excerpt]) -> bool:
    # No forbidden bit, and a type that is assigned and no parameter of a layer.
    return _most([0 < _nal_header(each.data, 1) & 0x9F <= 12 for each in seen])


def _is_h265(seen: Sequence[Excerpt]) -> bool:
    # No forbidden bit, a type that is assigned, layer 0, a temporal id.
    headers = [_nal_header(each.data, 2) for each in seen]
    return _most([0 <= header < 41 << 9 and not header & 0x1F8 and header & 7 != 0 for header in headers])


def _nal_header(frame: bytes, size: int) -> int:
    """Read the header of the first NAL unit; -1 if the frame does not begin with one."""
    start = frame.find(b"\0\0\1", 0, 4)
    unit = frame[start + 3 : start + 3 + size]
    return int.from_bytes(unit) if start >= 0 and not frame[:start].strip(b"\0") and len(unit) == size else -1


_PLAIN: Final[dict[str, Callable[[Sequence[Excerpt]], bool]]] = {
    "opus": _is_opus,
    "vp8": _is_vp8,
    "vp9": _is_vp9,
    "h264": _is_h264,
    "h265": _is_h265,
}
