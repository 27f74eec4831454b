"""Which frames are whose, and when: frames that share a timestamp."""

from itertools import pairwise

import pytest

from calls import Tap, connect, part, peers, picture_track, record, tone_track, until
from frameseal import E2EEManager, E2EEState, KeyProvider
from frameseal.aiortc import attach

KEYS = {"alice": bytes(range(32)), "carol": bytes(range(100, 132))}


def keys(*participants: str, profile: str = "livekit") -> E2EEManager:
    provider = KeyProvider(failure_tolerance=5)
    for name in participants:
        provider.set_key(name, KEYS[name])
    return E2EEManager(provider, profile)


# --- timestamps ------------------------------------------------------------------------------------------------------


def stuttering(stack: str, track, times: int):
    """A track that hands out each frame so many times, as a busy web framework does."""

    class Stuttering(part(stack).MediaStreamTrack):
        kind = track.kind

        def __init__(self) -> None:
            super().__init__()
            self._frames: list = []

        async def recv(self):
            if not self._frames:
                self._frames = [await track.recv()] * times
            return self._frames.pop()

    return Stuttering()


@pytest.mark.parametrize("times", [2, 5])
async def test_frames_that_share_a_timestamp_go_out_a_tick_apart(stack, times):
    opening = keys("alice")
    changes = record(opening)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed = attach(alice.pc, keys("alice"), local_id="alice")
            attached = attach(bob.pc, opening, local_id="bob", remote_id="alice")
            video = alice.send(stuttering(stack, picture_track(stack), times), "vp8")
            audio = alice.send(stuttering(stack, tone_track(stack, milliseconds=60), times), "pcmu")
            await connect(alice, bob)
            await until(lambda: sum(c.frames_out > 100 for c in attached.counters) == 2)
        assert {(c.dropped, c.last_error) for c in attached.counters + sealed.counters} == {(0, None)}
    assert {change.state for _, change in changes} == {E2EEState.DecryptionSuccess}
    for sender, ticks in ((video.sender, 3000), (audio.sender, 480)):
        stamps = [packet.timestamp for packet in tap.packets if packet.ssrc == sender._ssrc]
        frames = list(dict.fromkeys(stamps))
        assert len(frames) == len(tap.payloads(sender._ssrc)), "no two frames that follow each other share one"
        steps = {(b - a) % (1 << 32) for a, b in pairwise(frames)}
        assert 1 in steps and max(steps) <= ticks
