"""streamlit-webrtc: a Streamlit server runs the page's recipe as its script, and clients speak its web socket.

Each click runs the script again, in a thread of its own. The script's thread makes the connection. Media run on the
server's loop.
"""

import asyncio
import contextlib
import json
import socket
from importlib import metadata

import streamlit.runtime
from streamlit import config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.web.server import Server
from websockets.asyncio.client import connect

from frameseal.aiortc.rule import process
from frameworks.client import Wire, client, hears, sees
from frameworks.recipe import recipe
from support.calls import picture_track, tone_track, until


class Page:
    """What a browser does of Streamlit's protocol: it runs the script, and sets the value of the component."""

    def __init__(self, connection) -> None:
        self._connection = connection
        self._reading = asyncio.ensure_future(self._read())
        self.runs = 0
        self.faults: list[str] = []
        self.passphrase = ""  # the value of the script's text field
        self._component = self._field = ""  # ids of the component and of the text field
        self._arguments: dict = {}

    async def _read(self) -> None:
        async for data in self._connection:
            message = ForwardMsg.FromString(data)
            self.runs += message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY and message.HasField(
                "script_finished"
            )
            element = message.delta.new_element
            if element.HasField("exception"):
                self.faults.append(element.exception.message)
            if element.HasField("text_input"):
                self._field = element.text_input.id
            if element.HasField("component_instance"):
                self._component = element.component_instance.id
                self._arguments = json.loads(element.component_instance.json_args)

    async def run(self, value: dict | None = None) -> None:
        """Run the script, as a click does, with a value of the component."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        widgets = message.rerun_script.widget_states.widgets
        if self._field:
            widgets.add(id=self._field, string_value=self.passphrase)
        if value is not None:
            widgets.add(id=self._component, json_value=json.dumps(value))
        before = self.runs
        await self._connection.send(message.SerializeToString())
        await until(lambda: self.runs > before or self.faults)
        assert self.faults == []

    async def offer(self, offer: dict) -> dict:
        """Send an offer, and return the answer, as the component's frontend does."""
        await self.run({"playing": False, "sdpOffer": offer})
        await until(lambda: self._arguments.get("sdp_answer_json") or self.faults)
        assert self.faults == []
        return json.loads(self._arguments["sdp_answer_json"])

    async def click(self) -> None:
        """Run the script again during the call."""
        await self.run({"playing": True})

    async def close(self) -> None:
        await self._connection.close()
        await self._reading


@contextlib.asynccontextmanager
async def served(script, tmp_path):
    """Serve a script in the test's loop. Returns a function that opens a page."""
    path = tmp_path / "app.py"
    path.write_text(script, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for option, value in {"address": "127.0.0.1", "port": port, "headless": True, "fileWatcherType": "none"}.items():
        config.set_option(f"server.{option}", value)
    server, pages = Server(str(path), is_hello=False), []
    await server.start()

    async def page() -> Page:
        pages.append(Page(await connect(f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"])))
        await pages[-1].run()
        return pages[-1]

    try:
        yield page
    finally:
        for each in pages:
            await each.close()
        server.stop()
        await server.stopped
        streamlit.runtime.Runtime._instance = None  # one per process, and each test starts one


def media(user) -> None:
    user.exchange_media(picture_track("aiortc"))
    user.exchange_media(tone_track("aiortc"))


async def test_calls_clicks_and_reconnects_are_sealed_seen_and_heard(tmp_path):
    async with served(recipe("streamlit-webrtc"), tmp_path) as open_page, client() as user, client() as again:
        page = await open_page()
        rules = {process.rule}
        with Wire() as wire:
            for each in (user, again):
                media(each)
                await each.call(page.offer)
                for _ in range(3):
                    await page.click()
                    rules.add(process.rule)
                await until(lambda each=each: hears(each.sink("audio")) and sees(each.sink("video")))
                await page.run({"playing": False})  # stops the call
        assert len(rules) > 3
        assert len(wire.ssrcs) == 8  # sound and pictures, to the server and back, in both calls
        wire.assert_sealed(opus=200, vp8=40)


async def test_a_wrong_key_gets_nothing(tmp_path):
    async with (
        served(recipe("streamlit-webrtc"), tmp_path) as open_page,
        client("another passphrase") as eve,
        client() as user,
    ):
        with Wire() as wire:
            for each in (eve, user):
                media(each)
                await each.call((await open_page()).offer)
            await until(lambda: wire.count(eve.ssrcs) > 100)
            await until(lambda: hears(user.sink("audio")) and sees(user.sink("video")))
        assert eve.sink("audio").empty
        assert eve.sink("video").empty
        assert all(not seen.opened for seen in wire.read(sent_by=eve.ssrcs).values())
        assert all(not seen.unopened for seen in wire.read(besides=eve.ssrcs).values())


async def test_each_session_has_its_own_key_whoever_called_last(tmp_path):
    async with (
        served(recipe("streamlit-webrtc", 2), tmp_path) as open_page,
        client("the key of the first") as first,
        client("the key of the second") as second,
    ):
        pages = [await open_page(), await open_page()]
        for page, name in zip(pages, ("first", "second"), strict=True):
            page.passphrase = f"the key of the {name}"
            await page.run()
        with Wire() as wire:
            media(first)
            await first.call(pages[0].offer)  # the second session has called attach_all last
            media(second)
            await second.call(pages[1].offer)
            for each in (first, second):
                await until(lambda each=each: hears(each.sink("audio")) and sees(each.sink("video")))
        opened = [wire.read(f"the key of the {name}") for name in ("first", "second")]
        for codec in ("opus", "vp8"):
            both = [len(seen[codec].opened) for seen in opened]
            assert min(both) > 0
            assert sum(both) == len(opened[0][codec].opened) + len(opened[0][codec].unopened)


async def test_without_the_lines_a_call_is_in_the_clear(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.aiortc.attach_all", lambda *args, **options: None)
    monkeypatch.setattr("frameseal.aiortc.require_attached", lambda: None)
    async with served(recipe("streamlit-webrtc"), tmp_path) as open_page, client(None) as user:
        media(user)
        with Wire() as wire:
            await user.call((await open_page()).offer)
            await until(lambda: hears(user.sink("audio")) and sees(user.sink("video")))
        assert all(seen.unopened and not seen.opened for seen in wire.read().values())


def test_the_version_is_the_one_of_the_page():
    assert metadata.version("streamlit-webrtc").startswith("0.79")
