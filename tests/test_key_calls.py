"""Keys in live calls: one per participant, late ones, and rotations on a bad line without a lost frame."""

import asyncio
import contextlib
import os

import pytest

from calls import assert_pictures, assert_tone, connect, peers, picture_track, record, tone_track, until
from frameseal import E2EEManager, E2EEState, KeyProvider, KeyRotator
from frameseal.aiortc import attach
from frameseal.forwarder import Forwarder
from recording import not_opened, recorded

SECONDS = float(os.environ.get("FRAMESEAL_LONG_CALL_SECONDS", "12"))
PERIOD = 0.6  # seconds from one rotation to the next: 100 of them in a minute
KEYS = {"alice": bytes(range(16)), "bob": bytes(range(50, 66))}


def keyed(*names: str, **options) -> E2EEManager:
    provider = KeyProvider()
    for name in names:
        provider.set_key(name, KEYS[name])
    return E2EEManager(provider, "livekit", **options)


async def test_each_side_of_a_call_seals_with_a_key_of_its_own(stack):
    ours, theirs = keyed("alice", "bob"), keyed("alice", "bob")
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        for peer, colour, hertz in ((alice, "red", 440), (bob, "blue", 660)):
            peer.pc.addTrack(picture_track(stack, colour))
            peer.pc.addTrack(tone_track(stack, hertz))
        await connect(alice, bob)
        await until(lambda: all(len(s.pictures) > 20 or s.seconds > 1 for p in (alice, bob) for s in p.sinks.values()))
        for peer, colour, hertz in ((alice, "blue", 660), (bob, "red", 440)):
            for sink in peer.sinks.values():
                assert_pictures(sink, colour) if sink.pictures else assert_tone(sink, hertz)


async def test_who_leaves_and_comes_back_is_opened_with_the_new_key_alone(stack):
    theirs = keyed("bob")
    changes = record(theirs)

    async def visit(key: bytes) -> None:
        ours = keyed("bob")
        ours.provider.set_key("alice", key)
        changes.clear()
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, ours, local_id="alice", remote_id="bob")
            attach(bob.pc, theirs, local_id="bob", remote_id="alice")
            alice.send(tone_track(stack))
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: changes and changes[-1][1].state is E2EEState.MissingKey)
            assert sink.empty
            theirs.provider.set_key("alice", key)
            await until(lambda: sink.seconds > 0.8)
            assert_tone(sink)
        theirs.provider.remove("alice")
        theirs.remove_participant("alice")

    await visit(KEYS["alice"])
    await visit(bytes(range(90, 106)))


async def test_frames_that_come_before_their_key_are_played_when_it_comes(stack):
    ours, theirs = keyed("alice"), keyed(hold_frames=64)
    asked: list = []
    theirs.on("e2ee-missing-key", asked.append)
    sent, received = recorded(ours), recorded(theirs)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attached = attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: len(received) >= 8)
        assert sink.empty and [missing.participant_id for missing in asked] == ["alice"]
        theirs.provider.set_key("alice", KEYS["alice"])
        await until(lambda: len(sink.pictures) > 20)
        assert_pictures(sink)
        (counters,) = attached.counters
        assert (counters.dropped, counters.last_error) == (0, None)
        if stack == "aiortc":  # vsaiortc passes on the latest pictures only, when several are decoded at once
            first = next(sealed for sealed, _ in received if not sealed[0] & 1)
            number = [sealed for _, sealed in sent].index(first)
            assert [picture.number for picture in sink.pictures[:12]] == list(range(number, number + 12))


@pytest.mark.parametrize(("profile", "codec", "own"), [("livekit", "vp8", True), ("sframe", "h264", False)])
async def test_a_call_on_a_bad_line_loses_no_frame_to_its_rotations(profile, codec, own):
    ours, theirs = KeyProvider(), KeyProvider()
    name = "alice" if own else None
    for provider in (ours, theirs):
        provider.set_key(name, KEYS["alice"]) if own else provider.set_shared_key(KEYS["alice"])
    sealing, opening = E2EEManager(ours, profile), E2EEManager(theirs, profile)
    sent, received = recorded(sealing), recorded(opening)
    changes = record(sealing)

    async def hand_out(key: bytes, key_id: int) -> None:
        async def arrive() -> None:
            await asyncio.sleep(0.05)
            theirs.set_key(name, key, key_id) if own else theirs.set_shared_key(key, key_id)

        arriving.append(asyncio.ensure_future(arrive()))

    arriving: list[asyncio.Future] = []
    rotator = KeyRotator(ours, hand_out, participant_id=name, delay=0.3, overlap=2.0)
    forwarder = Forwarder(loss=0.03, reorder=0.02, seed=7)
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.push_async_callback(forwarder.close)
        alice, bob = await cleanup.enter_async_context(peers("aiortc", "aiortc"))
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track("aiortc"), codec)
        alice.send(tone_track("aiortc"))
        await forwarder.connect_publisher(alice.pc)
        await forwarder.connect_subscriber(bob.pc, "bob")
        rotations, loop = round(SECONDS / PERIOD), asyncio.get_running_loop()
        start = loop.time()
        for number in range(rotations):
            await rotator.rotate()
            await asyncio.sleep(start + (number + 1) * PERIOD - loop.time())
        await asyncio.gather(*arriving)
        seen = {mid: (len(sink.pictures), len(sink.samples)) for mid, sink in bob.sinks.items()}
        await until(lambda: all((len(s.pictures), len(s.samples)) > seen[mid] for mid, s in bob.sinks.items()))
        for sink in bob.sinks.values():
            numbers = [picture.number for picture in sink.pictures if picture.number is not None]
            assert numbers == sorted(numbers)

    stats = forwarder.stats
    assert min(stats["publisher"].lost, stats["bob"].lost, stats["publisher"].reordered, stats["bob"].reordered) > 0
    assert len(arriving) == rotations
    assert len(sent) >= 70 * SECONDS and all(sealed is not None for _, sealed in sent)
    assert {change.state for _, change in changes} == {E2EEState.EncryptionSuccess}
    whole = {sealed for _, sealed in sent}
    assert sum(sealed in whole for sealed, _ in received) > 0.5 * len(sent)
    assert not_opened(sent, received) == []
