"""`frameseal.livekit` in rooms of a real LiveKit server, both members on aiortc."""

import asyncio
import contextlib
import os
import secrets
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack
from livekit import rtc

from frameseal import ExternalE2EEKeyProvider
from frameseal.livekit import NotAdmitted, join
from support.calls import PASSPHRASE, Sink, picture_track, plays, shows, sine, tone, tone_track, until
from support.paths import ROOT
from support.secret_search import said_by
from test_docs import FENCE
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


async def test_a_publication_that_is_given_up_ends_and_the_next_one_is_heard(livekit_server):
    name = secrets.token_hex(8)
    async with enter(livekit_server, "alice", name) as first, enter(livekit_server, "bob", name) as second:
        bob = Member(second)
        for _ in range(2):  # without a connection, and with one
            given_up = asyncio.ensure_future(first.publish(tone_track("aiortc", 440)))
            first._visit._publisher.pc.once("signalingstatechange", given_up.cancel)  # an offer has been made
            with pytest.raises(asyncio.CancelledError):
                await given_up
            await first.publish(tone_track("aiortc", 550))
            await until(lambda: bob.hears("alice", 550), PATIENCE)
            await until(lambda: len(second.participants["alice"].tracks) == 1, PATIENCE)
            await first.unpublish(*first.publications)
            await until(lambda: not second.participants["alice"].tracks, PATIENCE)
            bob.sinks.clear()
        assert "left" not in bob.names() and not first.publications


@pytest.mark.parametrize(("claims", "secret"), [({"nbf": 0, "exp": 1}, None), ({}, "x" * 64), ({"video": {}}, None)])
async def test_a_token_that_does_not_admit_is_refused(livekit_server, claims, secret):
    made = livekit_server.token("alice", "room", claims, secret)
    with pytest.raises(NotAdmitted, match="401") as caught:
        async with join(livekit_server.url, made, provider()):
            pass
    assert not any(made in text for text in said_by(caught.value))


def resting(room) -> bool:
    return {each.currentDirection for each in room._visit._subscriber.pc.getTransceivers()} == {"inactive"}


class NativeMember:
    """A participant on LiveKit's native SDK, who says a tone and hears the others."""

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.sinks: list[NativeSink] = []
        self._saying: asyncio.Task | None = None
        self.room.on("track_subscribed", lambda track, *_: self.sinks.append(NativeSink(track)))

    async def say(self, hertz: float) -> None:
        source = rtc.AudioSource(48_000, 1)
        self._saying = asyncio.ensure_future(self._feed(tone_track("aiortc", hertz), source))
        await self.room.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("voice", source))

    async def _feed(self, track, source) -> None:
        while True:
            frame = await track.recv()
            data = frame.to_ndarray().tobytes()
            await source.capture_frame(rtc.AudioFrame(data, frame.sample_rate, 1, frame.samples))

    async def leave(self) -> None:
        await self.room.disconnect()
        for task in (self._saying, *(sink._task for sink in self.sinks)):
            if task is not None:
                task.cancel()


class NativeSink(Sink):
    """Records the sound of a track of the native SDK."""

    async def _run(self) -> None:
        self.rate = 48_000
        async for event in rtc.AudioStream(self.track, sample_rate=self.rate, num_channels=1):
            self.samples.append(np.frombuffer(event.frame.data, np.int16).copy())


def hears_in(path: Path, hertz: float) -> bool:
    """Return True if the file that is being written has a second of this tone."""
    samples: list[np.ndarray] = []
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as recording:
        for frame in recording.decode(audio=0):
            samples.append(frame.to_ndarray()[0])
    if sum(map(len, samples)) < 2 * 48_000:
        return False
    heard, purity, _ = tone(np.concatenate(samples)[-48_000:].astype(float), 48_000)
    return abs(heard - hertz) < 6 and purity > 0.9  # a busy machine loses a frame here and there


async def test_the_ten_lines_of_the_page_are_heard_and_hear(livekit_server, tmp_path, monkeypatch):
    _, source = FENCE.findall((ROOT / "docs/livekit.md").read_text("utf-8"))[0]
    assert len([line for line in source.splitlines() if line]) == 10
    monkeypatch.chdir(tmp_path)
    with wave.open("hello.wav", "wb") as hello:
        hello.setparams((1, 2, 48_000, 0, "NONE", ""))
        hello.writeframes(sine(0, 60 * 48_000, 660, 48_000).to_ndarray().tobytes())
    name, bob, eve = secrets.token_hex(8), NativeMember(), NativeMember()
    try:
        for member, identity, key in ((bob, "bob", PASSPHRASE), (eve, "eve", "another passphrase")):
            keys = rtc.KeyProviderOptions(shared_key=key.encode())
            options = rtc.RoomOptions(encryption=rtc.E2EEOptions(key_provider_options=keys))
            await member.room.connect(livekit_server.url, livekit_server.token(identity, name), options)
        given = {"url": livekit_server.url, "token": livekit_server.token("alice", name), "passphrase": PASSPHRASE}
        alice = await asyncio.create_subprocess_exec(sys.executable, "-c", TYPED, repr(given), source)
        try:
            await bob.say(440)
            await until(lambda: bob.sinks and plays(bob.sinks[0], 660), PATIENCE)
            await until(lambda: any(hears_in(path, 440) for path in tmp_path.glob("heard-*.ts")), PATIENCE)
            assert not any(plays(sink, 660) for sink in eve.sinks)
        finally:
            alice.kill()
            await alice.wait()
    finally:
        await bob.leave()
        await eve.leave()


# What `python -m asyncio` does with lines that are typed, on the loopback interface alone.
TYPED = """
import ast, asyncio, sys
import aioice.ice
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
code = compile(sys.argv[2], "docs/livekit.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
async def main():
    await eval(code, ast.literal_eval(sys.argv[1]))
asyncio.run(main())
"""


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
