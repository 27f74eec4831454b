"""What libwebrtc reads of an H264 slice before it decrypts: the same from the sealed frame as from the encoder's.

libwebrtc looks for the picture parameter set that a key frame's first slice names, and drops the frame if it knows
none.
The parser here is written for the tests, after its depacketizer: RFC 6184, escapes out, three Exp-Golomb numbers.
"""

from fractions import Fraction
from struct import unpack_from

from frameseal import Decryptor, Encryptor, KeyRing
from frameseal.aiortc import attach
from support.calls import Tap, assert_pictures, connect, draw, key_ring, manager, part, peers, picture_track, until

STAP_A, FU_A = 24, 28
X264 = (0, 7, 0)  # macroblock, slice type, id: the first two fill the byte that stays readable


def first_slice(payloads: list[bytes]) -> tuple[int, bytes]:
    """The type of a picture's first slice, and what is behind its NAL header, as far as its first packet has it."""
    for payload in payloads:
        number = payload[0] & 0x1F
        if number in (1, 5):
            return number, payload[1:]
        if number == FU_A and payload[1] & 0x80 and payload[1] & 0x1F in (1, 5):
            return payload[1] & 0x1F, payload[2:]
        at = 1
        while number == STAP_A and at < len(payload):
            (length,) = unpack_from("!H", payload, at)
            if payload[at + 2] & 0x1F in (1, 5):
                return payload[at + 2] & 0x1F, payload[at + 3 : at + 2 + length]
            at += 2 + length
    raise AssertionError("no slice in the packets")


def header(payloads: list[bytes]) -> tuple[int, ...]:
    rbsp = first_slice(payloads)[1][:64].replace(b"\0\0\3", b"\0\0")
    bits = "".join(f"{byte:08b}" for byte in rbsp)
    numbers = []
    for _ in range(3):
        zeros = bits.index("1")
        numbers.append(int(bits[zeros : 2 * zeros + 1], 2) - 1)
        bits = bits[2 * zeros + 1 :]
    return tuple(numbers)


def first_unit(frame: bytes) -> bytes:
    """The first slice of a frame that starts with its first NAL unit."""
    return next(unit for unit in frame.split(b"\0\0\0\1") if unit[0] & 0x1F in (1, 5))


def keyframes(stack: str, count: int) -> list[list[bytes]]:
    """The payloads of keyframes that the stack's own encoder made."""
    encoder = part(stack, "codecs").H264Encoder()
    made = []
    for number in range(count):
        frame = draw(number, "red", (320, 240))
        frame.pts, frame.time_base = number * 3000, Fraction(1, 90000)
        payloads, _ = encoder.encode(frame, force_keyframe=True)
        assert first_slice(payloads)[0] == 5
        made.append(payloads)
    return made


async def test_a_thousand_keyframes_of_the_stacks_encoder_read_sealed_as_they_were_made(stack):
    pc = part(stack).RTCPeerConnection()
    sender = pc.addTransceiver("video").sender
    e2ee = manager()
    attach(pc, e2ee, local_id="alice", remote_id="bob")
    slot = vars(sender)["_frameseal_slot"]
    slot.start()
    codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("video/H264", 90000, payloadType=97)
    decryptor = Decryptor(key_ring(), "h264")
    made = keyframes(stack, 200)
    assert {header(payloads) for payloads in made} == {X264}
    for payloads in made * 5:
        sealed = slot.seal(slot.encryption, codec, payloads)
        assert header(sealed) == X264
        assert decryptor.decrypt(b"".join(part(stack, "codecs").depayload(codec, payload) for payload in sealed))
    stats = slot.transform(slot.encryption, codec).stats()
    assert (stats["frames"], stats["misread"]) == (1000, 0)
    # One bit is ciphertext. Mean 1,000, standard deviation 45: outside with 2e-13.
    assert 700 < stats["redrawn"] < 1400, "one more sealing a keyframe on average"
    # Each of them is a use of the key.
    assert stats["key_frames"] == 1000 + stats["redrawn"] == e2ee.provider.frames_sealed()
    await pc.close()


async def test_in_a_call_every_picture_reads_on_the_wire_as_it_was_made(stack):
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            sender = alice.send(picture_track(stack), "h264").sender
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            for at_least in range(10, 100, 10):
                await until(lambda shown=at_least: len(sink.pictures) >= shown)
                sender._send_keyframe()
            assert_pictures(sink, at_least=90)
    made = [payload[4:] for payload in tap.made["h264"]]
    sent = tap.payloads(sender._ssrc)
    assert len(sent) >= 90
    keyframes = [payloads for payloads in sent if first_slice(payloads)[0] == 5]
    assert len(keyframes) >= 9
    assert {header(payloads) for payloads in keyframes} == {X264}
    plain = [header([b"\x41" + unit[1:]]) for unit in map(first_unit, made)]
    assert [header(payloads) for payloads in sent] == plain[: len(sent)]


def test_a_header_that_no_draw_hits_is_sent_as_it_is_counted_and_warned_of():
    """An id of 200 has 15 bits, all of them sealed: 128 draws find them in one frame of 256, in all ten with 1e-24."""
    encryptor = Encryptor(key_ring(), "h264")
    frame = b"\0\0\0\1\x65\x88\x01\x93 a keyframe"
    assert header([frame[4:]]) == (0, 7, 200)
    decryptor = Decryptor(key_ring(), "h264")
    for _ in range(10):
        assert decryptor.decrypt(encryptor.encrypt(frame)) == frame
    stats = encryptor.stats()
    assert 0 < stats["misread"] <= stats["frames"] == 10
    assert stats["redrawn"] >= stats["misread"] * 127


def test_a_key_that_is_used_up_while_drawing_seals_that_frame_and_no_other():
    seen = set()
    for _ in range(60):
        ring = KeyRing("livekit", usage_limit=1)
        ring.set_key(bytes(32))
        encryptor = Encryptor(ring, "h264")
        sealed = encryptor.encrypt(b"\0\0\0\1\x65\x88\x84 a keyframe")
        stats = encryptor.stats()
        assert (stats["frames"], stats["key_frames"], stats["redrawn"], stats["key_exhausted"]) == (1, 1, 0, 0)
        assert (stats["misread"] == 0) is (header([sealed[4:]]) == X264)
        seen.add(stats["misread"])
    assert seen == {0, 1}, "one draw in two misses: all 60 alike with 2^-59"
