"""`frameseal.livekit` in rooms of a real LiveKit server, both members on aiortc."""

import asyncio
import os
import secrets
import sys

from aiortc import MediaStreamTrack

from frameseal import ExternalE2EEKeyProvider
from frameseal.livekit import join
from support.calls import PASSPHRASE, Sink, picture_track, plays, shows, tone_track, until
from test_examples import EXAMPLES, ON_LOOPBACK

pytest_plugins = ["interop.livekit_server"]
PATIENCE = 60  # seconds; the limit is for a call that is broken, not a measurement


def utterance():
    """Return a track: silence, one second of a tone, silence."""
    track = tone_track("aiortc")
    recv = track.recv

    async def spoken():
        frame = await recv()
        if not 1.0 < frame.pts / frame.sample_rate < 2.0:
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        return frame

    track.recv = spoken
    return track


class Member:
    """The sinks, messages and events of a participant."""

    def __init__(self, room) -> None:
        self.room, self.sinks, self.events = room, {}, []
        room.on("track", self._on_track)
        for event in ("data", "data-refused", "track-ended", "track-muted", "track-unmuted", "participant-left"):
            room.on(event, lambda value, event=event: self.events.append((event, value)))
        room.on("reconnected", lambda value: self.events.append(("reconnected", value)))

    def _on_track(self, track) -> None:
        assert isinstance(track.media, MediaStreamTrack)
        self.sinks[track.participant.identity, track.kind] = Sink(track.media)

    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    def hears(self, identity: str, frequency: float = 440) -> bool:
        sink = self.sinks.get((identity, "audio"))
        return sink is not None and plays(sink, frequency)


def provider(passphrase: str = PASSPHRASE) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider()
    made.set_shared_key(passphrase)
    return made


def enter(server, identity: str, room: str, passphrase: str = PASSPHRASE):
    return join(server.url, server.token(identity, room), provider(passphrase), ice_servers=())


async def test_three_members_see_and_hear_each_other_mute_unpublish_talk_and_rejoin(livekit_server):
    name = secrets.token_hex(8)
    async with (
        enter(livekit_server, "alice", name) as first,
        enter(livekit_server, "bob", name) as second,
        enter(livekit_server, "carol", name) as third,
        enter(livekit_server, "eve", name, "another passphrase") as fourth,
    ):
        alice, bob, carol, eve = map(Member, (first, second, third, fourth))
        voice = await alice.room.publish(tone_track("aiortc"))
        await alice.room.publish(picture_track("aiortc"))
        await bob.room.publish(tone_track("aiortc", 880))
        await bob.room.publish(picture_track("aiortc", "blue"), codec="h264")
        await carol.room.publish(tone_track("aiortc", 660))
        await until(lambda: {("alice", "audio"), ("alice", "video"), ("bob", "audio")} <= set(carol.sinks), PATIENCE)
        await until(lambda: plays(carol.sinks["alice", "audio"]), PATIENCE)
        await until(lambda: shows(carol.sinks["alice", "video"]), PATIENCE)
        await until(lambda: plays(carol.sinks["bob", "audio"], 880), PATIENCE)
        await until(lambda: shows(carol.sinks["bob", "video"], "blue"), PATIENCE)
        await until(lambda: ("carol", "audio") in alice.sinks and plays(alice.sinks["carol", "audio"], 660), PATIENCE)
        assert eve.sinks and all(sink.empty for sink in eve.sinks.values())

        await alice.room.send(b"hello", topic="chat")
        await until(lambda: "data" in bob.names() and "data-refused" in eve.names(), PATIENCE)
        (message,) = [value for event, value in bob.events if event == "data"]
        assert (message.participant_id, message.payload, message.topic) == ("alice", b"hello", "chat")
        assert "data" not in eve.names()

        await alice.room.mute(voice)
        await until(lambda: "track-muted" in carol.names(), PATIENCE)
        await asyncio.sleep(1.5)  # the server's silences have ended
        heard = carol.sinks["alice", "audio"].seconds
        await asyncio.sleep(0.5)
        assert carol.sinks["alice", "audio"].seconds == heard
        await alice.room.mute(voice, False)
        await until(lambda: carol.sinks["alice", "audio"].seconds > heard + 1.5, PATIENCE)
        assert plays(carol.sinks["alice", "audio"])

        await alice.room.unpublish(voice)
        await until(lambda: "track-ended" in carol.names(), PATIENCE)
        voice = await alice.room.publish(tone_track("aiortc", 550))
        await until(lambda: plays(carol.sinks["alice", "audio"], 550), PATIENCE)

        await alice.room._visit._signalling._socket.close()  # as if the network had failed
        await until(lambda: "reconnected" in alice.names(), PATIENCE)
        await until(lambda: carol.sinks["alice", "audio"].track.readyState == "live", PATIENCE)
        await until(lambda: plays(carol.sinks["alice", "audio"], 550), PATIENCE)
        await until(lambda: shows(carol.sinks["alice", "video"]), PATIENCE)
        await until(lambda: plays(alice.sinks["carol", "audio"], 660), PATIENCE)
        assert eve.sinks and all(sink.empty for sink in eve.sinks.values())
        await bob.room.leave()
        await until(lambda: ("participant-left", "bob") in [(e, getattr(v, "identity", 0)) for e, v in carol.events])
        assert await bob.room.wait_left() == "left"


