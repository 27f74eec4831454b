"""What the hook makes of codecs: those that cannot be sealed, that are registered late, or change during a call."""

import asyncio
from types import SimpleNamespace

from frameseal import E2EEState, Encryptor
from frameseal.aiortc import attach
from frameseal.aiortc.proxies import OpeningDecoder, SealingEncoder
from support.calls import key_ring, manager, part, picture_track, record


def media_of(stack: str, mime: str, e2ee):
    """A sender's slot that has started, the codec, and an encoder proxy over one that makes nothing readable."""
    pc = part(stack).RTCPeerConnection()
    sender = pc.addTransceiver("video").sender
    attach(pc, e2ee, local_id="alice", remote_id="bob")
    slot = vars(sender)["_frameseal_slot"]
    slot.start()
    codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters(mime, 90000, payloadType=97)
    inner = SimpleNamespace(encode=lambda frame, force_keyframe: ([b"made by the encoder"], 1234))
    return pc, slot, SealingEncoder(inner, codec, slot)


async def test_a_codec_that_cannot_be_sealed_is_dropped_and_reported_once(stack):
    """Such as AV1, by whatever it was registered with the stack."""
    e2ee = manager()
    changes = record(e2ee)
    pc, slot, encoder = media_of(stack, "video/AV1", e2ee)
    for _ in range(3):
        assert encoder.encode("frame", False) == ([], 1234)
    assert slot.counters.dropped == 3
    assert "no layout for av1" in slot.counters.last_error
    await asyncio.sleep(0)
    told = [(change.participant_id, change.kind, change.state, change.reason) for _, change in changes]
    assert told == [("alice", "video", E2EEState.InternalError, "unsupported_codec")]
    await pc.close()


async def test_it_is_the_codec_and_not_the_track_that_tells_audio_from_video(stack):
    """An SDK calls its screens' tracks "share"."""
    e2ee = manager()
    changes = record(e2ee)
    pc, slot, encoder = media_of(stack, "audio/opus", e2ee)
    track = picture_track(stack)
    track.kind = "share"
    vars(slot.owner())["_RTCRtpSender__track"] = track
    assert encoder.encode("frame", False)[0]
    await asyncio.sleep(0)
    ((_, change),) = changes
    assert (change.kind, change.track_id, slot.counters.kind) == ("audio", track.id, "audio")
    await pc.close()


async def test_a_frame_that_comes_with_the_next_codec_of_its_receiver_is_dropped_like_any_other_that_fails(stack):
    """The last frame before a change of codec is handed over with the codec of the packet that completed it."""
    opening = manager(failure_tolerance=1)
    changes = record(opening)
    pc = part(stack).RTCPeerConnection()
    receiver = pc.addTransceiver("video").receiver
    attach(pc, opening, local_id="bob", remote_id="alice")
    slot = vars(receiver)["_frameseal_slot"]
    slot.start()
    decoded: list[bytes] = []
    inner = SimpleNamespace(decode=lambda frame: decoded.append(frame.data) or ["picture"])
    codecs = part(stack, "rtcrtpparameters").RTCRtpCodecParameters
    vp8, h264 = (
        OpeningDecoder(inner, codecs(mime, 90000, payloadType=97), slot) for mime in ("video/VP8", "video/H264")
    )
    idr = b"\0\0\0\1\x65\x88 a picture"
    old = [Encryptor(key_ring(), "vp8").encrypt(b"\x10key frame, ten bytes of it clear") for _ in range(2)]
    frames = [(vp8, old[0]), (h264, old[1]), (h264, Encryptor(key_ring(), "h264").encrypt(idr))]
    shown = [decoder.decode(SimpleNamespace(data=data, timestamp=0)) for decoder, data in frames]
    assert shown == [["picture"], [], ["picture"]]
    assert decoded[1] == idr
    await asyncio.sleep(0)
    assert E2EEState.InvalidKey not in {change.state for _, change in changes}
    assert opening.state("alice", "video") is E2EEState.DecryptionSuccess
    await pc.close()


async def test_a_picture_that_was_sealed_empty_is_no_loss(stack):
    """SFrame: nothing is decoded for it, nothing is asked for, and what refers to earlier pictures is shown."""
    pc = part(stack).RTCPeerConnection()
    receiver = pc.addTransceiver("video").receiver
    attach(pc, manager(profile="sframe"), local_id="bob", remote_id="alice")
    slot = vars(receiver)["_frameseal_slot"]
    slot.start()
    decoded: list[bytes] = []
    inner = SimpleNamespace(decode=lambda frame: decoded.append(frame.data) or ["picture"])
    codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("video/VP8", 90000, payloadType=97)
    decoder = OpeningDecoder(inner, codec, slot)
    seal = manager(profile="sframe").sender_transform("alice", "video", "vp8")._cipher.encrypt
    key, delta = b"\x10a key frame of VP8", b"\x11a delta frame"
    shown = [decoder.decode(SimpleNamespace(data=seal(frame), timestamp=0)) for frame in (key, b"", delta)]
    assert shown == [["picture"], [], ["picture"]]
    assert decoded == [key, delta]
    assert (slot.counters.dropped, slot.counters.keyframe_requests) == (0, 0)
    await pc.close()
