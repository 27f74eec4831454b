"""SFrame in a real call, on both stacks: VP8 and Opus as they are, H.264 in an envelope that its packetiser carries."""

import pytest

from frameseal import E2EEState
from frameseal.aiortc import attach
from support.calls import (
    STACKS,
    Tap,
    assert_pictures,
    assert_tone,
    connect,
    manager,
    peers,
    picture_track,
    record,
    tone_track,
    until,
)

TRACKS = {"vp8": "red", "h264": "blue", "opus": None}


def add_tracks(stack: str, peer) -> dict:
    return {
        codec: peer.send(picture_track(stack, colour) if colour else tone_track(stack), codec)
        for codec, colour in TRACKS.items()
    }


@pytest.mark.parametrize("stack", STACKS)
async def test_a_call_goes_through_sealed_with_nothing_readable(stack: str, loopback) -> None:
    sealing, opening = manager(profile="sframe"), manager(profile="sframe")
    sent, received = record(sealing), record(opening)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, opening, local_id="bob", remote_id="alice")
            transceivers = add_tracks(stack, alice)
            await connect(alice, bob)
            sinks = {codec: bob.sinks[t.mid] for codec, t in transceivers.items()}
            await until(lambda: len(sinks["vp8"].pictures) > 30 and len(sinks["h264"].pictures) > 30)
            await until(lambda: sinks["opus"].seconds > 1.2)
    assert_pictures(sinks["vp8"], "red")
    assert_pictures(sinks["h264"], "blue")
    assert_tone(sinks["opus"])
    assert {change.state for _, change in sent} == {E2EEState.EncryptionSuccess}
    assert {change.state for _, change in received} == {E2EEState.DecryptionSuccess}
    for codec, transceiver in transceivers.items():
        on_the_wire = b"".join(tap.frames(transceiver.sender, codec))
        assert len(tap.made[codec]) > 30
        for frame in tap.made[codec]:
            # No clear bytes at all, so no stretch of what the encoder made may appear; short ones would by chance.
            assert all(frame[at : at + 12] not in on_the_wire for at in range(0, len(frame) - 12, 97))


@pytest.mark.parametrize("stack", STACKS)
async def test_a_wrong_key_gives_nothing_and_the_right_one_later_everything(stack: str, loopback) -> None:
    sealing, opening = manager(profile="sframe"), manager("not the room's key", profile="sframe", failure_tolerance=5)
    received = record(opening)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        transceivers = add_tracks(stack, alice)
        await connect(alice, bob)
        sinks = {codec: bob.sinks[t.mid] for codec, t in transceivers.items()}
        await until(lambda: sum(change.state is E2EEState.InvalidKey for _, change in received) == len(TRACKS))
        assert all(sink.empty for sink in sinks.values())
        opening.provider.set_shared_key("correct horse battery staple")
        await until(lambda: len(sinks["vp8"].pictures) > 10 and len(sinks["h264"].pictures) > 10)
        await until(lambda: sinks["opus"].seconds > 1)
    assert_pictures(sinks["vp8"], "red", at_least=5)
    assert_pictures(sinks["h264"], "blue", at_least=5)
    assert {change.state for _, change in received[-len(TRACKS) :]} == {E2EEState.DecryptionSuccess}


async def test_a_key_that_changes_in_mid_call_is_followed_by_its_key_id(loopback) -> None:
    sealing, opening = manager(profile="sframe"), manager(profile="sframe")
    received = record(opening)
    async with peers("aiortc", "aiortc") as (alice, bob):
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        transceiver = alice.send(picture_track("aiortc", "red"), "h264")
        await connect(alice, bob)
        sink = bob.sinks[transceiver.mid]
        for key_id in range(1, 4):
            seen = len(sink.pictures)
            await until(lambda seen=seen: len(sink.pictures) > seen + 10)
            opening.provider.set_shared_key(f"the room's key number {key_id}", key_id)
            sealing.provider.set_shared_key(f"the room's key number {key_id}", key_id)
        seen = len(sink.pictures)
        await until(lambda: len(sink.pictures) > seen + 10)
    assert_pictures(sink, "red", at_least=40)
    assert [change.state for _, change in received] == [E2EEState.DecryptionSuccess]
