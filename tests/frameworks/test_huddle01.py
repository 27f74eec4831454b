"""Huddle01's SDK, which pins pyee exactly: frameseal leaves its version in place, and works with it."""

from importlib import metadata

import huddle01
from huddle01.emitter import EnhancedEventEmitter

from frameseal.aiortc import attach_all
from frameseal.e2ee.manager import E2EEManager
from frameseal.emitter import LoopEmitter
from support.calls import Peer, assert_pictures, connect, hang_up, manager, picture_track, until

from .client import Wire


def test_the_package_is_imported_with_its_own_version_of_pyee():
    assert huddle01.__name__ == "huddle01"
    assert metadata.version("huddle01") == "1.1.2"
    assert metadata.version("pyee") == "11.1.0"


async def test_events_of_both_are_delivered():
    """Both emitters are pyee's: Huddle01's rooms have one, and frameseal's managers are one."""
    heard = []
    theirs, ours = EnhancedEventEmitter(), LoopEmitter()
    theirs.on("room-joined", heard.append)
    ours.on("e2ee-state-change", heard.append)
    theirs.emit("room-joined", "theirs")
    ours.deliver("e2ee-state-change", "ours")
    await until(lambda: len(heard) == 2)
    assert heard == ["theirs", "ours"]
    assert issubclass(E2EEManager, LoopEmitter)


async def test_a_call_is_sealed_on_its_version_of_aiortc():
    attach_all(lambda pc: manager(), local_id="bot", remote_id="user")
    alice, bob = Peer("aiortc"), Peer("aiortc")
    video = alice.send(picture_track("aiortc"), "vp8")
    try:
        with Wire() as wire:
            await connect(alice, bob)
            await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) >= 10)
        assert_pictures(bob.sinks[video.mid])
        seen = wire.read()
        assert len(seen["vp8"].opened) >= 10
        assert seen["vp8"].unopened == []
    finally:
        await hang_up(alice, bob)
