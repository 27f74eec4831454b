"""Read the shape of several frames. `test_diagnosis.py` has the media of every codec, sealed and plain."""

import os

import pytest

from frameseal import Encryptor, KeyRing
from frameseal.codecs.plain import EXCERPT_HEAD, EXCERPT_TAIL, excerpt
from frameseal.inspection.shapes import MIN_VERDICT_FRAMES, Shape, header, shape


def sealed(profile: str, count: int) -> list[bytes]:
    # Use a key of this call alone: in a process, one ring seals with an SFrame key, and any other is refused. A random
    # key does not decide the shape. An SFrame reads as a trailer if 9 of 12 tags have the byte 12 before their
    # last: 220 / 256^9, a chance below 1 in 10^19.
    ring = KeyRing(profile)
    ring.set_key(os.urandom(32))
    encryptor = Encryptor(ring, "opus")
    return [encryptor.encrypt(b"\xf8 an Opus packet") for _ in range(count)]


def test_an_excerpt_is_the_head_and_the_tail_of_a_long_frame_and_all_of_a_short_one():
    frame = bytes(range(256)) * 8
    assert excerpt(frame) == (frame[:EXCERPT_HEAD] + frame[-EXCERPT_TAIL:], 2048)
    assert excerpt(frame[:100]) == (frame[:100], 100)


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("livekit", Shape.TRAILER),
        ("nextcloud", Shape.TRAILER),
        ("stream", Shape.FOOTER),
        ("sframe", Shape.SFRAME),
    ],
)
def test_several_frames_have_a_shape_and_a_few_have_none(profile, expected):
    seen = [excerpt(frame) for frame in sealed(profile, MIN_VERDICT_FRAMES)]
    assert shape(seen, "opus") is expected
    assert shape(seen[1:], "opus") is Shape.UNKNOWN


def test_frames_of_an_encoder_are_plain():
    packets = [excerpt(b"\xf8" + bytes([number]) * 40) for number in range(MIN_VERDICT_FRAMES)]
    assert shape(packets, "opus") is Shape.PLAIN


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"\x57", (5, 7, 1)),
        (b"\x98\x01\x00\x08", (256, 8, 4)),
        (b"\x88\x07\x09", None),  # 7 fits the config byte
        (b"\x98\x01", None),  # cut off
        (b"", None),
    ],
)
def test_an_sframe_header_is_read_in_its_shortest_form_only(data, read):
    assert header(data) == read
