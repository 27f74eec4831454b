"""Recognises frames that were never sealed, by codec, and finds the clear bytes of sealed frames.

Only inspection uses this module, never the path of a frame. It is written from the formats, independently of the core,
and the tests compare both. Nothing here is proof, since anybody can forge these bytes.

Sources: RFC 6716, section 3 (Opus); RFC 6386, section 9.1 (VP8); the VP9 bitstream specification, section 6.2; ITU-T
H.264 and H.265, section 7.3.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from frameseal.codecs.rtp import opus_frame_ticks

# Bytes of a frame that an excerpt keeps, at each end.
EXCERPT_HEAD: Final = 1024
EXCERPT_TAIL: Final = 256

# 5 ms at 8 kHz. Sealing adds 30 bytes (trailer) or up to 33 bytes (SFrame), which is never a multiple of this number.
PCM_UNIT: Final = 40

# The maximum duration of a packet, 120 ms (RFC 6716, section 3.2.5).
_MAX_OPUS_TICKS: Final = 5760

START_CODE: Final = re.compile(rb"\x00\x00\x01")
_H264_SLICES: Final = frozenset({1, 5})
_H265_SLICES: Final = frozenset([*range(10), *range(16, 22)])


class Excerpt(NamedTuple):
    """The part of a frame that inspection keeps."""

    data: bytes
    """The head and the tail of the frame, or a whole short frame."""
    length: int
    """The length of the frame in bytes."""


def excerpt(frame: bytes) -> Excerpt:
    """Return the head and the tail of a frame, at most 1,280 bytes."""
    length = len(frame)
    if length > EXCERPT_HEAD + EXCERPT_TAIL:
        return Excerpt(frame[:EXCERPT_HEAD] + frame[-EXCERPT_TAIL:], length)
    return Excerpt(bytes(frame), length)


def most(fits: Sequence[bool]) -> bool:
    """Return True if at least seven in eight are True. Some frames have lost their head, or a server injected them."""
    return sum(fits) * 8 >= len(fits) * 7


def _repeat(values: Sequence[bytes]) -> bool:
    """Return True if the number of different values is at most one more than a quarter of the count."""
    return len(set(values)) <= len(values) // 4 + 1


# --- several frames of one track -------------------------------------------------------------------------------------


def is_opus(seen: Sequence[Excerpt]) -> bool:
    """Return True for packets of one Opus encoder, which has few modes and rarely changes them."""
    return most([_is_opus_packet(each.data) for each in seen]) and _repeat([each.data[:1] for each in seen])


def _is_opus_packet(packet: bytes) -> bool:
    """Return True if a packet has the framing of Opus (RFC 6716, section 3.4). The packet must be whole."""
    if not packet:
        return False
    code = packet[0] & 3
    if code == 1:
        return len(packet) % 2 == 1
    if code < 3:
        return code == 0 or len(packet) > 1
    count = packet[1] & 0x3F if len(packet) > 1 else 0
    return count > 0 and count * opus_frame_ticks(packet[0]) <= _MAX_OPUS_TICKS


def is_vp8(seen: Sequence[Excerpt]) -> bool:
    """Return True for frames that begin with a frame tag of VP8."""
    return most([_is_vp8_frame(*each) for each in seen])


def _is_vp8_frame(frame: bytes, length: int) -> bool:
    tag = int.from_bytes(frame[:3], "little")
    key_frame, version, first_partition = not tag & 1, tag >> 1 & 7, tag >> 5
    if version > 3 or not 0 < first_partition < length:
        return False
    return not key_frame or frame[3:6] == b"\x9d\x01\x2a"


def is_vp9(seen: Sequence[Excerpt]) -> bool:
    """Return True for frames that begin with the frame marker of VP9 and few combinations of profile and flags."""
    first = [each.data[:1] for each in seen]
    return most([b"\x80" <= byte < b"\xc0" for byte in first]) and _repeat(first)


def is_h264(seen: Sequence[Excerpt]) -> bool:
    """Return True for frames that begin with a NAL unit of H.264."""
    # The forbidden bit is clear, and the type is assigned and not for the parameters of a layer.
    return most([0 < _nal_header(each.data, 1) & 0x9F <= 12 for each in seen])


def is_h265(seen: Sequence[Excerpt]) -> bool:
    """Return True for frames that begin with a NAL unit of H.265."""
    # The forbidden bit is clear, the type is assigned, the layer is 0, and there is a temporal id.
    headers = [_nal_header(each.data, 2) for each in seen]
    return most([0 <= header < 41 << 9 and not header & 0x1F8 and header & 7 != 0 for header in headers])


def _nal_header(frame: bytes, size: int) -> int:
    """Return the header of the first NAL unit, or -1 if the frame does not begin with a unit."""
    start = frame.find(b"\0\0\1", 0, 4)
    unit = frame[start + 3 : start + 3 + size]
    return int.from_bytes(unit) if start >= 0 and not frame[:start].strip(b"\0") and len(unit) == size else -1


# --- one frame -------------------------------------------------------------------------------------------------------


def vp8_sign(frame: bytes) -> str | None:
    """Return the sign that a frame is unsealed VP8, in words, or None if there is no sign."""
    if len(frame) > 10 and not frame[0] & 1 and frame[3:6] == b"\x9d\x01\x2a" and frame[-2:-1] != b"\x0c":
        return "a VP8 key frame without a trailer"
    return None


def h264_sign(frame: bytes) -> str | None:
    """Return the sign that a frame is unsealed H.264, in words, or None if there is no sign.

    Only the first kilobyte is searched.
    """
    head = frame[:EXCERPT_HEAD]
    starts = [match.end() for match in START_CODE.finditer(head)]
    if len(starts) > 1 and frame[-2:-1] != b"\x0c" and head[: starts[0]].strip(b"\0") == b"\x01":
        slices = [at for at in starts if at < len(head) and head[at] & 0x1F in _H264_SLICES]
        if len(slices) > 1:
            return "a byte stream with several slices in the clear"
    return None


# --- clear bytes of a sealed frame -----------------------------------------------------------------------------------


def clear_audio(frame: bytes) -> int:
    """Return the number of clear bytes of an audio frame."""
    return 1


def clear_vp8(frame: bytes) -> int | None:
    """Return the number of clear bytes of a VP8 frame, or None if the frame is empty."""
    return (3 if frame[0] & 1 else 10) if frame else None


def clear_none(frame: bytes) -> int:
    """Return 0: a frame of the codec has no clear bytes."""
    return 0


def clear_h264(frame: bytes) -> int | None:
    """Return the number of clear bytes of an H.264 frame, or None if the frame has no slice."""
    return _clear_to_slice(frame, lambda header: header & 0x1F in _H264_SLICES)


def clear_h265(frame: bytes) -> int | None:
    """Return the number of clear bytes of an H.265 frame, or None if the frame has no slice."""
    return _clear_to_slice(frame, lambda header: header >> 1 & 0x3F in _H265_SLICES)


def _clear_to_slice(frame: bytes, is_slice: Callable[[int], bool]) -> int | None:
    for number, match in enumerate(START_CODE.finditer(frame)):
        at = match.end()
        if at >= len(frame) - 3 or (number == 0 and frame[: at - 3].strip(b"\0")):
            return None
        if is_slice(frame[at]):
            return at + 2
    return None
