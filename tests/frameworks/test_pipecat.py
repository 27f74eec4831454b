"""pipecat's transport over aiortc: an echo bot behind its request handler, and clients that reconnect."""

import asyncio
import contextlib
import logging
from importlib import metadata

from pipecat.frames.frames import InputAudioRawFrame, InputImageRawFrame, OutputAudioRawFrame, OutputImageRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams, VideoInSourceParams
from pipecat.transports.smallwebrtc.request_handler import SmallWebRTCRequest, SmallWebRTCRequestHandler
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

from frameseal.aiortc import attach, require_attached
from frameworks.client import Wire, client, hears, is_quiet, sees
from frameworks.recipe import run
from frameworks.server import post, served
from support.calls import manager, picture_track, tone_track, until

SIZE = (320, 240)


class Echo(FrameProcessor):
    """Sends what it hears and sees, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = self.seen = 0
        self.speaks = True

    async def process_frame(self, frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case InputAudioRawFrame():
                self.heard += 1
                if not self.speaks:
                    return
                frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
            case InputImageRawFrame():
                self.seen += 1
                frame = OutputImageRawFrame(frame.image, frame.size, frame.format)
        await self.push_frame(frame, direction)


class Bots:
    """The bots that a test has started."""

    def __init__(self) -> None:
        self.echoes: list[Echo] = []

    async def run(self, connection) -> None:
        params = TransportParams(
            audio_in_enabled=True,
            audio_in_sample_rate=48000,
            audio_out_enabled=True,
            audio_out_sample_rate=48000,
            video_in_enabled=True,
            video_in_sources={"camera": VideoInSourceParams()},
            video_out_enabled=True,
            video_out_is_live=True,
            video_out_width=SIZE[0],
            video_out_height=SIZE[1],
        )
        transport = SmallWebRTCTransport(connection, params)
        echo = Echo()
        self.echoes.append(echo)
        worker = PipelineWorker(Pipeline([transport.input(), echo, transport.output()]), params=PipelineParams())

        @transport.event_handler("on_client_disconnected")
        async def ended(transport, connection) -> None:
            await worker.cancel()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()


@contextlib.asynccontextmanager
async def recipe():
    """Serve the page's recipe with an echo bot. Returns a function that posts an offer, and the bots."""
    bots = Bots()
    names = run("pipecat", run_bot=bots.run)
    async with served(names["app"]) as address:
        try:
            yield lambda offer: post(f"{address}/api/offer", offer), bots
        finally:
            await names["handler"].close()


def media(user) -> None:
    user.exchange_media(tone_track("aiortc"))
    user.exchange_media(picture_track("aiortc"))


def sees_and_hears_itself(user) -> bool:
    return hears(user.sink("audio")) and sees(user.sink("video"))


async def call_again(user, second, answer, exchange, bots) -> None:
    """Let a client call the bot a second time, as pipecat's own does after 5 s without ICE."""
    # The old track of a bot that is just speaking is never read again, and pipecat gives that bot up after 10 s.
    bots.echoes[0].speaks = False
    await until(lambda: is_quiet(user.sink("audio")))
    media(second)
    await second.call(lambda offer: exchange(offer | {"pc_id": answer["pc_id"], "restart_pc": True}))
    bots.echoes[0].speaks = True


async def test_a_call_and_its_reconnect_are_sealed_seen_and_heard():
    """The bot makes a second connection, and asks nobody."""
    async with recipe() as (exchange, bots), client() as user, client() as second:
        with Wire() as wire:
            media(user)
            answer = await user.call(exchange)
            await until(lambda: sees_and_hears_itself(user))
            await call_again(user, second, answer, exchange, bots)
            await until(lambda: sees_and_hears_itself(second))
        assert len(bots.echoes) == 1
        assert len(wire.ssrcs) == 8  # sound and pictures, to the bot and back, in both calls
        wire.assert_sealed(opus=200, vp8=40)


async def test_a_wrong_key_gets_nothing():
    async with recipe() as (exchange, bots), client("another passphrase") as user:
        media(user)
        with Wire() as wire:
            await user.call(exchange)
            await until(lambda: wire.count(user.ssrcs) > 100 and wire.count(wire.ssrcs - user.ssrcs) > 100)
        assert user.sink("audio").empty
        assert user.sink("video").empty
        assert (bots.echoes[0].heard, bots.echoes[0].seen) == (0, 0)
        (silence,) = wire.read(besides=user.ssrcs).values()  # pipecat sends silence when it has nothing to say
        assert len(silence.opened) > 50
        assert silence.unopened == []
        assert all(not seen.opened for seen in wire.read(sent_by=user.ssrcs).values())


@contextlib.asynccontextmanager
async def attached_once():
    """Run a bot without `attach_all`, which attaches the connection that pipecat hands out."""
    bots, tasks = Bots(), []
    handler = SmallWebRTCRequestHandler()

    async def connected(connection) -> None:
        attach(connection.pc, manager(), local_id="bot", remote_id="user")
        tasks.append(asyncio.ensure_future(bots.run(connection)))

    async def exchange(offer: dict) -> dict:
        return await handler.handle_web_request(SmallWebRTCRequest(**offer), connected)

    try:
        yield exchange, bots
    finally:
        await handler.close()
        await asyncio.gather(*tasks)


async def test_with_attach_alone_the_reconnect_is_in_the_clear():
    async with attached_once() as (exchange, bots), client() as user, client(None) as stranger:
        media(user)
        with Wire() as wire:
            answer = await user.call(exchange)
            await until(lambda: sees_and_hears_itself(user))
            first = wire.ssrcs
            await call_again(user, stranger, answer, exchange, bots)
            await until(lambda: sees_and_hears_itself(stranger))
        assert all(not seen.unopened for seen in wire.read(sent_by=first).values())
        clear = wire.read(besides=first | stranger.ssrcs)
        assert clear.keys() == {"opus", "vp8"}
        assert all(seen.unopened and not seen.opened for seen in clear.values())


async def test_require_attached_stops_the_reconnect(caplog):
    async with attached_once() as (exchange, bots), client() as user, client() as second:
        media(user)
        require_attached()
        with Wire() as wire, caplog.at_level(logging.WARNING, "frameseal"):
            answer = await user.call(exchange)
            await until(lambda: sees_and_hears_itself(user))
            first = wire.ssrcs
            await call_again(user, second, answer, exchange, bots)
            counts = bots.echoes[0].heard, bots.echoes[0].seen
            await until(lambda: wire.count(second.ssrcs) > 200 and "is not attached" in caplog.text)
        assert wire.ssrcs == first | second.ssrcs
        assert (bots.echoes[0].heard, bots.echoes[0].seen) == counts
        assert all(sink.empty for sink in second.sinks.values())


def test_the_version_is_the_one_of_the_page():
    assert metadata.version("pipecat-ai").startswith("1.14")
