"""Rooms of a real LiveKit server: frameseal on aiortc beside LiveKit's native SDK (PyPI `livekit`, libwebrtc).

`make interop` builds the server and installs the SDK.
"""

import secrets

import pytest

from interop.keyframes import KEYFRAMES, keyframe_track
from interop.livekit_members import PATIENCE, NativeMember, native_member
from interop.livekit_room import join
from support.calls import STACKS, Picture, manager, until

pytest_plugins = ["interop.livekit_server"]

ALICE, BOB = "alice", "bob"


def shown(member: NativeMember) -> list[Picture]:
    """Return the pictures of Alice that a member was shown."""
    sink = member.sinks.get((ALICE, "video"))
    return sink.pictures if sink is not None else []


@pytest.mark.parametrize("codec", ["h264", "vp8"])
@pytest.mark.parametrize("stack", STACKS)
async def test_the_native_sdk_shows_every_one_of_100_keyframes_in_a_row(livekit_server, stack, codec):
    room, e2ee = secrets.token_hex(8), manager()
    async with (
        native_member(livekit_server, BOB, room) as bob,
        join(livekit_server, ALICE, room, e2ee, remote_id=BOB, stack=stack) as alice,
    ):
        track = keyframe_track(stack, lambda: shown(bob))
        track.sender = (await alice.publish(track, codec)).sender
        await until(lambda: track.shown >= KEYFRAMES, PATIENCE)
        assert {picture.colour for picture in shown(bob)} == {"red"}
