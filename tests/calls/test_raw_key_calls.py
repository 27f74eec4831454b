"""The profiles `nextcloud` and `stream` in a real call: sealed on the wire, and no part of what their vendors let pass.

Nextcloud Talk sends in the clear without a key, and Stream plays what was never sealed.
"""

import pytest

from frameseal import Decryptor, E2EEState, KeyRing
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
    shows,
    tone_track,
    until,
)

KEY, OTHER_KEY = bytes(range(16)), bytes(range(1, 17))
COLOURS = {"vp8": "red", "h264": "blue", "opus": None}
CODECS = {"nextcloud": ("vp8", "opus"), "stream": ("vp8", "h264", "opus")}


def add_tracks(stack: str, peer, profile: str) -> dict:
    return {
        codec: peer.send(picture_track(stack, COLOURS[codec]) if COLOURS[codec] else tone_track(stack), codec)
        for codec in CODECS[profile]
    }


def are_all(changes: list, state: E2EEState, count: int) -> bool:
    """Whether as many tracks as that are in a state now."""
    latest = {(change.kind, change.track_id): change.state for _, change in changes}
    return list(latest.values()) == [state] * count


@pytest.mark.parametrize("profile", CODECS)
@pytest.mark.parametrize("stack", STACKS)
async def test_a_call_is_sealed_a_wrong_key_plays_nothing_and_without_a_key_nothing_is_sent(
    stack: str, profile: str, loopback
) -> None:
    sealing, opening = manager(KEY, profile), manager(OTHER_KEY, profile, failure_tolerance=5)
    sent, received = record(sealing), record(opening)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, opening, local_id="bob", remote_id="alice")
            transceivers = add_tracks(stack, alice, profile)
            await connect(alice, bob)
            sinks = {codec: bob.sinks[transceiver.mid] for codec, transceiver in transceivers.items()}
            await until(lambda: are_all(received, E2EEState.InvalidKey, len(sinks)))
            assert all(sink.empty for sink in sinks.values())

            opening.provider.set_shared_key(KEY)
            pictures = [sinks[codec] for codec in sinks if COLOURS[codec]]
            await until(lambda: all(shows(sinks[codec], COLOURS[codec]) for codec in sinks if COLOURS[codec]), 40)
            await until(lambda: sinks["opus"].seconds > 1.2)
            assert are_all(received, E2EEState.DecryptionSuccess, len(sinks))
            assert are_all(sent, E2EEState.EncryptionSuccess, len(sinks))

            sealing.provider.remove()
            await until(lambda: are_all(sent, E2EEState.MissingKey, len(sinks)))
            # A frame that was sealed before may still be on its way: the encoder's fifth frame from now comes after it.
            made = {codec: len(tap.made[codec]) for codec in sinks}
            await until(lambda: all(len(tap.made[codec]) > made[codec] + 5 for codec in sinks))
            packets = len(tap.packets)
            await until(lambda: all(len(tap.made[codec]) > made[codec] + 25 for codec in sinks))
            assert len(tap.packets) == packets, "nothing is sent without a key"
    for sink in pictures:
        assert_pictures(sink, "blue" if sink is sinks.get("h264") else "red", at_least=5)
    assert_tone(sinks["opus"])

    ring = KeyRing(profile)
    ring.set_key(KEY)
    for codec, transceiver in transceivers.items():
        decryptor = Decryptor(ring, codec, replay_window=0)
        frames = tap.frames(transceiver.sender, codec)
        opened = [decryptor.decrypt(frame) for frame in frames]
        assert len(opened) > 20
        if codec != "h264":  # whose frames are normalised
            assert set(opened) <= set(tap.made[codec])
        assert not {frame for frame in frames if frame} & set(tap.made[codec]), "none is plain"


@pytest.mark.parametrize("profile", CODECS)
async def test_media_that_were_never_sealed_are_not_played(profile: str, loopback) -> None:
    opening, causes = manager(KEY, profile, failure_tolerance=5), {}
    received = record(opening)
    opening.on("e2ee-diagnosis", lambda found: causes.setdefault(found.track_id, found.cause))
    async with peers("aiortc", "aiortc") as (alice, bob):
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        transceivers = add_tracks("aiortc", alice, profile)
        await connect(alice, bob)
        sinks = [bob.sinks[transceiver.mid] for transceiver in transceivers.values()]
        await until(lambda: list(causes.values()) == ["not_sealed"] * len(sinks))
        assert all(sink.empty for sink in sinks)
    # A plain frame of the trailer layout reads as one of a missing key if its last byte but one is 12.
    assert {change.state for _, change in received} <= {E2EEState.DecryptionFailed, E2EEState.MissingKey}
