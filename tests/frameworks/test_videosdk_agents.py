"""videosdk-agents: agents in encrypted meetings, in jobs of the package's own kind, and its ways past the meeting."""

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aioice.ice
import numpy as np
import pytest
import videosdk.room_client
from aiohttp import web
from aiortc import RTCSessionDescription
from videosdk import VideoSDK
from videosdk._events import Events
from videosdk.agents import JobContext, RoomOptions, TracesOptions, WorkerJob
from videosdk.agents.execution._mp_context import reset_mp_context_cache
from videosdk.agents.execution.resources import ProcessResource
from videosdk.agents.execution.types import TaskConfig, TaskType
from videosdk.agents.job import ObservabilityOptions, RecordingOptions, TransportMode, WebRTCConfig, WebSocketConfig
from videosdk.agents.room import _recording_manager
from videosdk.agents.room.room import VideoSDKHandler

import frameseal.videosdk as adapter
from frameseal import Decryptor, ExternalE2EEKeyProvider, FrameError, _videosdk_agents
from frameseal.aiortc import attach_all
from frameseal.videosdk import E2EEError, enable_e2ee, set_key_provider
from support.calls import Arrived, Peer, Sink, manager, plays, tone_track, until
from support.paths import ROOT
from support.videosdk_room import videosdk_room
from support.web_server import serving_app

KEY = "the key of the meeting"
# Seconds until a job has joined. Its process imports everything anew, which costs 10 s of CPU time.
JOINED = 150
AGENT = "the-agent"
NO_SERVERS = [
    {"urls": "turns:127.0.0.1:9?transport=udp"}
]  # aiortc passes over this; without any, the package asks Google


def keys(key: str = KEY) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider()
    made.set_shared_key(key)
    return made


def options(**others: Any) -> RoomOptions:
    """Return the options of an agent in the room of the test. Nothing leaves this machine."""
    made = RoomOptions(
        room_id="room",
        auth_token="a-token",
        name="Greeter",
        agent_participant_id=AGENT,
        playground=False,
        signaling_base_url="127.0.0.1:9",
        traces=TracesOptions(enabled=False),
        session_timeout_seconds=1,
    )
    for name, value in others.items():
        setattr(made, name, value)
    return made


def use_room(url: str) -> None:
    """Make the SDK of this process use the server of the test, which has no HTTPS."""
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    config = dict.fromkeys(("base_url", "observability_Jwt"), "127.0.0.1:9")
    config |= {"signaling_url": url, "ice_servers": [], "traces": {}, "logs": {}, "metaData": {}}
    videosdk.room_client.get_server_config = lambda *args: config


# --- what runs in the job's process ----------------------------------------------------------------------------------


