"""Rooms of a real LiveKit server: frameseal on aiortc beside LiveKit's native SDK (PyPI `livekit`, libwebrtc).

`make interop` builds the server and installs the SDK.
"""

import asyncio
import contextlib
import secrets

import av
import numpy as np
import pytest
from livekit import rtc

from interop.keyframes import KEYFRAMES, keyframe_track
from interop.livekit_room import PATIENCE, join
from support.calls import PASSPHRASE, STACKS, Picture, manager, until

pytest_plugins = ["interop.livekit_server"]

ALICE, BOB = "alice", "bob"


class NativeMember:
    """A participant on LiveKit's native SDK, and the pictures that it was shown."""

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.pictures: list[Picture] = []
        self._tasks: list[asyncio.Task] = []
        self.room.on("track_subscribed", self._subscribed)

    def _subscribed(self, track, publication, participant) -> None:
        if track.kind == rtc.TrackKind.KIND_VIDEO:
            self._tasks.append(asyncio.ensure_future(self._look(track)))

    async def _look(self, track) -> None:
        async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.I420):
            frame = event.frame
            rows = np.frombuffer(frame.data, np.uint8).reshape(frame.height * 3 // 2, frame.width)
            self.pictures.append(Picture.read(av.VideoFrame.from_ndarray(rows, format="yuv420p")))

    async def leave(self) -> None:
        await self.room.disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def native_member(server, identity: str, room: str, passphrase: str):
    """A participant on the native SDK, who has this passphrase."""
    member = NativeMember()
    keys = rtc.KeyProviderOptions(shared_key=passphrase.encode())
    options = rtc.RoomOptions(encryption=rtc.E2EEOptions(key_provider_options=keys))
    await member.room.connect(server.url, server.token(identity, room), options)
    try:
        yield member
    finally:
        await member.leave()


@pytest.mark.parametrize("codec", ["h264", "vp8"])
@pytest.mark.parametrize("stack", STACKS)
async def test_the_native_sdk_shows_every_one_of_100_keyframes_in_a_row(livekit_server, stack, codec):
    room, e2ee = secrets.token_hex(8), manager()
    async with (
        native_member(livekit_server, BOB, room, PASSPHRASE) as bob,
        join(livekit_server, ALICE, room, e2ee, remote_id=BOB, stack=stack) as alice,
    ):
        track = keyframe_track(stack, lambda: bob.pictures)
        track.sender = (await alice.publish(track, codec)).sender
        await until(lambda: track.shown >= KEYFRAMES, PATIENCE)
    assert {picture.colour for picture in bob.pictures} == {"red"}
