"""Files of one frame: demuxers find the parameters of the stream in them."""

import io

import av
import pytest

from frameseal.codecs import CODECS
from support.recorded import pictures, sounds

SIZE = (320, 240)


@pytest.mark.parametrize("codec", ["vp8", "vp9", "h264", "h265"])
def test_a_demuxer_finds_the_size_of_a_picture_in_its_file(codec):
    row = CODECS[codec]
    with av.open(io.BytesIO(row.as_file(pictures(codec, 40)[0])), format=row.demuxer) as container:
        (stream,) = container.streams
        assert (stream.width, stream.height) == SIZE
        assert next(container.decode(stream)).width == SIZE[0]


def test_a_demuxer_reads_the_opus_frame_and_skips_no_sample():
    frame = sounds("opus", 1)[20]
    with av.open(io.BytesIO(CODECS["opus"].as_file(frame)), format="ogg") as container:
        (stream,) = container.streams
        assert stream.codec_context.extradata[:8] == b"OpusHead"
        assert stream.codec_context.extradata[10:12] == b"\0\0"  # pre-skip, RFC 7845 section 5.1
        assert [bytes(packet) for packet in container.demux(stream) if packet.size] == [frame]


@pytest.mark.parametrize("length", [1, 254, 255, 256, 510, 1275])
def test_the_lacing_of_an_opus_file_holds_every_length(length):
    """255 in the lacing means that the packet goes on (RFC 3533, section 6)."""
    frame = b"\xfc" + bytes(length - 1)
    with av.open(io.BytesIO(CODECS["opus"].as_file(frame)), format="ogg") as container:
        assert [packet.size for packet in container.demux() if packet.size] == [length]


@pytest.mark.parametrize("codec", ["vp8", "vp9", "h264", "h265"])
def test_keyframes_are_the_frames_that_the_encoder_says(codec):
    """The encoder has a keyframe for every 30 pictures."""
    is_keyframe = CODECS[codec].is_keyframe
    assert [number for number, frame in enumerate(pictures(codec, 40)) if is_keyframe(frame)] == [0, 30]


@pytest.mark.parametrize("codec", ["vp9", "h265"])
@pytest.mark.parametrize("frame", [b"\0", b"\0\0\1", b"\0\0\1\x26"[:3], b"\xff" * 4, b"\x80"[:0] or b"\x00\x00"])
def test_a_frame_that_is_none_is_no_keyframe(codec, frame):
    assert CODECS[codec].is_keyframe(frame) is False


@pytest.mark.parametrize(
    ("first", "is_key"),
    [
        (0b10_0_0_0_0_1_0, True),  # profile 0: frame marker, profile, show_existing_frame, frame_type
        (0b10_0_0_0_1_1_0, False),
        (0b10_0_0_1_000, False),  # shows a frame that was sent before
        (0b10_1_1_0_0_0_0, True),  # profile 3 has a reserved bit
        (0b10_1_1_0_0_1_0, False),
        (0b01_0_0_0_0_1_0, False),
    ],
)
def test_the_header_of_vp9_is_read_bit_by_bit(first, is_key):
    assert CODECS["vp9"].is_keyframe(bytes([first, 0])) is is_key


def test_every_codec_but_the_refused_one_has_a_place_in_a_file():
    homeless = [name for name, row in CODECS.items() if row.demuxer is None and row.linear_decoder is None]
    assert homeless == ["av1"]
