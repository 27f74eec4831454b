"""A room in which everything happens that happens to a call, and a log of states in which every line is true.

Bob hears and sees Alice and Carol through an SFU without a key. The log is written down here, beforehand.
FRAMESEAL_ROOM_SECONDS says how long the room is: each scene lasts its share, and says nothing beyond its lines.
"""

import asyncio
import os
from collections import Counter

import pytest

from frameseal import E2EEManager, KeyProvider
from frameseal.aiortc import attach
from support.calls import STACKS, peers, picture_track, plays, record, shows, tone_track, until
from support.switchboard import Switchboard

SECONDS = float(os.environ.get("FRAMESEAL_ROOM_SECONDS", "12"))
SCENES = 12
KEYS = {"alice": bytes(range(16)), "carol": bytes(range(16, 32))}
COLOURS, TONES = {"alice": "red", "carol": "blue"}, {"alice": 440, "carol": 660}

Line = tuple[str, str, str, str | None, str | None]


def heard_and_seen(who: str, detail: str | None = None) -> list[Line]:
    return [(who, kind, "DecryptionSuccess", None, detail) for kind in ("audio", "video")]


def not_opened(who: str) -> list[Line]:
    return [(who, kind, "DecryptionFailed", "authentication_failed", None) for kind in ("audio", "video")]


class Muted:
    """A track that can be muted: then it delivers nothing, as an SFU forwards nothing."""

    def __init__(self, track) -> None:
        self.track = track
        self.audible = asyncio.Event()
        self.audible.set()
        recv = track.recv

        async def muted():
            await self.audible.wait()
            return await recv()

        track.recv = muted


class Room:
    """Bob, and the two who publish to him."""

    def __init__(self, stack: str, codec: str, sfu: Switchboard, bob) -> None:
        self.stack, self.codec, self.sfu, self.bob = stack, codec, sfu, bob
        self.provider = KeyProvider()
        for name, key in KEYS.items():
            self.provider.set_key(name, key)
        self.e2ee = E2EEManager(self.provider, "livekit")
        self.log = record(self.e2ee)
        self.tracks: dict[str, list[Muted]] = {}
        self.senders: dict[str, KeyProvider] = {}
        self._read = 0
        attach(bob.pc, self.e2ee, local_id="bob", remote_id=self._who)

    def _who(self, receiver) -> str | None:
        mid = next(t.mid for t in self.bob.pc.getTransceivers() if t.receiver is receiver)
        return next((line.owner for line in self.sfu.lines if line.transceiver.mid == mid), None)

    async def publish(self, name: str, peer) -> None:
        self.senders[name] = KeyProvider()
        self.senders[name].set_key(name, KEYS[name])
        attach(peer.pc, E2EEManager(self.senders[name], "livekit"), local_id=name, remote_id="bob")
        tracks = tone_track(self.stack, TONES[name]), picture_track(self.stack, COLOURS[name])
        self.tracks[name] = [Muted(track) for track in tracks]
        peer.send(tracks[0])
        peer.send(tracks[1], self.codec)
        await self.sfu.publish(name, peer)

    def sinks(self, lines) -> list:
        return [self.bob.sinks[line.transceiver.mid] for line in lines]

    async def plays(self, name: str, lines) -> None:
        """Wait until these lines show and play this participant, and nothing else."""
        audio, video = self.sinks(lines)
        audio.clear(), video.clear()
        await until(lambda: plays(audio, TONES[name]) and shows(video, COLOURS[name]))

    async def says(self, *lines: Line) -> None:
        """See that these are the lines of the scene, in any order, and that no other follows."""
        expected = Counter(lines)
        await until(lambda: len(self.log) >= self._read + len(lines))
        await asyncio.sleep(SECONDS / SCENES)
        new = [change for _, change in self.log[self._read :]]
        self._read += len(new)
        assert Counter((c.participant_id, c.kind, str(c.state), c.reason, c.detail) for c in new) == expected

    def state(self, name: str) -> set:
        return {self.e2ee.state(name, kind) for kind in ("audio", "video")}


@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("stack", STACKS)
async def test_every_line_of_the_log_of_a_room_is_true(stack, codec):
    sfu = Switchboard()
    async with peers(*[stack] * 4) as (bob, alice, carol, alice_again):
        room = Room(stack, codec, sfu, bob)
        try:
            await _the_scenes(room, alice, carol, alice_again)
        finally:
            await sfu.close()


async def _the_scenes(room: Room, alice, carol, alice_again) -> None:
    sfu, bob = room.sfu, room.bob

    # Alice joins.
    await room.publish("alice", alice)
    first = await sfu.add_lines(bob, room.codec, "alice")
    await room.plays("alice", first)
    await room.says(*heard_and_seen("alice"))

    # She mutes, and is silent and dark.
    for track in room.tracks["alice"]:
        track.audible.clear()
    await room.says()
    assert room.state("alice") == {"DecryptionSuccess"}

    # She unmutes.
    for track in room.tracks["alice"]:
        track.audible.set()
    await room.plays("alice", first)
    await room.says()

    # Carol joins.
    await room.publish("carol", carol)
    second = await sfu.add_lines(bob, room.codec, "carol")
    await room.plays("carol", second)
    await room.says(*heard_and_seen("carol"))

    # Alice unpublishes: her tracks are not live, and nothing bad is left of them.
    await sfu.end_lines(bob, first)
    await room.says()
    assert room.state("alice") == {"DecryptionSuccess"}

    # She publishes again, over lines of their own.
    third = await sfu.add_lines(bob, room.codec, "alice")
    await room.plays("alice", third)
    await room.says(*heard_and_seen("alice"))

    # Carol rotates her key: everybody has the new one before she seals with it.
    fresh = bytes(range(32, 48))
    room.provider.set_key("carol", fresh, 1)
    room.senders["carol"].set_key("carol", fresh, 1)
    await room.plays("carol", second)
    await room.says()
    assert room.state("carol") == {"DecryptionSuccess"}

    # Bob has a wrong key of hers for a while.
    room.provider.set_key("carol", bytes(16), 1)
    await room.says(*not_opened("carol"))
    assert room.state("carol") == {"DecryptionFailed"}
    room.provider.set_key("carol", fresh, 1)
    await room.plays("carol", second)
    await room.says(*heard_and_seen("carol", "recovered"))

    # Alice leaves.
    await sfu.unpublish("alice")
    await sfu.switch(third, None)
    room.e2ee.remove_participant("alice")
    await room.says()
    assert room.state("alice") == {None}

    # The SFU moves Carol to the lines, and so to the receivers, that Alice had.
    await sfu.switch(second, None)
    await sfu.switch(third, "carol")
    await room.plays("carol", third)
    await room.says(*heard_and_seen("carol"))

    # Alice joins again, and gets those that Carol had.
    await room.publish("alice", alice_again)
    await sfu.switch(second, "alice")
    await room.plays("alice", second)
    await room.says(*heard_and_seen("alice"))
    await room.plays("carol", third)
    assert room.state("alice") == room.state("carol") == {"DecryptionSuccess"}
