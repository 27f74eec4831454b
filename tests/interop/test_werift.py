"""Sealed frames through werift (npm), an RTP stack that knows nothing of ours: does it put them together again?

It checks what is easy to get wrong with a packetizer of one's own: markers, fragments, start codes, picture ids, the
order of things. `make interop` installs it.
"""

import asyncio
import contextlib
import shutil
from itertools import chain

import av
import numpy as np
import pytest

from frameseal import Decryptor, E2EEState
from frameseal.aiortc import attach
from frameseal.codecs import CODECS
from interop.werift_sfu import MODULES, werift_sfu
from support.calls import Tap, manager, peers, picture_track, plays, shows, tone_track, until
from support.recording import not_opened, recorded
from support.wire import beyond_clear_bytes, leaks

pytestmark = pytest.mark.skipif(
    not (MODULES / "werift").is_dir() or shutil.which("node") is None, reason="needs Node and werift: make interop"
)

COLOURS = {"vp8": "red", "h264": "blue"}
ENOUGH = 40  # frames of each codec
PAYLOAD = 1300  # what aiortc puts into one packet, at most


def slices(frame: bytes) -> list[bytes]:
    return [unit.rstrip(b"\0") for unit in frame.split(b"\0\0\1")[1:] if unit[0] & 0x1F in (1, 5)]


def detailed(track):
    """The track with noise at the bottom of some pictures, so that some frames take several packets, and some one."""
    recv, noise = track.recv, np.random.default_rng(1)

    async def more() -> av.VideoFrame:
        frame = await recv()
        image = frame.to_ndarray()
        bottom = image[frame.height * 7 // 8 : frame.height]
        if track.sent % 10 == 0:
            bottom[:] = noise.integers(16, 235, bottom.shape)
        made = av.VideoFrame.from_ndarray(image, format="yuv420p")
        made.pts, made.time_base = frame.pts, frame.time_base
        return made

    track.recv = more
    return track


@contextlib.asynccontextmanager
async def keyframes(sfu):
    """Ask for some now and then, as nobody does where a decoder goes on without a picture that a busy werift lost."""

    async def ask() -> None:
        while True:
            await asyncio.sleep(1)
            await sfu.request_keyframe()

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()


def in_order(some, all_of_them) -> bool:
    remaining = iter(all_of_them)
    return all(each in remaining for each in some)


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
async def test_werift_puts_sealed_frames_together_and_forwards_them(profile, loopback):
    sealing, opening = manager(profile=profile), manager(profile=profile)
    passed, received = recorded(sealing), recorded(opening)
    with Tap("aiortc") as tap:
        async with werift_sfu() as sfu, peers("aiortc", "aiortc") as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, opening, local_id="bob", remote_id="alice")
            for codec, colour in COLOURS.items():
                alice.send(detailed(picture_track("aiortc", colour)), codec)
            alice.send(tone_track("aiortc"), "opus")
            await sfu.connect_publisher(alice.pc)
            await until(lambda: all(sfu.frames[codec] for codec in (*COLOURS, "opus")), 60)
            # Bob comes in the middle: his pictures begin when werift has passed his request for a keyframe on.
            await sfu.connect_subscriber(bob.pc)
            await until(lambda: len(bob.sinks) == 3, 60)
            vp8, h264, opus = bob.sinks.values()
            async with keyframes(sfu):
                await until(lambda: shows(vp8, "red") and shows(h264, "blue"), 60)
            await until(lambda: plays(opus), 60)
            await until(lambda: all(len(frames) >= ENOUGH for frames in sfu.frames.values()))
    assert {opening.state("alice", kind) for kind in ("audio", "video")} == {E2EEState.DecryptionSuccess}
    assert not_opened(passed, received) == []

    ring = opening.provider.ring_for(profile, "alice")
    for codec, made in tap.made.items():
        decryptor = Decryptor(ring, codec)
        opened = [decryptor.decrypt(frame) for frame in sfu.frames[codec]]
        # Sealing brings H.264 into normal form and strips what decoders do not need, so it is compared by slices.
        content = slices if codec == "h264" else bytes
        assert in_order(map(content, opened), map(content, made)), codec
        assert in_order(sfu.frames[codec], [sealed for _, sealed in passed]), codec
    for codec in COLOURS:
        lengths = [len(frame) for frame in sfu.frames[codec]]
        assert min(lengths) < PAYLOAD < max(lengths), "frames of one packet, and of several"
    if profile == "livekit":  # whose clear bytes are for this; SFrame leaves none
        decryptor = Decryptor(ring, "vp8")
        for frame in sfu.frames["vp8"]:
            assert (frame in sfu.keyframes["vp8"]) == CODECS["vp8"].is_keyframe(decryptor.decrypt(frame))
    wire = [packet.payload for packet in tap.packets]
    secret = [beyond_clear_bytes(frame, sealed) for frame, sealed in passed]
    assert leaks(secret, [*wire, *chain.from_iterable(sfu.frames.values())]) == 0
