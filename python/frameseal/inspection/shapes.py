"""The shape of several frames of one track, recognised without a key: sealed, in which layout, or never sealed at all.

One frame tells little: the first byte of every Opus packet reads as an SFrame header, and one frame in 256 ends like a
trailer. Several frames tell much: IVs never repeat, counters advance, and encoders repeat themselves. None of this is
proof, since anybody can make such bytes. Formats: RFC 6716 section 3 (Opus), RFC 6386 section 9.1 (VP8), the VP9
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
MAX_HEADER_LEN: Final = 17  # the longest SFrame header
MIN_TAG_LEN: Final = 4
ENVELOPE: Final = {"h264": 5, "h265": 6}  # start code and NAL header in front of an SFrame

# The bytes at both ends of a frame that are examined.
EXCERPT_HEAD: Final = 1024
EXCERPT_TAIL: Final = 256

# The minimum of frames for a verdict, and the maximum that is kept.
MIN_VERDICT_FRAMES: Final = 12
MAX_EXCERPTS: Final = 16

# The maximum advance of the counter between two frames: the sender's other tracks use it too, and frames are lost.
MAX_STEP: Final = 1 << 20

_PCM: Final = frozenset({"pcmu", "pcma", "g722"})
# 5 ms at 8 kHz. Sealing adds 30 bytes (trailer) or up to 33 (SFrame), never a multiple of 40.
_PCM_UNIT: Final = 40
# Duration of an Opus frame in tenths of a millisecond, by the config of its TOC byte (RFC 6716 section 3.1, table 2).
_OPUS_TENTHS: Final = (*(100, 200, 400, 600) * 3, *(100, 200) * 2, *(25, 50, 100, 200) * 4)
_MAX_OPUS_TENTHS: Final = 1200


class Shape(Enum):
    """The shape of several frames."""

    TRAILER = "trailer"
    SFRAME = "sframe"
    PLAIN = "plain"
    UNKNOWN = "unknown"


class Excerpt(NamedTuple):
    """The excerpt of a frame that is kept."""

    data: bytes
    """The head and the tail of the frame, or a short frame as a whole."""
    length: int
    """The length of the whole frame, in bytes."""


def excerpt(frame: bytes) -> Excerpt:
    """Return the head and the tail of a frame, at most 1,280 bytes."""
    length = len(frame)
    if length > EXCERPT_HEAD + EXCERPT_TAIL:
        return Excerpt(frame[:EXCERPT_HEAD] + frame[-EXCERPT_TAIL:], length)
    return Excerpt(bytes(frame), length)


def shape(seen: Sequence[Excerpt], codec: str | None) -> Shape:
    """Return the shape of several frames. For fewer than `MIN_VERDICT_FRAMES` it is `Shape.UNKNOWN`.

    :param seen: frames of one track, in order of arrival.
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
    """Return KID, CTR and length of a frame's SFrame header, in the envelope of its codec. Returns None without one."""
    front = ENVELOPE.get(codec or "", 0)
    # An escape may have turned two bytes into three.
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


def _most(fits: Sequence[bool]) -> bool:
    """Return whether seven in eight fit: a frame may have lost its head, or may be a server's."""
    return sum(fits) * 8 >= len(fits) * 7


def _repeat(values: Sequence[bytes]) -> bool:
    """Return whether the values repeat: at most a quarter of them, and one, are distinct."""
    return len(set(values)) <= len(values) // 4 + 1


def _end_in_trailers(frames: Sequence[bytes]) -> bool:
    ivs = [frame[-TRAILER_LEN:-2] for frame in frames if len(frame) > TAG_LEN + TRAILER_LEN and frame[-2] == IV_LEN]
    # An IV never repeats. (It does in a repeated frame, but such a frame tells nothing about the key.)
    return len(ivs) * 4 >= len(frames) * 3 and len(set(ivs)) == len(ivs)


def _count_on(frames: Sequence[bytes], codec: str | None) -> bool:
    """Return whether the frames are SFrames of one sender, whose counter advances."""
    if codec in ENVELOPE and not _most([f.startswith(b"\0\0\0\1") and f.endswith(b"\x80") for f in frames]):
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


def _is_opus(seen: Sequence[Excerpt]) -> bool:
    # An encoder has few modes, and rarely changes them.
    return _most([_is_opus_packet(each.data) for each in seen]) and _repeat([each.data[:1] for each in seen])


def _is_opus_packet(packet: bytes) -> bool:
    """Return whether a packet has the framing of Opus (RFC 6716 section 3.4). The packet must fit into an excerpt."""
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
    # The frame marker, followed by few combinations of profile and flags.
    first = [each.data[:1] for each in seen]
    return _most([b"\x80" <= byte < b"\xc0" for byte in first]) and _repeat(first)


def _is_h264(seen: Sequence[Excerpt]) -> bool:
    # The forbidden bit is clear, and the type is assigned and belongs to no layer extension.
    return _most([0 < _nal_header(each.data, 1) & 0x9F <= 12 for each in seen])


def _is_h265(seen: Sequence[Excerpt]) -> bool:
    # The forbidden bit is clear, the type is assigned, the layer is 0, and there is a temporal id.
    headers = [_nal_header(each.data, 2) for each in seen]
    return _most([0 <= header < 41 << 9 and not header & 0x1F8 and header & 7 != 0 for header in headers])


def _nal_header(frame: bytes, size: int) -> int:
    """Return the header of the first NAL unit. Returns -1 if the frame does not begin with one."""
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