async def test_a_track_that_is_published_again_is_heard_each_time(livekit_server):
    """With LiveKit's later protocols the server reuses the line of the ended track, which aiortc cannot restart."""
    name = secrets.token_hex(8)
    async with enter(livekit_server, "alice", name) as first, enter(livekit_server, "bob", name) as second:
        bob = Member(second)
        for frequency in (440, 550, 660):
            published = await first.publish(tone_track("aiortc", frequency))
            await until(lambda: bob.hears("alice", frequency), PATIENCE)  # noqa: B023 - used up before the next one
            await first.unpublish(published)
            await until(lambda: resting(second), PATIENCE)  # the server reuses lines that both sides have ended
            bob.sinks.clear()


async def test_two_videos_of_different_codecs_are_seen_at_once(livekit_server):
    """The server answers later lines with the codecs of the first offer only."""
    name = secrets.token_hex(8)
    async with enter(livekit_server, "alice", name) as first, enter(livekit_server, "bob", name) as second:
        seen: dict[str, Sink] = {}
        second.on("track", lambda track: seen.update({track.mime_type: Sink(track.media)}))
        await first.publish(picture_track("aiortc"), codec="vp8")
        await first.publish(picture_track("aiortc", "blue"), codec="h264", name="screen")
        await until(lambda: "video/vp8" in seen and shows(seen["video/vp8"]), PATIENCE)
        await until(lambda: "video/h264" in seen and shows(seen["video/h264"], "blue"), PATIENCE)
        assert {track.name for track in second.participants["alice"].tracks.values()} == {"video", "screen"}


def resting(room) -> bool:
    return {each.currentDirection for each in room._visit._subscriber.pc.getTransceivers()} == {"inactive"}


async def test_the_voice_agent_of_the_examples_hears_and_answers(livekit_server):
    name = secrets.token_hex(8)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),  # runpy adds no folder
        "LIVEKIT_URL": livekit_server.url,
        "LIVEKIT_TOKEN": livekit_server.token("agent", name),
        "ROOM_PASSPHRASE": PASSPHRASE,
    }
    async with enter(livekit_server, "alice", name) as room:
        alice = Member(room)
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ON_LOOPBACK, str(EXAMPLES / "livekit_voice_agent.py")),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await until(lambda: "agent" in room.participants and ("agent", "audio") in alice.sinks, PATIENCE)
            await room.publish(utterance())
            await until(lambda: "data" in alice.names(), PATIENCE)
        finally:
            agent.kill()
            said, _ = await agent.communicate()
    (message,) = [value for event, value in alice.events if event == "data"]
    assert (message.participant_id, message.payload) == ("agent", b"I heard 440 hertz.")
    assert said.decode().splitlines() == ["alice is in the room", "agent to alice: I heard 440 hertz."]
    assert alice.sinks["agent", "audio"].seconds > 0
