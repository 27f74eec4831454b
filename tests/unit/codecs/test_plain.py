"""Frames that were never sealed: their signs, and the clear bytes of sealed ones, for codecs whose frames are rules.

tests/unit/inspection and test_diagnosis.py have every codec's own media.
"""

import pytest

from frameseal.codecs import CODECS
from frameseal.codecs.plain import EXCERPT_HEAD, EXCERPT_TAIL, excerpt, h264_sign, most, vp8_sign

KEY_FRAME = b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0"


def test_an_excerpt_is_both_ends_of_a_long_frame():
    frame = bytes(range(256)) * 20
    kept = excerpt(frame)
    assert kept.data == frame[:EXCERPT_HEAD] + frame[-EXCERPT_TAIL:]
    assert kept.length == len(frame)
    assert excerpt(frame[:1280]) == (frame[:1280], 1280)


def test_most_are_seven_in_eight():
    assert most([True] * 7 + [False])
    assert not most([True] * 6 + [False] * 2)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (KEY_FRAME + bytes(range(90)), True),
        (KEY_FRAME + bytes(13) + b"\x0c\0", False),  # ends like a trailer
        (b"\x11" + KEY_FRAME[1:] + bytes(90), False),  # a delta frame
        (KEY_FRAME, False),
        (b"", False),
    ],
)
def test_a_key_frame_of_vp8_without_a_trailer_is_a_sign(frame, expected):
    assert (vp8_sign(frame) is not None) is expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"\0\0\0\1\x65\x88\x11\0\0\1\x41\x44\x55", True),
        (b"\0\0\0\1\x67\x42\0\0\1\x65\x88\x11", False),  # one slice, as a sealed frame has
        (b"\1\0\0\1\x65\x88\x11\0\0\1\x41\x44\x55", False),  # no byte stream
        (b"", False),
    ],
)
def test_several_slices_in_the_clear_are_a_sign(frame, expected):
    assert (h264_sign(frame) is not None) is expected


@pytest.mark.parametrize(
    ("codec", "frame", "expected"),
    [
        ("opus", b"\x78", 1),
        ("pcmu", b"", 1),
        ("vp8", KEY_FRAME, 10),
        ("vp8", b"\x11\0\0", 3),
        ("vp8", b"", None),
        ("vp9", b"\x86", 0),
        ("h264", b"\0\0\0\1\x67\x42\0\0\1\x65\x88 sealed", 11),
        ("h264", b"\0\0\0\1\x67\x42 no slice", None),
        ("h264", b"\1\0\0\1\x65\x88 sealed", None),
        ("h265", b"\0\0\0\1\x26\x01 sealed", 6),
        ("h265", b"", None),
    ],
)
def test_the_clear_bytes_of_a_sealed_frame_are_counted(codec, frame, expected):
    assert CODECS[codec].clear_len(frame) == expected
