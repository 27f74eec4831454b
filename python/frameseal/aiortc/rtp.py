"""Bytes of encoded media as an RTP stack deals them out: what is one frame, how long is it, is it a keyframe.

Pure helpers of the hook in ``aiortc.py``; they know no transport. Opus: RFC 6716 section 3.1 and RFC 7587;
G.711 and G.722: RFC 3551 section 4.5; VP8: RFC 6386 section 9.1 and RFC 7741 section 4.2; H.264: ITU-T H.264 section
7.3.1.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

# RFC 6716 section 3.1, table 2: ticks of 48 kHz that one Opus frame lasts, by the low bits of the TOC's config.
_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)

# One octet is one tick of the 8 kHz RTP clock: G.711 by nature, G.722 because RFC 3551 section 4.5.2 keeps
# its clock at 8 kHz although it samples at 16 kHz.
_OCTET_PER_TICK = frozenset({"pcmu", "pcma", "g722"})

# Such a packet is cut here. libsrtp's Python binding refuses packets over 1500 bytes and the refusal ends the
# sender's task, so a frame that just fitted must still fit with its trailer and RTP header extensions.
_MAX_PCM_LEN = 1200

# RTP adds no header of its own to these.
PAYLOAD_IS_FRAME = _OCTET_PER_TICK | {"opus"}

# RFC 7741 section 4.2: set in the first payload of a partition.
_VP8_START_BIT = 0x10
_MAX_VP8_PAYLOAD_LEN = 1300  # as the stacks have it: see libsrtp, above

_H264_IDR = 5
_H264_SPS = 7

# RFC 6184 section 5.8: the type of a payload that is a fragment, and the bits of its second octet.
_FU_A, _FU_START, _FU_END = 28, 0x80, 0x40


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


def access_units(codec: str, payloads: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """The frames that an encoder's payloads for one call add up to, each with its offset in RTP clock ticks.

    A picture is one frame. Audio of more than 20 ms comes as several packets, each a frame that stands by
    itself; under one timestamp a receiver would join them and open none, so each gets its own.

    ``codec`` is the lower-case last part of the mime type; ``payloads`` are already free of RTP descriptors.
    """
    offset = 0
    if codec in _OCTET_PER_TICK:
        for payload in payloads:
            for start in range(0, len(payload), _MAX_PCM_LEN):
                yield offset + start, payload[start : start + _MAX_PCM_LEN]
            offset += len(payload)
    elif codec == "opus":
        for payload in payloads:
            yield offset, payload
            offset += opus_ticks(payload)
    else:
        yield 0, b"".join(payloads)


def check_h264_payloads(payloads: list[bytes]) -> None:
    """Raise ValueError unless fragments add up to whole NAL units (RFC 6184 section 5.8).

    An encoder's own unit of a type that RTP has for fragments would otherwise be joined to the unit before it.
    """
    following = None  # the second octet of a fragment that goes on
    for payload in payloads:
        if len(payload) < 2 or payload[0] & 0x1F != _FU_A:
            if following is not None:
                raise ValueError("a fragmented NAL unit of H264 has no end: pass all payloads of a picture, in order")
            continue
        begins, ends = payload[1] & _FU_START, payload[1] & _FU_END
        number = payload[1] & 0x1F
        if bool(begins) is (following is not None) or (begins and ends) or following not in (None, number):
            raise ValueError("a fragment of H264 belongs to no NAL unit: pass all payloads of a picture, in order")
        following = None if ends else number
    if following is not None:
        raise ValueError("a fragmented NAL unit of H264 has no end: pass all payloads of a picture, in order")


def vp8_descriptor(payloads: list[bytes]) -> bytes:
    """Return the descriptor of a picture's first payload, if that of all others only differs in not being the first.

    Empty if it does not: then the pieces of the picture have to be told apart one by one.
    """
    first = payloads[0]
    length = 1
    if first[0] & 0x80:  # X: there are extensions
        extensions = first[1]
        length = 2 + bool(extensions & 0x40) + bool(extensions & 0x30)  # L; T or K
        if extensions & 0x80:  # I: a picture id, of 15 bits or of 7
            length += 2 if first[2] & 0x80 else 1
    head, rest = first[0] | _VP8_START_BIT, first[1:length]
    for payload in payloads:
        if payload[0] | _VP8_START_BIT != head or payload[1:length] != rest:
            return b""
    return first[:length]


def vp8_payloads(descriptor: bytes, picture: bytes) -> list[bytes]:
    """Deal out a picture of VP8, given the descriptor of its first payload."""
    following = bytes([descriptor[0] & ~_VP8_START_BIT]) + descriptor[1:]
    step = _MAX_VP8_PAYLOAD_LEN - len(descriptor)
    return [descriptor + picture[:step]] + [
        following + picture[start : start + step] for start in range(step, len(picture), step)
    ]


def opus_ticks(packet: bytes) -> int:
    """How long an Opus packet lasts, in ticks of 48 kHz; 0 for an empty one."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = _SILK[config & 3]
    elif config < 16:
        frame = _HYBRID[config & 1]
    else:
        frame = _CELT[config & 3]
    if code == 0:
        return frame
    if code < 3:
        return 2 * frame
    return frame * (packet[1] & 0x3F) if len(packet) > 1 else 0


def is_keyframe(codec: str, frame: bytes) -> bool:
    """Whether a decoder can start at this (opened, non-empty) frame.

    H.264 counts a sequence parameter set as a start too: streams with periodic intra refresh have no IDR picture.
    For codecs that are not known here the answer is yes, so that nothing is withheld on a guess.
    """
    if codec == "vp8":
        return not frame[0] & 1
    if codec == "h264":
        start = frame.find(b"\x00\x00\x01")
        while start != -1 and start + 3 < len(frame):
            if frame[start + 3] & 0x1F in (_H264_IDR, _H264_SPS):
                return True
            start = frame.find(b"\x00\x00\x01", start + 3)
        return False
    return True
