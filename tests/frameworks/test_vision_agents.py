"""Agents of vision-agents with its transport over getstream 4, through a server that takes the place of Stream's."""

import contextlib

import numpy as np
import pytest
from getstream import AsyncStream
from vision_agents.core import Agent, User
from vision_agents.core.llm.llm import LLM
from vision_agents.core.processors.base_processor import AudioProcessorPublisher, VideoProcessorPublisher
from vision_agents.plugins import getstream as stream

from frameseal.getstream import _State
from frameworks.recipe import run
from frameworks.stream_members import KEYS, SECRET, WRONG, encryption, member, pictures, tone, use
from frameworks.stream_server import StreamServer
from support.calls import Sink, plays, shows, until
from support.calls import tone as loudest

PAGE = "vision-agents"


class Ears(AudioProcessorPublisher):
    """The agent's voice, and its record of what it hears."""

    name = "ears"

    def __init__(self) -> None:
        super().__init__()
        self.track = tone(900)
        self.heard: list[np.ndarray] = []
        self.rate = 0

    def publish_audio_track(self):
        return self.track

    async def process_audio(self, audio_data) -> None:
        samples = audio_data.to_int16().samples
        self.rate = audio_data.sample_rate
        self.heard.append(samples.reshape(-1))

    def hears(self, hertz: float) -> bool:
        sound = np.concatenate(self.heard) if self.heard else np.zeros(0)
        if not self.rate or len(sound) < 1.2 * self.rate:
            return False
        found, purity, _ = loudest(sound[-self.rate :].astype(float), self.rate)
        return abs(found - hertz) < 6 and purity > 0.97


class Eyes(VideoProcessorPublisher):
    """The agent's picture, and its record of what it sees."""

    name = "eyes"

    def __init__(self) -> None:
        super().__init__()
        self.track = pictures("blue")
        self.sinks: list[Sink] = []

    def publish_video_track(self):
        return self.track

    async def process_video(self, track, participant_id, shared_forwarder=None) -> None:
        self.sinks.append(Sink(track))

    async def stop_processing(self) -> None:
        self.sinks.clear()

    @property
    def sees(self) -> bool:
        return any(sink.pictures for sink in self.sinks)


class Silent(LLM):
    """A model that says nothing."""

    async def simple_response(self, text, participant=None):
        return
        yield


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(_State, "rule", None)
    with StreamServer() as made:
        use(made, monkeypatch)
        monkeypatch.setenv("STREAM_API_KEY", "key")
        monkeypatch.setenv("STREAM_API_SECRET", SECRET)
        yield made


@contextlib.asynccontextmanager
async def agent(server: StreamServer, keys: dict[str, bytes] | None):
    """Let an agent join the call, with the lines of the recipe if it has keys, and leave at the end."""
    if keys is not None:
        run(PAGE, KEYS=keys)
    ears, eyes, edge = Ears(), Eyes(), stream.Edge()
    edge.client = AsyncStream(api_key="key", api_secret=SECRET, base_url=server.url)
    made = Agent(edge=edge, agent_user=User(id="agent"), llm=Silent(), processors=[ears, eyes])
    call = await made.create_call("default", "call")
    try:
        async with made.join(call, participant_wait_timeout=0):
            yield made, ears, eyes
    finally:
        for track in (ears.track, eyes.track):
            track.stop()


def assert_sealed(server, user_id: str) -> None:
    """Check every frame that the SFU has seen of a user."""
    published = [each for each in server.tracks if each.session.user_id == user_id]
    assert published
    for each in published:
        opened, unopened = each.read(KEYS[user_id])
        assert unopened == []
        assert opened >= 20


async def test_an_agent_hears_and_sees_and_is_heard_and_seen(server):
    async with member(server, "alice", encryption(KEYS)) as alice:
        await alice.publish(tone(450), pictures("red"))
        async with agent(server, KEYS) as (_, ears, eyes):
            await until(lambda: alice.sink("agent", "audio") and plays(alice.sink("agent", "audio"), 900))
            await until(lambda: shows(alice.sink("agent", "video"), "blue"))
            await until(lambda: ears.hears(450))
            await until(lambda: eyes.sinks and shows(eyes.sinks[-1], "red"))
            assert_sealed(server, "agent")
            assert_sealed(server, "alice")
            assert {body.get("e2ee") for body in server.joins} == {True}


async def test_a_wrong_key_gives_an_agent_nothing_and_others_nothing_of_it(server):
    async with member(server, "alice", encryption(KEYS)) as alice:
        await alice.publish(tone(450), pictures("red"))
        async with agent(server, {"alice": WRONG, "agent": WRONG}) as (_, ears, eyes):
            await until(lambda: alice.e2ee.state("agent", "audio") == "DecryptionFailed")
            await until(lambda: len(server.of("agent", "video").packets) > 30)
            assert not alice.heard
            assert not ears.heard
            assert not eyes.sees
            assert {kind: server.of("agent", kind).read(WRONG)[1] for kind in ("audio", "video")} == {
                "audio": [],
                "video": [],
            }


@pytest.mark.parametrize("strategy", ["FAST", "REJOIN", "MIGRATE"])
async def test_an_agent_that_reconnects_stays_sealed(server, strategy):
    async with member(server, "alice", encryption(KEYS)) as alice:
        await alice.publish(tone(450))
        async with agent(server, KEYS) as (made, ears, _):
            await until(lambda: alice.sink("agent", "audio") and plays(alice.sink("agent", "audio"), 900))
            before, sinks = len(server.tracks), len(alice.sinks)
            if strategy == "FAST":
                await server.run(server.drop_sockets("agent"))
            else:
                await made.edge._connection.reconnector.reconnect(strategy, "a test")
            await until(lambda: server.of("agent", "audio", after=before))
            await until(lambda: len(alice.sinks) > sinks and plays(alice.sink("agent", "audio"), 900))
            await until(lambda: len(server.of("agent", "video", after=before).frames()) > 20)
            ears.heard.clear()
            await until(lambda: ears.hears(450))
            assert_sealed(server, "agent")


async def test_an_agent_without_the_line_is_in_the_clear(server):
    """The look at the wire finds what it looks for."""
    async with agent(server, None):
        await until(lambda: server.of("agent", "audio") and len(server.of("agent", "audio").packets) > 20)
        opened, unopened = server.of("agent", "audio").read(KEYS["agent"])
        assert opened == 0
        assert len(unopened) > 15
