"""Bandwidth probes of an SFU: packets of nothing before the first real frame, and packets that it repeats unasked.

They are nobody's media: no state may come of them, no failure be counted towards a wrong key, and no picture be lost.
"""

import contextlib
import copy

import pytest
from aiortc.rtp import RtpPacket

from frameseal import E2EEState
from frameseal.aiortc import attach
from frameseal.e2ee.transforms import QUIET_FRAMES
from frameseal.tools.sfu import Forwarder
from frameseal.tools.sfu.leg import Leg
from support.calls import assert_pictures, assert_tone, manager, peers, picture_track, record, tone_track, until

PROBES = QUIET_FRAMES - 1
VP8_DESCRIPTOR = b"\x90\x80\x12"  # and no frame behind it


PAYLOADS = {  # and the bytes of padding
    "padding": (b"", 224),
    "zeros": (bytes(224), 0),
    "a descriptor": (VP8_DESCRIPTOR, 0),
    # Neither sealed nor a frame of any codec. Under SFrame it would be what somebody sealed with an unknown key.
    "noise": (bytes((7 * n * n + 13) % 256 for n in range(200)), 0),
}
CASES = [("livekit", codec, kind) for codec in ("vp8", "h264") for kind in PAYLOADS]
CASES += [("sframe", codec, kind) for codec in ("vp8", "h264") for kind in ("padding", "zeros")]


def probe_with(monkeypatch, payload: bytes, padding: int) -> list[RtpPacket]:
    """Have forwarders send probes before the first video packet, and old packets again later; returns the probes."""
    send, probes, seen = Leg.send, [], []

    async def probing(leg, outlet, packet) -> None:
        if outlet.kind == "video":
            seen.append(packet)
            if len(seen) == 1:
                probes.extend(probe_before(packet, ahead, payload, padding) for ahead in range(PROBES, 0, -1))
                for probe in probes:
                    await send(leg, outlet, probe)
            elif len(seen) % 10 == 0:
                await send(leg, outlet, seen[-2])
        await send(leg, outlet, packet)

    monkeypatch.setattr(Leg, "send", probing)
    return probes


def probe_before(packet: RtpPacket, ahead: int, payload: bytes, padding: int) -> RtpPacket:
    probe = copy.copy(packet)
    probe.payload, probe.padding_size, probe.marker = payload, padding, 1
    probe.sequence_number = (packet.sequence_number - ahead) % (1 << 16)
    probe.timestamp = (packet.timestamp - 3000 * ahead) % (1 << 32)
    return probe


@contextlib.asynccontextmanager
async def call(profile: str, codec: str):
    """Bob, who subscribes at a forwarder to what Alice publishes, and the state changes that he hears of."""
    forwarder, opening = Forwarder(), manager(profile=profile, failure_tolerance=PROBES)
    changes = record(opening)
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.push_async_callback(forwarder.close)
        alice, bob = await cleanup.enter_async_context(peers("aiortc", "aiortc"))
        attach(alice.pc, manager(profile=profile), local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track("aiortc"), codec)
        alice.send(tone_track("aiortc"))
        await forwarder.connect_publisher(alice.pc)
        await forwarder.connect_subscriber(bob.pc, "bob")
        yield bob, changes


@pytest.mark.parametrize(("profile", "codec", "kind"), CASES)
async def test_probes_before_the_first_frame_are_dropped_without_a_word(monkeypatch, profile, codec, kind):
    probes = probe_with(monkeypatch, *PAYLOADS[kind])
    async with call(profile, codec) as (bob, changes):
        await until(lambda: len(bob.sinks) == 2)
        video, audio = sorted(bob.sinks.values(), key=lambda sink: sink.track.kind, reverse=True)
        await until(lambda: len(video.pictures) > 30 and audio.seconds > 1)
        assert_pictures(video, at_least=30)
        assert_tone(audio)
    assert len(probes) == PROBES
    assert [change.state for _, change in changes] == [E2EEState.DecryptionSuccess] * 2
