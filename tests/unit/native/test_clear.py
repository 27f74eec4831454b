"""What stays readable of H264 and H265: not a byte of a unit that may carry a picture. In the wheel and in calls."""

import asyncio
from fractions import Fraction

import av
import numpy as np
import pytest

from frameseal import Decryptor, Encryptor, MalformedFrame
from frameseal._native import join_payloads
from frameseal.aiortc import attach
from support.calls import (
    FRAME_RATE,
    Peer,
    Tap,
    connect,
    draw,
    hang_up,
    key_ring,
    manager,
    part,
    until,
)

# ITU-T H.264 and H.265, table 7-1: what carries no picture, and of that what has content of its own.
WITHOUT_PICTURE = {"h264": {6, 7, 8, 9, 10, 11, 12, 13, 15, 16}, "h265": set(range(32, 64))}
PARAMETER_SETS = {"h264": {7, 8, 13, 15, 16}, "h265": {32, 33, 34}}
SLICES = {"h264": {1, 5}, "h265": {*range(10), *range(16, 22)}}
SETS = {
    "h264": b"\0\0\0\1\x67\x42\xc0\x1f\0\0\0\1\x68\xce",
    "h265": b"\0\0\0\1\x40\x01\x0c\x01\xff\xff\0\0\0\1\x42\x01\x01\x01\0\0\0\1\x44\x01\xc1",
}
PICTURE = {"h264": b"\0\0\0\1\x65\x88 a picture", "h265": b"\0\0\0\1\x26\x01\xaf a picture"}
CONTENT = b"\xa5 what the picture shows \x5a"
BOTH = [(codec, number) for codec, count in (("h264", 32), ("h265", 64)) for number in range(count)]


def unit(codec: str, number: int) -> bytes:
    head = bytes([3 << 5 | number, 0x88]) if codec == "h264" else bytes([number << 1, 1, 0xAF])
    return b"\0\0\0\1" + head + CONTENT


def in_every_place(codec: str, tested: bytes) -> list[bytes]:
    sets, picture = SETS[codec], PICTURE[codec]
    return [
        tested,
        picture,  # what was held back goes out in front of it
        tested + sets + picture,
        sets + tested + picture,
        sets + tested,
        picture,
        sets + picture + tested,
    ]


@pytest.mark.parametrize(("codec", "number"), BOTH)
@pytest.mark.parametrize("signalled", ["h264", "h265"])
@pytest.mark.parametrize("batch", [False, True])
def test_no_unit_that_may_carry_a_picture_is_readable(codec: str, number: int, signalled: str, batch: bool) -> None:
    encryptor, decryptor = Encryptor(key_ring(), signalled), Decryptor(key_ring(), signalled)
    sent = []
    for frame in in_every_place(codec, unit(codec, number)):
        try:
            sealed = bytes(encryptor.encrypt_batch(*joined(frame))[0]) if batch else encryptor.encrypt(frame)
        except MalformedFrame:
            assert number not in SLICES[codec] or signalled != codec
        else:
            assert not sealed or decryptor.decrypt(sealed)
            sent.append(sealed)
    shown = any(CONTENT in sealed for sealed in sent)
    assert not shown or number in WITHOUT_PICTURE[codec]
    if signalled == codec:
        assert shown is (number in PARAMETER_SETS[codec])


def joined(frame: bytes) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(frame, "uint8"), np.array([0, len(frame)])


# --- through the packetizer ------------------------------------------------------------------------------------------


def of_h264(number: int, second: int, nal_ref_idc: int = 3) -> bytes:
    return b"\0\0\0\1" + bytes([nal_ref_idc << 5 | number, second]) + CONTENT


