"""RTP payloads, by codec: the length of audio, keyframes."""

import pytest

from frameseal.codecs import CODECS
from frameseal.codecs.rtp import MediaType, media_type, opus_ticks

VP8_KEY, VP8_DELTA = b"\x10key", b"\x11delta"


def test_a_media_type_is_read_in_lower_case():
    assert media_type("video/VP8") == MediaType("video", "vp8")
    assert media_type("audio/opus").kind == "audio"


@pytest.mark.parametrize(
    ("toc", "ticks"),
    [
        # RFC 6716 section 3.1, table 2: config << 3 | code; the second octet is the count of code 3.
        (bytes([0 << 3]), 480),
        (bytes([3 << 3]), 2880),
        (bytes([9 << 3]), 960),
        (bytes([12 << 3]), 480),
        (bytes([15 << 3]), 960),
        (bytes([16 << 3]), 120),
        (bytes([31 << 3]), 960),
        (bytes([31 << 3 | 1]), 1920),
        (bytes([31 << 3 | 2]), 1920),
        (bytes([31 << 3 | 3, 0x80 | 0x40 | 6]), 5760),
        (bytes([31 << 3 | 3]), 0),
        (b"", 0),
    ],
)
def test_opus_packets_last_as_long_as_their_toc_says(toc, ticks):
    assert opus_ticks(toc) == ticks


def test_each_opus_packet_is_a_frame_with_its_own_time():
    first, second, third = b"\xf8one", b"\x48two", b"\xf8three"
    assert list(CODECS["opus"].access_units([first, second, third])) == [(0, first), (960, second), (1920, third)]


@pytest.mark.parametrize("codec", ["pcmu", "pcma", "g722"])
def test_an_octet_of_telephone_audio_is_a_tick_and_no_packet_is_too_long(codec):
    assert list(CODECS[codec].access_units([b"a" * 160, b"b" * 160])) == [(0, b"a" * 160), (160, b"b" * 160)]
    long = bytes(range(250)) * 10
    pieces = list(CODECS[codec].access_units([long]))
    assert b"".join(piece for _, piece in pieces) == long
    assert [offset for offset, _ in pieces] == [0, 1200, 2400]


@pytest.mark.parametrize(
    ("codec", "frame", "key"),
    [
        ("vp8", VP8_KEY, True),
        ("vp8", VP8_DELTA, False),
        ("h264", b"\0\0\0\1\x65\x88", True),
        ("h264", b"\0\0\1\x06\x05\0\0\1\x25\x88", True),
        ("h264", b"\0\0\0\1\x67\x42\0\0\0\1\x41\x9a", True),
        ("h264", b"\0\0\0\1\x41\x9a\0\0\1\x41\x9b", False),
        ("h264", b"\0\0\0\1", False),
        ("h264", b"\x41\x9a", False),
        ("vp9", b"\x82\x49\x83\x42", True),
        ("vp9", b"\x86\x00\x40\x92", False),
        ("h265", b"\0\0\0\1\x26\x01\xaf", True),
        ("h265", b"\0\0\0\1\x02\x01\xd0", False),
        ("av1", b"\x86", True),  # nothing reads its frames, so that no frame is withheld
    ],
)
def test_keyframes_are_known(codec, frame, key):
    assert CODECS[codec].is_keyframe(frame) is key
