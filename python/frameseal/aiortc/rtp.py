"""Encoded media as RTP payloads: the bounds of frames, the length of audio, and keyframes.

Pure functions of the hook that know no transport. Sources: Opus, RFC 6716 section 3.1 and RFC 7587; G.711 and G.722,
RFC 3551 section 4.5; VP8, RFC 6386 section 9.1 and RFC 7741 section 4.2; H.264, RFC 6184 and ITU-T H.264 section 7.3.1.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

# The ticks of 48 kHz that one Opus frame lasts, by the low bits of the TOC's config (RFC 6716 section 3.1, table 2).
_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)

# One octet is one tick of the 8 kHz RTP clock. G.722 samples at 16 kHz, but RFC 3551 section 4.5.2 keeps its clock at
# 8 kHz.
_OCTET_PER_TICK = frozenset({"pcmu", "pcma", "g722"})

# The maximum bytes of a G.711 or G.722 payload before sealing. libsrtp's Python binding refuses packets over 1500
# bytes, and the refusal ends the sender's task. The rest is for the trailer and for RTP header extensions.
_MAX_PCM_LEN = 1200

# The codecs whose RTP payload has no header of its own.
PAYLOAD_IS_FRAME = _OCTET_PER_TICK | {"opus"}

# The bit that is set in the first payload of a partition (RFC 7741 section 4.2).
_VP8_START_BIT = 0x10
_MAX_VP8_PAYLOAD_LEN = 1300  # the maximum that the stacks use

_H264_IDR = 5
_H264_SPS = 7

# The type of a payload that is a fragment, and the bits of its second octet (RFC 6184 section 5.8).
_FU_A, _FU_START, _FU_END = 28, 0x80, 0x40
_NO_END = "payloads end within a fragmented NAL unit of H264: pass all payloads of a picture, in order"
_NO_UNIT = "payloads have a fragment of H264 outside its NAL unit: pass all payloads of a picture, in order"


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
    """Yield the frames in the payloads of one encoder call, each with its offset in RTP clock ticks.

    A picture is one frame. An encoder returns audio of more than 20 ms as several packets, and each packet is a frame.
    A receiver would join packets of one timestamp and open none of them, so each frame has an offset of its own.

    :param codec: the lower-case name of the codec.
    :param payloads: the payloads without their RTP descriptors.
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
    """Check that the fragments of a picture form whole NAL units (RFC 6184 section 5.8).

    Without the check, an encoder's own unit of the fragment type would be joined to the unit before it.

    :raises ValueError: a fragment has no start, no end, or a start and an end.
    """
    following = None  # the unit type of an unfinished fragment
    for payload in payloads:
        if len(payload) < 2 or payload[0] & 0x1F != _FU_A:
            if following is not None:
                raise ValueError(_NO_END)
            continue
        begins, ends = payload[1] & _FU_START, payload[1] & _FU_END
        number = payload[1] & 0x1F
        if bool(begins) is (following is not None) or (begins and ends) or following not in (None, number):
            raise ValueError(_NO_UNIT)
        following = None if ends else number
    if following is not None:
        raise ValueError(_NO_END)


def vp8_descriptor(payloads: list[bytes]) -> bytes:
    """Return the descriptor of a picture's first payload if all payloads share it, except for its start bit.

    An empty result means that the descriptors differ. The caller then has to parse each payload.
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
    """Split a VP8 picture into payloads, given the descriptor of the first one."""
    following = bytes([descriptor[0] & ~_VP8_START_BIT]) + descriptor[1:]
    step = _MAX_VP8_PAYLOAD_LEN - len(descriptor)
    return [descriptor + picture[:step]] + [
        following + picture[start : start + step] for start in range(step, len(picture), step)
    ]


def opus_ticks(packet: bytes) -> int:
    """Return how long an Opus packet lasts, in ticks of 48 kHz. It is 0 for an empty packet."""
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
    """Return whether a decoder can start at this frame, which is opened and not empty.

    In H.264 a sequence parameter set counts too, because streams with periodic intra refresh have no IDR picture. For
    other codecs the result is True, so that no frame is withheld on a guess.
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