@pytest.mark.parametrize("number", range(32))
@pytest.mark.parametrize("long", [False, True], ids=["aggregated", "fragmented"])
async def test_no_payload_of_the_stack_shows_a_unit_that_may_carry_a_picture(stack, number: int, long: bool) -> None:
    """An encoder's units go through the stack's packetizer twice, and through its depayloader between."""
    packages = part(stack)
    pc = packages.RTCPeerConnection()
    sender = pc.addTransceiver("video").sender
    attach(pc, manager(), local_id="alice", remote_id="bob")
    slot = vars(sender)["_frameseal_slot"]
    slot.start()
    codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("video/H264", 90000, payloadType=97)
    encoder, shown, sent = part(stack, "codecs").get_encoder(codec), False, 0
    decryptor = Decryptor(key_ring(), "h264")
    # The second octet of a unit, which reads as that of a fragment where RTP has the type for these.
    for second in (0x88, 0x08, 0x48, 0xC8, 0x85, 0x42):
        tested = of_h264(number, second) + (CONTENT * 100 if long else b"")
        for frame in in_every_place("h264", tested):
            packet = av.Packet(frame)
            packet.pts, packet.time_base = 0, Fraction(1, 90000)
            payloads = slot.seal(slot.encryption, codec, encoder.pack(packet)[0])
            sent += bool(payloads)
            sealed = b"".join(part(stack, "codecs").depayload(codec, payload) for payload in payloads)
            assert not sealed or decryptor.decrypt(sealed)
            shown |= any(CONTENT in payload for payload in payloads)
    assert shown is (number in PARAMETER_SETS["h264"])
    assert sent >= 6 * 2
    await pc.close()


def test_fragments_that_add_up_to_no_unit_are_refused():
    start, middle, end = b"\x7c\x85a", b"\x7c\x05b", b"\x7c\x45c"
    whole, both = b"\x67\x42", b"\x7c\xc5a"
    for payloads in ([whole], [start, end], [start, middle, end, whole], [whole, start, middle, middle, end]):
        join_payloads("h264", payloads)
    for payloads in (
        [start],
        [middle],
        [end],
        [both],
        [whole, middle],
        [start, middle],
        [start, whole, end],
        [start, start, end],
        [start, end, end],
        [start, b"\x7c\x41c"],
    ):
        with pytest.raises(ValueError, match="of H264"):
            join_payloads("h264", payloads)


# --- in a call -------------------------------------------------------------------------------------------------------


def access_units_of_x264(count: int) -> list[list[bytes]]:
    """Pictures that stand alone, as NAL units."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = 320, 240, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, FRAME_RATE), Fraction(FRAME_RATE, 1)
    codec.options = {"tune": "zerolatency", "g": "1"}
    made = []
    for number in range(count):
        frame = draw(number, "red", (320, 240))
        frame.pts = number
        made += [bytes(packet) for packet in codec.encode(frame)]
    return [[piece.rstrip(b"\0") for piece in picture.split(b"\0\0\1")[1:]] for picture in made]


def packet_track(stack: str, frames: list[bytes]):
    """A track of pictures that were encoded elsewhere, a hundred a second, and then the last of them again."""

    class PacketTrack(part(stack).MediaStreamTrack):
        kind = "video"
        sent = 0

        async def recv(self):
            await asyncio.sleep(0.01)
            packet = av.Packet(frames[min(self.sent, len(frames) - 1)])
            packet.pts, packet.time_base = self.sent * 900, Fraction(1, 90000)
            self.sent += 1
            return packet

    return PacketTrack()


async def test_in_a_call_no_unit_that_may_carry_a_picture_leaves_in_the_clear(stack):
    """Each type of H264 alone, first, before the slice and behind it, between pictures that the receiver shows."""
    pictures = access_units_of_x264(20)
    frames = []
    for number in range(32):
        marked = bytes([3 << 5 | number, 0x88]) + b"type %02d " % number + CONTENT
        for place, units in enumerate(pictures[number % 19 :][:1] * 4):
            inserted = [[marked], [marked, *units], [*units[:2], marked, *units[2:]], [*units, marked]][place]
            frames.append(b"".join(b"\0\0\0\1" + piece for piece in inserted))
    frames.append(b"".join(b"\0\0\0\1" + piece for piece in pictures[-1]))
    # Without the watch over faults: the decoder is given units that make no sense, and says so.
    alice, bob = Peer(stack), Peer(stack)
    with Tap(stack) as tap:
        try:
            sealed = attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            opened = attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            track = packet_track(stack, frames)
            alice.send(track, "h264")
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: track.sent > len(frames) + 10 and sink.pictures and sink.pictures[-1].number == 19, 60)
            assert sealed.counters[0].dropped > 32
            assert opened.counters[0].frames_out > 32
        finally:
            await hang_up(alice, bob)
    payloads = [packet.payload for packet in tap.packets]
    shown = {number for number in range(32) if any(b"type %02d " % number in payload for payload in payloads)}
    assert shown == PARAMETER_SETS["h264"]
