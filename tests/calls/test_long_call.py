"""A sealed call over a bad line: nothing unsealed leaves, nothing that arrives whole is lost to the seal, nothing dies.

FRAMESEAL_LONG_CALL_SECONDS says how long it is.
"""

import asyncio
import contextlib
import os

import pytest

from frameseal.aiortc import attach
from frameseal.e2ee.manager import E2EEManager
from frameseal.keys.provider import ExternalE2EEKeyProvider
from frameseal.tools.sfu import Forwarder
from support.calls import Tap, peers, picture_track, tone_track, until
from support.recording import not_opened, recorded
from support.wire import WINDOW, beyond_clear_bytes, leaks

SECONDS = float(os.environ.get("FRAMESEAL_LONG_CALL_SECONDS", "12"))


def recording_manager():
    """A manager with the key, and what passes through the transforms that it makes."""
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key("of a long call")
    e2ee = E2EEManager(provider, profile="livekit")
    return e2ee, recorded(e2ee)


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_long_call_with_loss_and_reordering_stays_sealed_and_alive(codec):
    forwarder = Forwarder(loss=0.03, reorder=0.02, seed=11)
    sender, sent = recording_manager()
    receiver, received = recording_manager()
    async with contextlib.AsyncExitStack() as cleanup:
        tap = cleanup.enter_context(Tap("aiortc"))
        cleanup.push_async_callback(forwarder.close)
        # At its end, which comes before the forwarder's, `peers` looks for dead threads and unhandled exceptions.
        alice, bob = await cleanup.enter_async_context(peers("aiortc", "aiortc"))
        attach(alice.pc, sender, local_id="alice", remote_id="bob")
        attach(bob.pc, receiver, local_id="bob", remote_id="alice")
        alice.send(picture_track("aiortc"), codec)
        alice.send(tone_track("aiortc"))
        await forwarder.connect_publisher(alice.pc)
        await forwarder.connect_subscriber(bob.pc, "bob")
        await asyncio.sleep(SECONDS)
        # Still alive at the end: more of both kinds is on its way.
        seen = {mid: (len(sink.pictures), len(sink.samples)) for mid, sink in bob.sinks.items()}
        await until(lambda: all((len(s.pictures), len(s.samples)) > seen[mid] for mid, s in bob.sinks.items()))

    stats = forwarder.stats
    assert min(stats["publisher"].lost, stats["bob"].lost, stats["publisher"].reordered, stats["bob"].reordered) > 0

    # Everything that left a transport, Alice's and the forwarder's alike.
    wire = [packet.payload for packet in tap.packets]
    assert len(wire) >= stats["publisher"].forwarded + stats["bob"].forwarded
    assert len(sent) >= 70 * SECONDS and all(sealed is not None for _, sealed in sent)
    secret = [beyond_clear_bytes(frame, sealed) for frame, sealed in sent]
    assert sum(map(len, secret)) > 0.9 * sum(len(frame) for frame, _ in sent)
    assert leaks(secret, wire) == 0
    # And a leak would have been found: one packet's worth of one frame is.
    longest = max(secret, key=len)
    assert leaks(secret, [*wire, longest[100:1200]]) >= min(len(longest), 1200) - 100 - WINDOW

    sealed_frames = {sealed: frame for frame, sealed in sent}
    assert sum(sealed in sealed_frames for sealed, _ in received) > 0.5 * len(sent)
    assert not_opened(sent, received) == []
    # Whatever else was opened would be a forgery.
    assert [
        len(frame) for sealed, frame in received if sealed and sealed not in sealed_frames and frame is not None
    ] == []
