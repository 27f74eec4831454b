"""Parses RTP payloads, by codec: where a frame begins, its duration, and whether it is a keyframe.

All functions are pure and know no transport. The table in ``codecs/__init__.py`` names them.

Sources: RFC 6716, section 3.1, and RFC 7587 (Opus); RFC 3551, section 4.5 (G.711, G.722); RFC 6386, section 9.1, and
RFC 7741, section 4.2 (VP8); RFC 6184 and ITU-T H.264, section 7.3.1 (H.264).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

# Durations of one Opus frame in ticks of 48 kHz (RFC 6716, section 3.1, table 2), by the low bits of the TOC config.
_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)

# Maximum length of a frame of G.711 or G.722, in bytes. libsrtp's Python binding refuses packets over 1500 bytes, and
# the refusal ends the sender's task. The rest is room for trailer and RTP header extensions.
MAX_PCM = 1200

# RFC 7741, section 4.2: S is set in the first payload of a partition. The low bits hold the partition's number.
VP8_START, VP8_START_AND_PARTITION = 0x10, 0x17

_H264_IDR = 5
_H264_SPS = 7

# The types of an aggregation payload (RFC 6184, section 5.7) and of a fragment (section 5.8). The bit marks the start
# of a unit in a fragment's second octet.
_STAP_A, _FU_A, _FU_START = 24, 28, 0x80


class MediaType(NamedTuple):
    """The two parts of a media type, in lower case."""

    kind: str
    """"audio" or "video"."""

    codec: str
    """The name of the codec, such as "vp8"."""


@lru_cache(maxsize=64)
def media_type(mime: str) -> MediaType:
    """Return the parts of a media type such as "video/VP8"."""
    kind, _, codec = mime.lower().partition("/")
    return MediaType(kind, codec)


# --- audio -----------------------------------------------------------------------------------------------------------


def opus_frame_ticks(toc: int) -> int:
    """Return the duration of one frame of an Opus packet in ticks of 48 kHz, from the packet's first byte."""
    config = toc >> 3
    if config < 12:
        return _SILK[config & 3]
    return _HYBRID[config & 1] if config < 16 else _CELT[config & 3]


def opus_ticks(packet: bytes) -> int:
    """Return the duration of an Opus packet in ticks of 48 kHz. It is 0 for an empty packet."""
    if not packet:
        return 0
    frame, code = opus_frame_ticks(packet[0]), packet[0] & 3
    if code == 0:
        return frame
    if code < 3:
        return 2 * frame
    return frame * (packet[1] & 0x3F) if len(packet) > 1 else 0


# --- VP8 -------------------------------------------------------------------------------------------------------------


def _vp8_descriptor_len(payload: bytes) -> int:
    length = 1
    if payload[0] & 0x80:  # X: extensions follow
        extensions = payload[1]
        length = 2 + bool(extensions & 0x40) + bool(extensions & 0x30)  # L; T or K
        if extensions & 0x80:  # I: a picture id, of 15 bits or of 7
            length += 2 if payload[2] & 0x80 else 1
    return length


def vp8_begins_frame(payload: bytes) -> bool:
    """Return True if a frame begins in this payload: S is set, and the partition is 0."""
    return payload[0] & VP8_START_AND_PARTITION == VP8_START


def vp8_begins_keyframe(payload: bytes) -> bool:
    """Return True if a keyframe begins in this payload.

    :raises IndexError: the payload is truncated.
    """
    return vp8_begins_frame(payload) and vp8_is_keyframe(payload[_vp8_descriptor_len(payload) :])


def vp8_is_keyframe(frame: bytes) -> bool:
    """Return True if a non-empty frame is a keyframe."""
    return not frame[0] & 1


def vp8_pixels(frame: bytes) -> int:
    """Return the number of pixels that a keyframe claims. It is 0 for any other frame."""
    if len(frame) < 10 or frame[0] & 1:
        return 0
    width, height = (int.from_bytes(frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width * height


# --- H.264 -----------------------------------------------------------------------------------------------------------


def h264_begins_keyframe(payload: bytes) -> bool:
    """Return True if a NAL unit that starts a keyframe begins in this payload.

    :raises IndexError: the payload is truncated.
    """
    return any(number in (_H264_IDR, _H264_SPS) for number in _h264_types(payload))


def _h264_types(payload: bytes) -> Iterator[int]:
    """Yield the types of the NAL units that begin in a payload (RFC 6184, sections 5.6 to 5.8)."""
    number = payload[0] & 0x1F
    if number == _STAP_A:  # each unit after its 16-bit size
        position = 1
        while position < len(payload):
            yield payload[position + 2] & 0x1F
            position += 2 + int.from_bytes(payload[position : position + 2], "big")
    elif number != _FU_A:
        yield number
    elif payload[1] & _FU_START:
        yield payload[1] & 0x1F


def nal_headers(frame: bytes) -> Iterator[int]:
    """Yield the first byte of each NAL unit in a byte stream (ITU-T H.264 and H.265, annex B)."""
    start = frame.find(b"\x00\x00\x01")
    while start != -1 and start + 3 < len(frame):
        yield frame[start + 3]
        start = frame.find(b"\x00\x00\x01", start + 3)


def h264_is_keyframe(frame: bytes) -> bool:
    """Return True if a decoder can start at this byte stream.

    A sequence parameter set counts as a start too: streams with periodic intra refresh have no IDR picture.
    """
    return any(header & 0x1F in (_H264_IDR, _H264_SPS) for header in nal_headers(frame))