def run_example(url: str, report: str) -> None:
    """Run examples/videosdk_agent.py as `WorkerJob` runs it, and write what it prints into a file."""
    sys.path.insert(0, str(ROOT / "examples"))
    import videosdk_agent

    use_room(url)
    os.environ.update(MEETING_KEY=KEY, MEETING_ID="room", VIDEOSDK_AUTH_TOKEN="a-token")

    def room() -> JobContext:
        context = videosdk_agent.room()
        context.room_options.signaling_base_url = "127.0.0.1:9"
        context.room_options.agent_participant_id = AGENT
        context.room_options.session_timeout_seconds = 1
        return context

    with Path(report).open("w", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(file):
        WorkerJob(entrypoint=videosdk_agent.entrypoint, jobctx=room).start()


async def connect_without_a_provider(url: str) -> list[str]:
    """Connect with each transport, in a job whose entrypoint sets no provider. Returns how each attempt ended."""
    use_room(url)
    outcomes = []
    for mode in TransportMode:
        webrtc = WebRTCConfig(signaling_url="ws://127.0.0.1:9", ice_servers=NO_SERVERS)
        context = JobContext(room_options=options(transport_mode=mode, webrtc=webrtc))
        try:
            await context.connect()
            outcomes.append("connected")
        except E2EEError as error:
            outcomes.append(str(error))
        await context.shutdown()
    return outcomes


@contextlib.asynccontextmanager
async def job(entrypoint: Any, *arguments: Any):
    """Run a job in a process that the package starts, and end the process. Yields the job's future."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("VIDEOSDK_MP_START_METHOD", "forkserver")  # as on Linux without the variable
    reset_mp_context_cache()
    resource = ProcessResource("a job", {"initialize_timeout": JOINED, "close_timeout": 0.0})
    await resource.initialize()
    task = TaskConfig(task_type=TaskType.JOB, timeout=JOINED)
    running = asyncio.ensure_future(resource._execute_task_impl("task", task, entrypoint, arguments, {}))
    try:
        yield running
    finally:
        assert resource.process is not None
        resource.process.kill()
        await asyncio.gather(running, return_exceptions=True)
        await resource.shutdown()
        monkeypatch.undo()


# --- who is in the room ----------------------------------------------------------------------------------------------


class Guest:
    """A participant who sends a tone, and hears the others."""

    def __init__(self, name: str, key: str | None, hertz: float | None = None, meeting_id: str = "room") -> None:
        self.sinks: dict[str, Sink] = {}
        self.meeting = VideoSDK.init_meeting(
            meeting_id=meeting_id,
            token="a-token",
            participant_id=name,
            name=name,
            mic_enabled=hertz is not None,
            webcam_enabled=False,
            custom_microphone_audio_track=tone_track("vsaiortc", hertz or 440),
            loop=asyncio.get_running_loop(),
        )
        if key is not None and not self.meeting.is_e2ee_enabled:
            enable_e2ee(self.meeting, keys(key))
        room = adapter._room_of(self.meeting)
        room.on(Events.ADD_CONSUMER, self._consume)

    def _consume(self, consumer: Any) -> None:
        self.sinks[consumer.appData["peerId"]] = Sink(consumer.track)


@pytest.fixture(autouse=True)
def in_the_clear_again(monkeypatch):
    # The package's jobs call these too; in this process they last as long as the test.
    monkeypatch.setattr(videosdk.room_client, "get_server_config", videosdk.room_client.get_server_config)
    monkeypatch.setattr(aioice.ice, "get_host_addresses", aioice.ice.get_host_addresses)
    yield
    set_key_provider(None)
    adapter._default.plain = []


def opened(payloads: list[bytes], key: str = KEY) -> list[bytes]:
    """Open the payloads of audio, each of which is one frame. Raises for a payload that is not sealed."""
    decryptor = Decryptor(keys(key).ring_for("videosdk", AGENT), codec="opus")
    return [decryptor.decrypt(payload) for payload in payloads]


# --- meetings --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(2 * JOINED)
async def test_the_example_is_sealed_and_heard_and_hears_in_a_job_of_the_package(tmp_path):
    report = tmp_path / "printed"
    async with videosdk_room() as room:
        use_room(room.url)
        bob, eve = Guest("bob", KEY, 440), Guest("eve", "another key")
        async with job(run_example, room.url, str(report)) as running:
            await eve.meeting.async_join()
            await bob.meeting.async_join()
            await until(lambda: running.done() or (AGENT in bob.sinks and plays(bob.sinks[AGENT], 660)), JOINED)
            await until(lambda: running.done() or "heard" in report.read_text("utf-8"))
            assert not running.done(), running.result()
            bob.meeting.leave()
            eve.meeting.leave()
            await until(lambda: not room.peers.keys() & {"bob", "eve"})
        payloads = room.payloads(AGENT)
    assert report.read_text("utf-8") == "agent: heard 440 hertz\n"
    assert len(payloads) > 50
    assert len(opened(payloads)) == len(payloads)
    with pytest.raises(FrameError):
        opened(payloads[:1], "another key")
    assert eve.sinks[AGENT].empty


@pytest.mark.timeout(2 * JOINED)
async def test_a_provider_of_the_parent_alone_lets_no_job_send():
    set_key_provider(keys())
    async with videosdk_room() as room, job(connect_without_a_provider, room.url) as running:
        meeting, web_socket, plain = await running
        assert "set in the parent process" in meeting
        assert "call set_key_provider() in this process" in meeting
        assert "TransportMode.WEBSOCKET is not end-to-end encrypted" in web_socket
        assert "attach_all(e2ee, local_id=" in plain
        assert (room.requests, room.payloads(AGENT)) == ([], [])


async def test_a_job_without_encryption_sends_as_ever():
    async with videosdk_room() as room:
        use_room(room.url)
        context = JobContext(room_options=options())
        await context.connect()
        await until(lambda: len(room.payloads(AGENT)) > 20)
        await context.shutdown()
        with pytest.raises(FrameError):
            opened(room.payloads(AGENT)[:1])


# --- the plain connection --------------------------------------------------------------------------------------------


class WebRTCClient:
    """A client of `TransportMode.WEBRTC`: a signalling server, and a peer of aiortc."""

    def __init__(self) -> None:
        self.peer = Peer("aiortc")

    async def signal(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            offer = json.loads(message.data)
            await self.peer.pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
            self.peer.pc.addTrack(tone_track("aiortc", 440))
            await self.peer.pc.setLocalDescription(await self.peer.pc.createAnswer())
            answer = self.peer.pc.localDescription
            await socket.send_json({"sdp": answer.sdp, "type": answer.type})
        return socket


@contextlib.asynccontextmanager
async def webrtc_job(client: WebRTCClient):
    """Yield the context of a job with `TransportMode.WEBRTC`, which calls *client*."""
    application = web.Application()
    application.router.add_get("/", client.signal)
    async with serving_app(application) as address:
        context = JobContext(
            room_options=options(
                transport_mode=TransportMode.WEBRTC,
                webrtc=WebRTCConfig(signaling_url=f"http://{address}/", ice_servers=NO_SERVERS),
            )
        )
        try:
            yield context
        finally:
            await context.shutdown()
            await client.peer.pc.close()


async def test_a_plain_connection_beside_a_provider_is_refused_until_it_is_attached():
    async with webrtc_job(WebRTCClient()) as context:
        set_key_provider(keys())
        with pytest.raises(
            E2EEError, match=r"webrtc_handler makes a plain RTC.*attach_all\(e2ee, local_id="
        ) as refusal:
            await context.connect()
        assert KEY not in str(refusal.value)
    attach_all(manager(KEY, "videosdk"), local_id=AGENT, remote_id="client")
    client = WebRTCClient()
    with Arrived("aiortc") as arrived:
        async with webrtc_job(client) as context:
            await context.connect()
            voice = context.room.audio_track
            sounding = asyncio.ensure_future(speak(voice))
            await until(lambda: client.peer.sinks and plays(next(iter(client.peer.sinks.values())), 660))
            sounding.cancel()
            ssrc = context.room.pc.getSenders()[0]._ssrc
            payloads = [packet.payload for packet in arrived.packets if packet.ssrc == ssrc and packet.payload]
    assert len(payloads) > 20
    assert len(opened(payloads)) == len(payloads)


async def speak(track: Any) -> None:
    """Queue a tone for an agent, half a second at a time."""
    tone = (8000 * np.sin(2 * np.pi * 660 / 24000 * np.arange(12000))).astype(np.int16).tobytes()
    while True:
        await track.add_new_bytes(tone)
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("left_out", [False, True], ids=["without a provider", "left out by only"])
async def test_a_plain_connection_that_nobody_refuses_is_as_ever(left_out):
    if left_out:
        attach_all(manager(KEY), local_id=AGENT, remote_id="client", only=lambda pc: False)
        set_key_provider(keys())
    client = WebRTCClient()
    async with webrtc_job(client) as context:
        await context.connect()
        sounding = asyncio.ensure_future(speak(context.room.audio_track))
        await until(lambda: client.peer.sinks and plays(next(iter(client.peer.sinks.values())), 660))
        sounding.cancel()
        if not left_out:
            with pytest.raises(E2EEError, match="plain RTCPeerConnection before the key provider was set"):
                set_key_provider(keys())


async def test_a_web_socket_beside_a_provider_is_refused():
    set_key_provider(keys())
    context = JobContext(
        room_options=options(transport_mode=TransportMode.WEBSOCKET, websocket=WebSocketConfig(port=0))
    )
    with pytest.raises(E2EEError, match=r"TransportMode\.WEBSOCKET is not end-to-end encrypted"):
        await context.connect()
    assert context.room is None
    set_key_provider(None)
    await context.connect()
    await context.shutdown()


# --- recordings, avatars, transcripts --------------------------------------------------------------------------------


@pytest.fixture
def posted(monkeypatch):
    """Return the addresses that the package sends requests to, none of which leaves."""
    found: list[str] = []

    def post(url: str, **request: Any) -> Any:
        found.append(url)
        return SimpleNamespace(text="", status_code=200, raise_for_status=lambda: None)

    monkeypatch.setattr(_recording_manager.requests, "post", post)
    return found


def handler_of(meeting_id: str, **others: Any) -> VideoSDKHandler:
    """Return an agent's end of a meeting, as the package makes it."""
    return VideoSDKHandler(
        meeting_id=meeting_id,
        auth_token="a-token",
        name="Greeter",
        agent_participant_id=AGENT,
        agent_id="agent",
        pipeline=None,
        loop=asyncio.get_running_loop(),
        **others,
    )


@pytest.mark.parametrize(
    "recording",
    [
        {"recording": True},
        {"recording": True, "recording_options": RecordingOptions(video=True)},
        {"observability": ObservabilityOptions(recording=RecordingOptions())},
    ],
    ids=["recording", "with video", "observability"],
)
async def test_a_recording_of_an_encrypted_meeting_is_refused_and_not_requested(recording, posted):
    set_key_provider(keys())
    async with videosdk_room() as room:
        use_room(room.url)
        context = JobContext(room_options=options(**recording))
        with pytest.raises(E2EEError, match=r"the server cannot record it, only noise\. Record in a participant"):
            await context.connect()
        await context.shutdown()
        assert room.requests == []
    assert posted == []


async def test_every_request_that_starts_a_recording_is_refused(posted):
    async def request_all(handler: VideoSDKHandler) -> int:
        refused = 0
        for request in (
            lambda: handler.recording_manager.start_participant_recording("bob"),
            lambda: handler.recording_manager.start_track_recording("bob", "audio"),
            lambda: handler.start_participant_recording("bob"),
            lambda: handler._start_base_recording_for_participant("bob"),
        ):
            try:
                await request()
            except E2EEError as error:
                assert "Record in a participant that has the key" in str(error)
                refused += 1
        return refused

    handler = handler_of("recorded")
    assert await request_all(handler) == 0
    assert len(posted) == 4
    set_key_provider(keys())
    assert await request_all(handler) == 4
    set_key_provider(None)
    guest = Guest("bob", KEY, meeting_id="recorded")  # encrypted by itself: so is its room, and no other
    assert await request_all(handler) == 4
    other = handler_of("another room")
    assert await request_all(other) == 0
    assert len(posted) == 8
    assert guest.meeting.is_e2ee_enabled


async def test_an_avatar_that_would_receive_the_speech_in_the_clear_is_refused(monkeypatch):
    class AvatarAudioOut:
        """Stand in for the package's class, whose module Python 3.11 cannot parse."""

    monkeypatch.setitem(sys.modules, _videosdk_agents.AVATARS, module("avatar", AvatarAudioOut=AvatarAudioOut))
    set_key_provider(keys())
    async with videosdk_room() as room:
        use_room(room.url)
        handler = handler_of("room", audio_sinks=[AvatarAudioOut()])
        with pytest.raises(E2EEError, match="data messages in the clear: leave out avatar="):
            await handler.connect()
        assert room.requests == []


async def test_traces_with_transcripts_are_reported_once(caplog, monkeypatch):
    monkeypatch.setattr(adapter._detours, "_warned", False)
    set_key_provider(keys())
    with caplog.at_level(logging.WARNING, "frameseal"):
        async with videosdk_room() as room:
            use_room(room.url)
            for traces in (TracesOptions(enabled=False), TracesOptions(), TracesOptions()):
                context = JobContext(room_options=options(traces=traces))
                await context.connect()
                await context.shutdown()
    assert len(re.findall(r"transcripts of an encrypted meeting.*TracesOptions\(enabled=False\)", caplog.text)) == 1


# --- other versions --------------------------------------------------------------------------------------------------


def module(name: str, **names: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


class Job:
    async def connect(self) -> None: ...


class Handler:
    async def join(self) -> None: ...


class Recordings:
    async def start_all(self) -> None: ...


@pytest.mark.parametrize(
    ("rooms", "error"),
    [
        ({"VideoSDKHandler": Handler, "RecordingManager": Recordings}, None),
        ({"VideoSDKHandler": Handler}, "RecordingManager"),
        ({"RecordingManager": Recordings}, "VideoSDKHandler"),
        ({"VideoSDKHandler": type("Handler", (), {"join": print}), "RecordingManager": Recordings}, "join is no corou"),
        ({"VideoSDKHandler": Handler, "RecordingManager": type("None", (), {})}, "no method that starts a recording"),
        (None, "videosdk.agents.room.room is missing"),
    ],
    ids=["as known", "no manager", "no handler", "another join", "no start", "no module"],
)
def test_a_version_with_other_names_makes_no_encrypted_meeting(rooms, error, monkeypatch):
    monkeypatch.setattr(_videosdk_agents, "after_import", lambda covers, then: None)
    for cls, name in ((Job, "connect"), (Handler, "join"), (Recordings, "start_all")):
        monkeypatch.setattr(cls, name, vars(cls)[name])
    detours = _videosdk_agents.Detours(lambda meeting_id: True)
    detours._hook(module(_videosdk_agents.JOBS, JobContext=Job))
    if rooms is not None:
        detours._hook(module(_videosdk_agents.ROOMS, **rooms))
    makes = "def make(check):\n    check()"
    elsewhere, inside = {"__name__": "application"}, {"__name__": "videosdk.agents.room.room"}
    exec(makes, elsewhere)
    exec(makes, inside)
    elsewhere["make"](detours.check_meeting)
    if error is None:
        inside["make"](detours.check_meeting)
        return
    with pytest.raises(E2EEError, match=rf"videosdk-agents is not built the way .*{error}.*install videosdk-agents 1"):
        inside["make"](detours.check_meeting)


async def test_an_object_without_a_known_attribute_is_refused_while_encryption_is_on(monkeypatch):
    context = JobContext(room_options=options())
    del context.room_options
    set_key_provider(keys())
    with pytest.raises(E2EEError, match="is not built the way"):
        await context.connect()
