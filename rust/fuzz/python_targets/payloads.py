"""Checks every function of the table of codecs on the payloads and frames of other people.

The first byte of an input chooses the codec, and the second the length of a payload. The others are the payloads.
"""

from contextlib import suppress
from itertools import pairwise

from frameseal._native import join_payloads, replace_frame
from frameseal.codecs import CODECS, plain, rtp

MAX_PAYLOAD = 1300
MAX_OPUS_TICKS = 63 * 2880  # an RTP payload may claim more than a packet of Opus may last


def check(data: bytes) -> bool:
    """Check that each function returns a value in its range. Return True for a keyframe."""
    if len(data) < 3:
        return False
    codec = list(CODECS.values())[data[0] % len(CODECS)]
    step, body = 1 + data[1] % 64, data[2:]
    payloads = [body[start : start + step] for start in range(0, len(body), step)]
    for payload in payloads:
        with suppress(IndexError):  # documented: the payload is truncated
            codec.begins_keyframe(payload)
    if codec.ticks:
        assert 0 <= codec.ticks(body) <= max(MAX_OPUS_TICKS, len(body))
        units = list(codec.access_units(payloads))
        assert b"".join(frame for _, frame in units) == body
        assert all(before[0] <= after[0] for before, after in pairwise(units))
    if codec.info["payload_format"]:
        with suppress(ValueError):  # documented: the payloads carry no frame
            _check_split(codec.name, payloads)
    clear = codec.clear_len(body) if codec.clear_len else None
    assert clear is None or 0 <= clear <= max(len(body), 10)
    if codec.plain_sign:
        codec.plain_sign(body)
    if codec.is_plain:
        codec.is_plain([plain.excerpt(payload) for payload in payloads])
    assert codec.as_file(body).endswith(body)
    assert codec.claimed_pixels(body) <= 0x3FFF**2
    assert all(0 <= header <= 255 for header in rtp.nal_headers(body))
    return codec.is_keyframe(body)


def _check_split(codec: str, payloads: list[bytes]) -> None:
    """Check that a frame that is split again adds up to itself.

    A NAL unit of H.264 with a start code in it becomes two units. Then the second splitting changes nothing.
    """
    frame = join_payloads(codec, payloads)
    again = replace_frame(codec, payloads, frame)
    assert all(len(payload) <= MAX_PAYLOAD for payload in again)
    if again:
        joined = join_payloads(codec, again)
        assert joined == frame or codec == "h264"
        assert join_payloads(codec, replace_frame(codec, payloads, joined)) == joined
