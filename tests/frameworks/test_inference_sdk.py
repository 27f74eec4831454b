"""Roboflow's inference-sdk: a session in a thread of its own makes the connection, and shows it to nobody."""

import asyncio
import contextlib
import threading

import av
from aiohttp import web
from aiortc import RTCSessionDescription
from inference_sdk import InferenceHTTPClient
from inference_sdk.webrtc import ManualSource, StreamConfig

from frameseal import E2EEState
from frameseal.aiortc import attach, stop_attaching
from frameworks.client import Wire
from frameworks.recipe import run
from support.calls import (
    FRAME_RATE,
    PASSPHRASE,
    Peer,
    Picture,
    draw,
    hang_up,
    manager,
    picture_track,
    until,
)
from support.web_server import serving_app

SIZE = (320, 240)


class Server:
    """A stand-in for the inference server: answers each session's offer, and sends pictures back.

    :param passphrase: its key. None leaves its connections unattached.
    """

    def __init__(self, passphrase: str | None) -> None:
        self._passphrase = passphrase
        self.peers: list[Peer] = []
        self.e2ee = [] if passphrase is None else [manager(passphrase)]

    async def answer(self, request: web.Request) -> web.Response:
        offer = (await request.json())["webrtc_offer"]
        peer = Peer("aiortc")
        self.peers.append(peer)
        for e2ee in self.e2ee:
            attach(peer.pc, e2ee, local_id="server", remote_id="camera")
        await peer.pc.setRemoteDescription(RTCSessionDescription(**offer))
        peer.pc.addTrack(picture_track("aiortc", size=SIZE))
        await peer.pc.setLocalDescription(await peer.pc.createAnswer())
        answer = peer.pc.localDescription
        return web.json_response({"sdp": answer.sdp, "type": answer.type})

    @property
    def sink(self):
        """The pictures of the latest session. None before its track is announced."""
        return next(iter(self.peers[-1].sinks.values()), None) if self.peers else None


@contextlib.asynccontextmanager
async def serving(passphrase: str | None = PASSPHRASE):
    """Run the stand-in on 127.0.0.1. Returns it, and its URL."""
    server = Server(passphrase)
    application = web.Application()
    application.router.add_post("/initialise_webrtc_worker", server.answer)
    async with serving_app(application) as address:
        try:
            yield server, f"http://{address}"
        finally:
            await hang_up(*server.peers)


class Streaming:
    """A session as an application has it: one thread sends pictures, another reads the server's."""

    def __init__(self, url: str) -> None:
        self.pictures: list[Picture] = []
        self.source = ManualSource()
        self.session = InferenceHTTPClient(api_url=url, api_key="unused").webrtc.stream(
            source=self.source,
            workflow={"version": "1.0", "inputs": [], "steps": [], "outputs": []},
            config=StreamConfig(stream_output=["image"]),
        )
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._read, self._send)]

    async def __aenter__(self) -> "Streaming":
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(self, *error) -> None:
        self._over.set()
        await asyncio.to_thread(self.session.close)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _read(self) -> None:
        for image, _ in self.session.video():
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            self.pictures.append(Picture.read(frame.reformat(format="yuv420p")))

    def _send(self) -> None:
        number = 0
        while not self._over.wait(1 / FRAME_RATE):
            image = draw(number, "red", SIZE).to_ndarray(format="bgr24")
            with contextlib.suppress(RuntimeError):  # the session has no track yet
                self.source.send(image)
                number += 1


def assert_in_order(pictures: list[Picture]) -> None:
    """Check that all numbers are readable and ascend. The package's RGB pictures do not keep the colour."""
    numbers = [picture.number for picture in pictures]
    assert None not in numbers
    assert numbers == sorted(set(numbers))


def states(server: Server) -> set[E2EEState]:
    return {track.state for track in server.e2ee[0].tracks()}


def ssrcs(server: Server) -> set[int]:
    return {sender._ssrc for peer in server.peers for sender in peer.pc.getSenders()}


async def test_a_session_and_the_next_one_are_sealed_and_seen():
    """A session has no reconnect: it ends when its connection fails, and the application makes another one."""
    run("inference-sdk")
    async with serving() as (server, url):
        with Wire() as wire:
            for number in (1, 2):
                async with Streaming(url) as streaming:
                    await until(lambda: len(server.peers) == number)  # noqa: B023
                    await until(lambda: len(streaming.pictures) >= 10)
                    await until(lambda: server.sink and len(server.sink.pictures) >= 10)
                assert_in_order(streaming.pictures)
                assert_in_order(server.sink.pictures)
        assert len(wire.ssrcs) == 4  # there and back, in both sessions
        wire.assert_sealed(vp8=40)


async def test_a_server_with_a_wrong_key_sees_nothing_and_shows_nothing():
    run("inference-sdk")
    async with serving("another key") as (server, url):
        with Wire() as wire:
            async with Streaming(url) as streaming:
                await until(lambda: states(server) == {E2EEState.EncryptionSuccess, E2EEState.DecryptionFailed})
                await until(lambda: wire.count(ssrcs(server)) > 50 and wire.count(wire.ssrcs - ssrcs(server)) > 50)
            assert server.sink.empty
            assert streaming.pictures == []
        (seen,) = wire.read(besides=ssrcs(server)).values()
        assert len(seen.opened) >= 10
        assert seen.unopened == []


async def test_a_session_without_the_lines_is_plain_on_the_wire():
    """So the other tests would see it."""
    async with serving(None) as (server, url):
        with Wire() as wire:
            async with Streaming(url) as streaming:
                await until(lambda: len(streaming.pictures) >= 10)
                await until(lambda: server.sink and len(server.sink.pictures) >= 10)
        (seen,) = wire.read().values()
        assert len(seen.unopened) >= 20
        assert seen.opened == []


async def test_a_session_that_the_rule_leaves_out_sends_nothing(caplog):
    """The recipe ends with `require_attached`, which holds when the rule is gone."""
    run("inference-sdk")
    stop_attaching()
    async with serving(None) as (server, url):
        with Wire() as wire:
            async with Streaming(url) as streaming:
                await until(lambda: server.peers and server.peers[0].pc.connectionState == "connected")
                await until(lambda: caplog.text.count("is not attached") == 2)  # the session's, and the server's
        assert wire.packets == []
        assert (streaming.pictures, server.sink.empty) == ([], True)
