"""fastrtc: an echo behind `stream.mount`, which hands out no connection, and clients that call again."""

import asyncio
import contextlib
import uuid
from importlib import metadata

import numpy as np
import pytest
from fastapi import FastAPI
from fastrtc import AsyncAudioVideoStreamHandler
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from frameworks.client import Wire, client, hears, sees
from frameworks.recipe import run
from frameworks.server import post, served
from support.calls import draw, picture_track, sine, tone_track, until


class Echo(AsyncAudioVideoStreamHandler):
    """Sends what it hears and sees. Each connection has a copy, which is listed in `copies`."""

    def __init__(self, copies: list) -> None:
        super().__init__(output_sample_rate=48000, input_sample_rate=48000)
        self.copies = copies
        self.heard = self.seen = 0
        self.sound: asyncio.Queue = asyncio.Queue()
        self.pictures: asyncio.Queue = asyncio.Queue()

    def copy(self) -> "Echo":
        self.copies.append(Echo(self.copies))
        return self.copies[-1]

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        self.heard += 1
        self.sound.put_nowait(frame)

    async def emit(self) -> tuple[int, np.ndarray]:
        return await self.sound.get()

    async def video_receive(self, frame: np.ndarray) -> None:
        self.seen += 1
        self.pictures.put_nowait(frame)

    async def video_emit(self) -> np.ndarray:
        return await self.pictures.get()


@contextlib.asynccontextmanager
async def recipe():
    """Serve the page's recipe. Returns a function that posts an offer, and the echoes of the connections."""
    copies: list[Echo] = []
    app = run("fastrtc", handler=Echo(copies))["app"]
    async with served(app) as address:
        yield lambda offer: post(f"{address}/webrtc/offer", offer | {"webrtc_id": uuid.uuid4().hex}), copies


def media(user) -> None:
    user.exchange_media(tone_track("aiortc"))
    user.exchange_media(picture_track("aiortc"))
    user.pc.createDataChannel("text")  # fastrtc waits for it


async def test_calls_and_reconnects_are_sealed_seen_and_heard():
    """A client that reconnects makes an offer with another id, and gets another connection."""
    async with recipe() as (exchange, echoes), client() as user, client() as again:
        with Wire() as wire:
            for each in (user, again):
                media(each)
                await each.call(exchange)
                await until(lambda each=each: hears(each.sink("audio")) and sees(each.sink("video")))
        assert len(echoes) == 2
        assert len(wire.ssrcs) == 8  # sound and pictures, to the bot and back, in both calls
        wire.assert_sealed(opus=200, vp8=40)


async def test_a_wrong_key_gets_nothing():
    async with recipe() as (exchange, echoes), client("another passphrase") as eve, client() as user:
        with Wire() as wire:
            media(eve)
            await eve.call(exchange)
            for number in range(60):
                echoes[0].sound.put_nowait((48000, sine(number * 960, 960, 440, 48000).to_ndarray()))
                echoes[0].pictures.put_nowait(draw(number, "red", (320, 240)).to_ndarray(format="bgr24"))
            await until(lambda: wire.count(eve.ssrcs) > 100 and wire.count(wire.ssrcs - eve.ssrcs) > 100)
            media(user)
            await user.call(exchange)
            await until(lambda: hears(user.sink("audio")) and sees(user.sink("video")))
        assert (echoes[0].heard, echoes[0].seen) == (0, 0)
        assert eve.sink("audio").empty
        assert eve.sink("video").empty
        assert all(not seen.opened for seen in wire.read(sent_by=eve.ssrcs).values())
        assert all(not seen.unopened for seen in wire.read(besides=eve.ssrcs).values())


async def test_without_the_lines_a_call_is_in_the_clear(monkeypatch):
    monkeypatch.setattr("frameseal.aiortc.attach_all", lambda *args, **options: None)
    monkeypatch.setattr("frameseal.aiortc.require_attached", lambda: None)
    async with recipe() as (exchange, _), client(None) as user:
        media(user)
        with Wire() as wire:
            await user.call(exchange)
            await until(lambda: hears(user.sink("audio")) and sees(user.sink("video")))
        assert all(seen.unopened and not seen.opened for seen in wire.read().values())


async def test_the_offer_alone_can_be_mounted():
    """`stream.mount` also opens routes that carry sound without a peer connection, which the page names."""
    names = run("fastrtc", handler=Echo([]))
    alone = FastAPI()
    alone.post("/webrtc/offer")(names["stream"].offer)
    async with served(names["app"]) as address:
        for route in ("/websocket/offer", "/telephone/handler"):
            await (await connect(address.replace("http", "ws") + route)).close()
    async with served(alone) as address, client() as user:
        for route in ("/websocket/offer", "/telephone/handler"):
            with pytest.raises(InvalidStatus):
                await connect(address.replace("http", "ws") + route)
        media(user)
        with Wire() as wire:
            await user.call(lambda offer: post(f"{address}/webrtc/offer", offer | {"webrtc_id": "1"}))
            await until(lambda: hears(user.sink("audio")) and sees(user.sink("video")))
        wire.assert_sealed(opus=100, vp8=20)


def test_the_version_is_the_one_of_the_page():
    assert metadata.version("fastrtc").startswith("0.0.34")
